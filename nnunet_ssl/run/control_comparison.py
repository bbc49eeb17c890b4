"""A run's student and that of its control, case by case."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.validation_summary import case_dice
from nnunet_ssl.pseudolabel.run import Run


@dataclass(frozen=True)
class Comparison:
    """Dice on validation cases that neither has seen: means over the classes of each case.

    A class that neither truth nor prediction has counts as 1, so that what one of the two invents counts as much as what it misses.
    """

    where: str
    """For instance `fold 0`."""
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
        return (
            f"{self.where}, {len(differences)} validation cases: student {statistics.fmean(self.student):.4f}, control "
            f"{statistics.fmean(self.control):.4f}, difference {statistics.fmean(differences):+.4f}{spread}"
        )


def compare(run: Run, control: ModelLocation) -> Comparison:
    """The last student of a run and a model of its control on the validation cases of their fold.

    Raises:
        StateError: if no case has a figure of both.
    """
    models = [last_student(run), control]
    student, other = (case_dice(model, run.fold, of_absent=1.0) for model in models)
    cases = sorted(set(student) & set(other))
    if not cases:
        summaries = " and ".join(str(model.validation_summary(run.fold)) for model in models)
        raise StateError(f"{summaries} have no figure of the same case; remove both and give the command again.")
    found = tuple(student[case] for case in cases), tuple(other[case] for case in cases)
    return Comparison(f"fold {run.fold}", *found)


def last_student(run: Run) -> ModelLocation:
    """The student of the last stage that is written."""
    return run.student(run.manifest.stages[-1].stage)


def comparison_lines(name: str, found: Sequence[Comparison]) -> list[str]:
    """One line per fold, one over all of them, and what none of them says.

    Args:
        name: of the control.
        found: one per fold.
    """
    lines = [f"against the control '{name}':", *(f"  {each.describe()}" for each in found)]
    if len(found) > 1:
        student, control = ([dice for each in found for dice in getattr(each, which)] for which in ("student", "control"))
        together = Comparison("all folds", tuple(student), tuple(control))
        lines.append(f"  {together.describe()}")
    return [*lines, "  one training each: two trainings of one kind differ as well, by how much the standard error does not say"]
