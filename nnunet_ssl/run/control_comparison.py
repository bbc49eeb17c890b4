"""A run's student and that of its control, case by case."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_ssl.pseudolabel.rollback import case_dice
from nnunet_ssl.pseudolabel.run import Run


@dataclass(frozen=True)
class Comparison:
    """Dice on validation cases that neither has seen: means over the classes of each case, which are in truth or prediction."""

    fold: int | str
    student: tuple[float, ...]
    """One number per case."""
    control: tuple[float, ...]
    """Of the same cases, in the same order."""

    def describe(self) -> str:
        """One line: both means, their difference, and its standard error over the cases."""
        differences = [s - c for s, c in zip(self.student, self.control, strict=True)]
        spread = ""
        if len(differences) > 1:
            spread = f", standard error over the cases {statistics.stdev(differences) / math.sqrt(len(differences)):.4f}"
        where = f"fold {self.fold}" if self.fold != "" else "all folds"
        return (
            f"{where}, {len(differences)} validation cases: student {statistics.fmean(self.student):.4f}, control "
            f"{statistics.fmean(self.control):.4f}, difference {statistics.fmean(differences):+.4f}{spread}"
        )


def compare(run: Run, control: Run) -> Comparison | None:
    """The last students of a run and its control on the validation cases of their fold; None for `all`, which has none."""
    if run.fold == "all":
        return None
    student, other = (case_dice(each.student(each.manifest.stages[-1].stage), each.fold) for each in (run, control))
    cases = sorted(set(student) & set(other))
    return Comparison(run.fold, tuple(student[c] for c in cases), tuple(other[c] for c in cases)) if cases else None


def comparison_lines(name: str, found: Sequence[Comparison]) -> list[str]:
    """One line per fold, one over all of them, and what none of them says.

    Args:
        name: of the control.
        found: one per fold.
    """
    lines = [f"against the control '{name}':", *(f"  {each.describe()}" for each in found)]
    if len(found) > 1:
        student, control = ([dice for each in found for dice in getattr(each, which)] for which in ("student", "control"))
        lines.append(f"  {Comparison('', tuple(student), tuple(control)).describe()}")
    return [*lines, "  one training each: two trainings of one kind differ as well, by how much the standard error does not say"]
