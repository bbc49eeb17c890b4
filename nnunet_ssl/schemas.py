"""Versions of the forms of our files: an older form is read, a newer one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import StateError

STUDY = 3
"""Of `held_out.json` and `audit.json`; files without a version are of the first, which had no Dice of uncalibrated labels. The second
did not say of which teacher it was, and its areas of different scores were of different cases."""
SIDECAR = 1
"""Of `nnssl.json` of a stage dataset."""
PUBLISHED = 1
"""Of `nnssl_published.json`; files without a version are of the first."""


def schema_of(content: Mapping[str, Any], newest: int, source: Path, *, first_has_none: bool = False) -> int:
    """The version of a file's form.

    Args:
        content: of the file.
        newest: version that this release writes; it reads all before.
        source: the file, for messages.
        first_has_none: whether files of the first version do not say so.

    Raises:
        StateError: if the version is newer, or none that there has been.
    """
    schema = content.get("schema", 1 if first_has_none else None)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise StateError(f"{source} has schema {schema!r}, which no version has; restore it or remove it.")
    if schema > newest:
        raise StateError(f"{source} has schema {schema}, this version reads up to {newest}; update nnunet-ssl.")
    return schema
