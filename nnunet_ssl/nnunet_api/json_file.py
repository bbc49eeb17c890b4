"""JSON files that somebody else may have written or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: if the file is unreadable or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__} where a JSON object is expected.")
    return content


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where the file is missing, unreadable or holds something else."""
    try:
        return read_json(path)
    except InputError:
        return None
