"""Teacher and published student on the validation cases of every fold (the cross-validation of the paper's Fig. 10)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.pseudolabel.publish import published_model
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.report.validation import Validation, foreground_keys, read_validation
from nnunet_ssl.run.aligned_text import aligned, number

MEAN = "mean"
"""Name of the mean over the foreground classes (regions)."""


@dataclass(frozen=True)
class FoldFigures:
    """Dice of teacher and student on the same validation cases, which neither saw."""

    fold: int
    num_cases: int
    teacher: Mapping[str, float | None]
    """By `mean` and the name of each class (region); None where no validation case has it, and everywhere if it was not validated."""
    student: Mapping[str, float | None]
    missing: str | None = None
    """The command that validates the teacher, if nobody has."""


def fold_figures(run: Run) -> FoldFigures:
    """The figures of one finished run in fold mode; a teacher of the user's own need not have been validated.

    Raises:
        StateError: if the student's validation is missing, or the two are not of as many cases.
    """
    keys, fold, published = foreground_keys(run.setup), int(run.fold), published_model(run)
    teacher, student = read_validation(run.teacher, fold, keys), read_validation(published, fold, keys)
    if student is None:
        command = training_command(run.student(run.manifest.stages[-1].stage), fold)
        raise StateError(f"{published.validation_summary(fold)} is missing; run: {command}, then the same command again")
    if teacher is None:
        dice = _dice(student)
        return FoldFigures(fold, student.num_cases, dict.fromkeys(dice), dice, training_command(run.teacher, fold))
    if teacher.num_cases != student.num_cases:
        raise StateError(f"fold {fold}: the teacher was validated on {teacher.num_cases} cases, the student on {student.num_cases}.")
    return FoldFigures(fold, teacher.num_cases, _dice(teacher), _dice(student))


def _dice(validation: Validation) -> dict[str, float | None]:
    return {MEAN: validation.mean.dice, **{name: figures.dice for name, figures in validation.classes.items()}}


def format_cross_validation(folds: Sequence[FoldFigures]) -> str:
    """One line per fold with the mean Dice, then mean and sample standard deviation over the folds, for the mean and for every class.

    Folds in which one of the two has no figure are left out of the latter, so that teacher and student are those of the same folds.
    """
    lines = [("fold", "cases", "teacher", "student", "gain")]
    lines += [(str(f.fold), str(f.num_cases), *_cells(f.teacher[MEAN], f.student[MEAN])) for f in folds]
    left_out: dict[str, list[str]] = {}
    for name in folds[0].student:
        both = [(f, a, b) for f in folds if (a := f.teacher[name]) is not None and (b := f.student[name]) is not None]
        if without := [str(f.fold) for f in folds if None in (f.teacher[name], f.student[name])]:
            left_out[name] = without
        spreads = _spread([a for _, a, _ in both]), _spread([b for _, _, b in both]), _spread([b - a for _, a, b in both], sign="+")
        lines.append((name, str(sum(f.num_cases for f, _, _ in both)), *spreads))
    return "\n".join([aligned(lines), *_notes(folds, left_out)])


def _notes(folds: Sequence[FoldFigures], left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """What the table does not say by itself."""
    notes = ["+-: sample standard deviation over the folds, which share training cases: no standard error"] if len(folds) > 1 else []
    notes += [f"{name}: without fold {', '.join(left)}, where teacher or student has no figure" for name, left in left_out.items()]
    notes += [f"fold {f.fold}: the teacher was not validated; to do it: {f.missing}" for f in folds if f.missing is not None]
    return notes


def _cells(teacher: float | None, student: float | None) -> tuple[str, str, str]:
    gain = None if teacher is None or student is None else student - teacher
    return number(teacher, "{:.4f}"), number(student, "{:.4f}"), number(gain, "{:+.4f}")


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and sample standard deviation."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), f"{sign}.4f")
    return f"{mean} +- {statistics.stdev(values):.4f}" if len(values) > 1 else mean
