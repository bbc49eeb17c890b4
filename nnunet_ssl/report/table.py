"""A table that is written as CSV with all its digits and shown on the page with a few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.files import write_csv

MISSING = "\N{EN DASH}"
"""What stands on the page where there is no value; the cell in the CSV is empty."""


@dataclass(frozen=True)
class Column:
    """One column."""

    key: str
    """Name in the CSV, and of the value in a row."""
    heading: str
    """Heading on the page."""
    form: str = "{}"
    """Format of a value on the page, for instance `{:.3f}`."""
    is_text: bool = False
    """Whether it holds words, which are set flush left."""
    is_shown: bool = True
    """Whether the page has it, too, and not the CSV alone."""


@dataclass(frozen=True)
class Table:
    """Columns and rows of values; a value that is missing or None is an empty cell."""

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def shown(self) -> tuple[Column, ...]:
        """Columns of the page."""
        return tuple(column for column in self.columns if column.is_shown)

    def cells(self) -> list[list[str]]:
        """The rows as they stand on the page, not escaped."""
        return [[MISSING if row.get(c.key) is None else c.form.format(row[c.key]) for c in self.shown] for row in self.rows]

    def write(self, path: Path) -> None:
        """Write the table as CSV, real numbers with six decimals."""
        write_csv(path, [c.key for c in self.columns], [{k: _exact(v) for k, v in row.items()} for row in self.rows])

    def is_written_in(self, path: Path) -> bool:
        """Whether a file is a CSV of such a table, by its heading."""
        heading = f"{','.join(c.key for c in self.columns)}\n".encode()
        return path.is_file() and path.read_bytes().startswith(heading)


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table from any sequences."""
    return Table(tuple(columns), tuple(rows))


def _exact(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value
