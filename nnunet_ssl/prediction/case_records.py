"""What the folder of `-o` remembers of finished cases, one file each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.files import write_json
from nnunet_ssl.nnunet_api.json_file import read_json_or_none

Stamp = list[list[int]]
"""Size and modification time of every image file of a case."""


@dataclass(frozen=True, kw_only=True)
class CaseRecord:
    """One finished case."""

    stamp: Stamp
    """Of the image files that it was predicted from."""
    row: dict[str, Any]
    """Of the table; `case` is in it."""
    files: dict[str, str]
    """Fingerprint of every file that was written, by its path below the folder of `-o`: whoever changes a file makes it theirs."""


@dataclass(frozen=True)
class CaseRecords:
    """The records of all finished cases; those that are damaged, or lie where another case has its own, are none."""

    folder: Path
    """Of the records; need not exist."""

    def find(self, case: str) -> CaseRecord | None:
        """The record of a case, where there is one."""
        content = read_json_or_none(self._file(case)) or {}
        stamp, row, files = (content.get(key) for key in ("stamp", "row", "files"))
        if not isinstance(stamp, list) or not isinstance(row, dict) or not isinstance(files, dict) or row.get("case") != case:
            return None
        return CaseRecord(stamp=stamp, row=row, files=files)

    def all(self) -> list[CaseRecord]:
        """Every record, by the names of their files."""
        found = (self.find(path.stem) for path in sorted(self.folder.glob("*.json")))
        return [record for record in found if record is not None]

    def write(self, record: CaseRecord) -> None:
        """Remember a case, in place of what is remembered of it."""
        write_json(self._file(record.row["case"]), asdict(record))

    def remove(self, record: CaseRecord) -> None:
        """Forget a case."""
        self._file(record.row["case"]).unlink(missing_ok=True)

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.json"
