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
    """By `mean` and the name of each class (region); None where no validation case has it."""
    student: Mapping[str, float | None]


def fold_figures(run: Run) -> FoldFigures:
    """The figures of one finished run in fold mode.

    Raises:
        StateError: if a validation is missing, or the two are not of as many cases.
    """
    keys, fold = foreground_keys(run.setup), int(run.fold)
    found = []
    student_of = run.student(run.manifest.stages[-1].stage)
    for model, trained in ((run.teacher, run.teacher), (published_model(run), student_of)):
        validation = read_validation(model, fold, keys)
        if validation is None:
            again = "" if trained is model else ", then the same command again"
            raise StateError(f"{model.validation_summary(fold)} is missing; run: {training_command(trained, fold)}{again}")
        found.append(validation)
    teacher, student = found
    if teacher.num_cases != student.num_cases:
        raise StateError(f"fold {fold}: the teacher was validated on {teacher.num_cases} cases, the student on {student.num_cases}.")
    return FoldFigures(fold, teacher.num_cases, _dice(teacher), _dice(student))


def _dice(validation: Validation) -> dict[str, float | None]:
    return {MEAN: validation.mean.dice, **{name: figures.dice for name, figures in validation.classes.items()}}


def format_cross_validation(folds: Sequence[FoldFigures]) -> str:
    """One line per fold with the mean Dice, then mean and sample standard deviation over the folds, for the mean and for every class."""
    lines = [("fold", "cases", "teacher", "student", "gain")]
    lines += [(str(f.fold), str(f.num_cases), *_cells(f.teacher[MEAN], f.student[MEAN])) for f in folds]
    cases = str(sum(f.num_cases for f in folds))
    for name in folds[0].teacher:
        teacher, student = [f.teacher[name] for f in folds], [f.student[name] for f in folds]
        gains = [_gain(a, b) for a, b in zip(teacher, student, strict=True)]
        lines.append((name, cases, _spread(teacher), _spread(student), _spread(gains, sign="+")))
    return aligned(lines)


def _gain(teacher: float | None, student: float | None) -> float | None:
    return None if teacher is None or student is None else student - teacher


def _cells(teacher: float | None, student: float | None) -> tuple[str, str, str]:
    return number(teacher, "{:.4f}"), number(student, "{:.4f}"), number(_gain(teacher, student), "{:+.4f}")


def _spread(values: Sequence[float | None], sign: str = "") -> str:
    """Mean and sample standard deviation of the folds that have a value."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = format(statistics.fmean(known), f"{sign}.4f")
    return f"{mean} +- {statistics.stdev(known):.4f}" if len(known) > 1 else mean
