"""A few cases that stand for many."""

from __future__ import annotations

from collections.abc import Sequence


def spread(cases: Sequence[str], most: int) -> list[str]:
    """At most so many cases, evenly over the list, always the same ones."""
    number = min(most, len(cases))
    return [cases[(2 * i + 1) * len(cases) // (2 * number)] for i in range(number)]
