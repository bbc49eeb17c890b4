"""Which cases of a pool are preprocessed while its index is not written yet."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_ssl.data.files import TEMPORARY_PREFIX, remove_leftovers, write_json
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.nnunet_api.json_file import read_json


class PoolProgress:
    """A folder with one small file for every case that is done, so that any number of processes and machines may add to it at once."""

    def __init__(self, folder: Path) -> None:
        """Name the folder, which is made with the first case."""
        self.folder = folder

    def add(self, case: str, stamp: Any) -> None:
        """Remember a case and what its images looked like."""
        path, content = self.folder / f"{case}.json", {"stamp": stamp}
        try:
            write_json(path, content)
        except FileNotFoundError:  # another process has removed the folder, which was empty
            write_json(path, content)

    def stamps(self) -> dict[str, Any]:
        """What is remembered, by case."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            if not path.name.startswith(TEMPORARY_PREFIX):
                with suppress(NnsslError, KeyError):  # damaged, or taken into the index by another process a moment ago
                    found[path.stem] = read_json(path)["stamp"]
        return found

    def forget(self, cases: Iterable[str]) -> None:
        """Forget cases that stand in the index; what other processes add meanwhile stays."""
        for case in cases:
            (self.folder / f"{case}.json").unlink(missing_ok=True)
        remove_leftovers(self.folder)
        with suppress(OSError):  # it was never made, or is not empty
            self.folder.rmdir()
