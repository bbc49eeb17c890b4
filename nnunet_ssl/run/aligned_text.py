"""Lines of cells as text with aligned columns."""

from __future__ import annotations

import math
from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """The lines, each column as wide as its widest cell and flush right; every line has as many cells as the first."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def number(value: float | None, form: str) -> str:
    """A value in that format; a dash where there is none or it is NaN."""
    return "-" if value is None or math.isnan(value) else form.format(value)
