"""What the folder of `-o` remembers of cases that could not be predicted, one file each, until they are predicted or taken away."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.case_names import name_problem
from nnunet_ssl.data.files import write_json
from nnunet_ssl.nnunet_api.json_file import read_json_or_none


@dataclass(frozen=True)
class FailureRecords:
    """One record per failed case: its id, the reason, and the folder of `-i` that it failed in."""

    folder: Path
    """Of the records; need not exist."""

    def write(self, case: str, reason: str, images: Path) -> None:
        """Remember a case.

        Args:
            case: case id, or what is shown of one that cannot be used.
            reason: why it could not be predicted.
            images: folder of its images.
        """
        write_json(self._file(case), {"case": case, "reason": reason, "images": _place(images)})

    def reasons(self) -> dict[str, str]:
        """Why each case could not be predicted, by case."""
        return {record["case"]: record["reason"] for record in self._records()}

    def forget(self, case: str) -> None:
        """The case is predicted."""
        if self._read(self._file(case)) is not None:
            self._file(case).unlink()

    def forget_absent(self, images: Path, present: Collection[str]) -> None:
        """Forget the cases that failed in a folder and are no longer there: they were taken away, as the message asks for.

        Args:
            images: the folder; what failed in any other stays.
            present: its cases, good or bad.
        """
        for record in self._records():
            if record["images"] == _place(images) and record["case"] not in present:
                self._file(record["case"]).unlink(missing_ok=True)

    def _file(self, case: str) -> Path:
        # a case may have failed because of a name that no file should have
        digest = hashlib.sha256(case.encode(errors="backslashreplace")).hexdigest()
        return self.folder / f"{case if name_problem(case) is None else digest}.json"

    def _records(self) -> list[dict[str, str]]:
        return [record for path in sorted(self.folder.glob("*.json")) if (record := self._read(path)) is not None]

    def _read(self, path: Path) -> dict[str, str] | None:
        """A record; None where there is none, it is damaged, or it lies where another case has its own."""
        record: dict[str, Any] = read_json_or_none(path) or {}
        is_whole = all(isinstance(record.get(key), str) for key in ("case", "reason", "images"))
        return record if is_whole and self._file(record["case"]) == path else None


def _place(images: Path) -> str:
    return str(images.resolve())
