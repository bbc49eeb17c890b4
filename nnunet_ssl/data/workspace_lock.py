"""One process at a time writes the stages of a run."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ssl.errors import StateError


@contextmanager
def writing_stages(workspace: Path) -> Iterator[None]:
    """Hold the right to write the stages of a run; nobody waits for it.

    It is a lock on the manifest as it stands, which the operating system frees when its holder dies. A stage ends with another manifest in
    its place: who locks that one has to see whether it still says what was known of the run.

    Raises:
        StateError: if another process has it.
    """
    with (workspace / "manifest.json").open("rb+") as manifest:  # network drives lock only what is open for writing
        try:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"another process is writing a stage of {workspace}; wait for it, or end it first.") from error
        yield
