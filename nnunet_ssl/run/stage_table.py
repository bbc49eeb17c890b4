"""The table of a run: one row per stage."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.validation_summary import mean_dice
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.report.learned_cases import learned_pool_cases
from nnunet_ssl.report.training_log import read_training_log
from nnunet_ssl.run.aligned_text import aligned, number

HEADER = ("stage", "fraction", "cases", "score range", "confident", "changed", "val. Dice", "minutes")


@dataclass(frozen=True)
class StageRow:
    """One line of the table; the teacher has stage 0."""

    stage: int
    fraction: float | None
    cases: int | None
    """Pseudo-labelled cases that the student learns from."""
    score_range: tuple[float, float] | None
    share_confident: float | None
    change: float | None
    """Largest share of changed foreground voxels over the classes."""
    dice: float | None
    """Mean foreground Dice on labelled validation cases; None for `-f all` and before training."""
    minutes: float | None
    """Labelling, by the call that wrote the stage, and training together."""
    is_kept: bool = False
    """Whether the change was refused, so that the stage has the labels of the one before."""

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            "teacher" if self.stage == 0 else str(self.stage),
            number(self.fraction, "{:g}"),
            "-" if self.cases is None else str(self.cases),
            "-" if self.score_range is None else f"{self.score_range[0]:.3f}-{self.score_range[1]:.3f}",
            number(self.share_confident, "{:.1%}"),
            number(self.change, "{:.1%} refused" if self.is_kept else "{:.1%}"),
            number(self.dice, "{:.4f}"),
            number(self.minutes, "{:.1f}"),
        )


def stage_rows(run: Run) -> list[StageRow]:
    """The teacher and every written stage."""
    folds = run.manifest.teacher_folds
    dice = mean_dice(run.teacher, run.fold) if folds == [run.fold] else None
    trained_folds = [training_minutes(run.teacher, fold) for fold in folds]
    minutes = None if None in trained_folds else sum(m for m in trained_folds if m is not None)
    rows = [StageRow(0, None, None, None, None, None, dice, minutes)]
    for record in run.manifest.stages:
        student = run.student(record.stage)
        trained = training_minutes(student, run.fold)
        rows.append(
            StageRow(
                stage=record.stage,
                fraction=record.fraction,
                cases=learned_pool_cases(run.manifest, record),
                score_range=record.score_range,
                share_confident=record.share_confident,
                change=record.largest_change,
                dice=mean_dice(student, run.fold),
                minutes=None if trained is None else trained + record.seconds / 60,
                is_kept=record.kept_previous,
            )
        )
    return rows


def training_minutes(model: ModelLocation, fold: int | str) -> float | None:
    """Time spent in epochs, from the checkpoint's own log (interruptions do not count); None before training ends."""
    log = read_training_log(model, fold)
    return log.minutes if log is not None and log.is_finished else None


def accepted_line(run: Run) -> str | None:
    """How many cases of the pool have accepted labels; None where none has."""
    labels = run.manifest.accepted.values()
    if not labels:
        return None
    return f"accepted labels: {len(labels)} of {len(run.manifest.pool)} pool cases, {sum(a.is_partial for a in labels)} of them partial"


def format_table(rows: list[StageRow]) -> str:
    """The table as aligned text."""
    return aligned([HEADER, *(row.cells() for row in rows)])
