"""The arms of the benchmark: what is trained on every draw of labelled cases, with which settings and how many optimiser steps."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["supervised", "teacher", "run"]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Optimiser steps, in nnU-Net's units; equal for every arm of a benchmark."""

    teacher_epochs: int
    student_epochs: int
    iterations_per_epoch: int = 50
    val_iterations_per_epoch: int = 2

    def section(self, epochs: int) -> dict[str, int]:
        """A `length` of the `nnssl` section."""
        return {
            "num_epochs": epochs,
            "iterations_per_epoch": self.iterations_per_epoch,
            "val_iterations_per_epoch": self.val_iterations_per_epoch,
        }

    def total_epochs(self, folds: int) -> int:
        """Epochs of all fold teachers and the student together."""
        return folds * self.teacher_epochs + self.student_epochs


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train on a draw."""

    name: str
    kind: Kind
    """`supervised`: manual labels alone, from scratch, for the total steps; `teacher`: the shared teachers themselves, whose labels the
    students start from; `run`: `nnssl_run` on the shared teachers."""
    student_trainer: str = "TransASPPStudentTrainer"
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Settings of a run by dotted name, in place of the shared ones."""
    all_labels: bool = False
    """Whether it trains on every label of the draw's pool as well: the ceiling."""


ONE_STAGE = {"curriculum.fractions": [1.0]}
EVERYWHERE = {"student.tau": 0.0, "student.confidence_weighting": False}
"""Every voxel of the pool is learnt as if it were sure."""

PRESETS = Path(__file__).resolve().parents[2] / "plans"


def preset_settings(name: str) -> dict[str, Any]:
    """What a shipped preset sets, by dotted name, but for the teachers, which all arms share."""
    section = json.loads((PRESETS / f"{name}.json").read_text())["nnssl"]
    return {f"{part}.{key}": value for part, values in section.items() if part != "teacher" for key, value in values.items()}


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name="supervised", kind="supervised"),
        # without agreement nothing is predicted on the pool between its stages, of which it learns nothing
        Arm(name="supervised_continued", kind="run", settings={"student.labelled_share": 1.0, "agreement.weight": 0.0}),
        Arm(name="ceiling", kind="supervised", all_labels=True),
        Arm(name="ours", kind="run"),
        Arm(name="ours_random", kind="run", settings={"curriculum.order": "random"}),
        Arm(name="paper", kind="run", settings=preset_settings("paper")),
        Arm(name="naive", kind="run", student_trainer="NaiveSelfTrainingTrainer", settings=ONE_STAGE),
        Arm(name="mean_teacher", kind="run", student_trainer="MeanTeacherTrainer", settings=ONE_STAGE),
        Arm(name="uamt", kind="run", student_trainer="UAMTTrainer", settings=ONE_STAGE),
        Arm(name="cps", kind="run", student_trainer="CrossPseudoSupervisionTrainer", settings=ONE_STAGE),
        Arm(name="drop_most_confident", kind="run", settings={"curriculum.order": "drop-most-confident"}),
        # for the choice of defaults, on the development split
        Arm(name="one_stage", kind="run", settings=ONE_STAGE),
        Arm(name="hard", kind="run", settings={"student.targets": "hard"}),
        Arm(name="unlearning_off", kind="run", settings={"student.unlearning": "off"}),
        Arm(name="unlearning_paper", kind="run", settings={"student.unlearning": "paper"}),
        Arm(name="unlearning_bounded", kind="run", settings={"student.unlearning": "bounded"}),
        Arm(name="no_strong_augmentation", kind="run", settings={"student.strong_augmentation": False}),
        Arm(name="no_cutmix", kind="run", settings={"student.cutmix": 0.0}),
        Arm(name="no_ema", kind="run", settings={"student.ema": False}),
        Arm(name="agreement_0", kind="run", settings={"agreement.weight": 0.0}),
        Arm(name="agreement_1", kind="run", settings={"agreement.weight": 1.0}),
        # in one stage: half the steps would be too few to learn everything again
        Arm(name="scratch", kind="run", settings={**ONE_STAGE, "student.init": "scratch"}),
        Arm(name="uncalibrated", kind="run", settings={"evidence.confidence": "paper"}),
        Arm(name="soft_everywhere", kind="run", settings=EVERYWHERE),
        Arm(name="teacher", kind="teacher"),
        Arm(name="labelled_share_3_4", kind="run", settings={"student.labelled_share": 0.75}),
        Arm(name="cutmix_always", kind="run", settings={"student.cutmix": 1.0}),
        Arm(name="refresh", kind="run", settings={"student.refresh": 1.0}),
        Arm(name="no_cutmix_refresh", kind="run", settings={"student.cutmix": 0.0, "student.refresh": 1.0}),
        Arm(name="lambda_high_half", kind="run", settings={"student.lambda_high": 0.5}),
        Arm(name="tau_95", kind="run", settings={"student.tau": 0.95}),
        Arm(name="no_overlap", kind="run", settings={"student.overlap": False}),
        Arm(name="labels_follow_student", kind="run", settings={"student.refresh": 1.0, "agreement.weight": 1.0}),
        Arm(name="hard_everywhere", kind="run", settings={**EVERYWHERE, "student.targets": "hard"}),
        # the half of the pool that the teacher is surer of teaches what it knows already
        Arm(name="unsure_half", kind="run", settings={"curriculum.order": "drop-most-confident", "curriculum.dropped_share": 0.5}),
    )
}
"""By name."""


def overlay_of(arm: Arm, shared: Mapping[str, Any], lengths: Lengths, folds: int) -> dict[str, Any]:
    """The plans overlay of an arm.

    Args:
        arm: which.
        shared: overlay with the network, the batch size and the settings that all arms share.
        lengths: of teacher and student.
        folds: number of fold teachers of a run.
    """
    overlay = copy.deepcopy(dict(shared))
    section = overlay.setdefault("nnssl", {})
    teacher, student = section.setdefault("teacher", {}), section.setdefault("student", {})
    teacher["distillation_epochs"] = student["distillation_epochs"] = 0  # the head has no part in what is compared
    epochs = lengths.total_epochs(folds) if arm.kind == "supervised" else lengths.teacher_epochs
    teacher["length"], student["length"] = lengths.section(epochs), lengths.section(lengths.student_epochs)
    for path, value in arm.settings.items():
        part, name = path.split(".")
        section.setdefault(part, {})[name] = value
    if arm.kind != "run":  # whatever students do
        overlay["nnssl"] = {part: settings for part, settings in section.items() if part in ("teacher", "evidence")}
    return overlay
