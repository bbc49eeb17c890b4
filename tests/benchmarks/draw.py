"""One draw of labelled cases: its nnU-Net folders, its teachers, and where its finished runs are written down."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import hippocampus
from arms import Arm

from nnunet_ssl.locations import ModelLocation

DATASET, CEILING, CONFIGURATION = hippocampus.DATASET, hippocampus.CEILING, hippocampus.CONFIGURATION
CLASSES = {name: value for name, value in hippocampus.LABELS.items() if value}
TEACHERS = {"TransASPPUNet": "TransASPPTeacherTrainer", "plans": "PlansNetworkTeacherTrainer"}
"""By network: ours, or the one that nnU-Net has planned."""
NNUNET_FOLDS = 5
MEMBERS = 4
"""Of an ensemble of teachers that all learn from all labels."""


@dataclass(frozen=True)
class Draw:
    """One draw of labelled cases, with its nnU-Net folders.

    Args:
        arguments: `data`, `out`, `split`, `device`, `overlay`, `network`, `teachers`, `rows` and `frozen` of the command line.
        labels: number of labelled cases.
        draw: which of the fixed draws.
    """

    arguments: argparse.Namespace
    labels: int
    draw: int

    @property
    def name(self) -> str:
        network = "" if self.network == "TransASPPUNet" else f"_{self.network}"
        return f"{self.arguments.split}_l{self.labels}_d{self.draw}{network}"

    @property
    def network(self) -> str:
        return str(self.arguments.network)

    @property
    def teacher_trainer(self) -> str:
        """Of teachers and of every training on manual labels alone."""
        return TEACHERS[self.network] if self.teachers != "members" else "AllLabelsTeacherTrainer"

    def student_trainer(self, arm: Arm) -> str:
        """Of an arm that has a student.

        Raises:
            ValueError: if the arm's has no network but its own.
        """
        if self.network == "TransASPPUNet":
            return arm.student_trainer
        if arm.student_trainer != "TransASPPStudentTrainer":
            raise ValueError(f"{arm.name}: {arm.student_trainer} trains TransASPPUNet alone")
        return "SemiSupervisedStudentTrainer"

    @property
    def root(self) -> Path:
        return Path(self.arguments.out) / self.name

    @property
    def teachers(self) -> str:
        """`folds`, `single` or `members`: what was asked for, else what `nnssl_run -f all` does; nnU-Net needs five cases for folds.

        Raises:
            ValueError: if members are asked for of a network for which there is no such trainer.
        """
        if self.arguments.teachers == "members" and self.network != "TransASPPUNet":
            raise ValueError(f"--teachers members are of TransASPPUNet, not of --network {self.network}")
        return str(self.arguments.teachers or ("folds" if self.labels >= NNUNET_FOLDS else "single"))

    @property
    def folds(self) -> list[int | str]:
        """Folds that a teacher is trained on: nnU-Net's five, or as many as there are labels, or all labels; or numbers of members."""
        if self.teachers == "single":
            return ["all"]
        return list(range(MEMBERS if self.teachers == "members" else min(NNUNET_FOLDS, self.labels)))

    @property
    def environment(self) -> dict[str, str]:
        """Of every job of the draw."""
        folders = {name: str(self.root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        trainers = (Path(__file__).resolve().parents[2] / "trainers", Path(__file__).resolve().parent / "trainers")
        return {
            **folders,
            "nnUNet_extTrainer": os.pathsep.join(map(str, trainers)),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def model(self, arm: str, trainer: str, number: int = DATASET) -> Path:
        """Folder of a trained model."""
        location = ModelLocation(dataset=dataset_name(number), trainer=trainer, plans=plans_name(arm), configuration=CONFIGURATION)
        return self.root / "nnUNet_results" / location.dataset / location.name

    def teacher_checkpoints(self) -> list[Path]:
        """Of the teachers that all arms of the draw share."""
        return [self.model("teacher", self.teacher_trainer) / f"fold_{fold}" / "checkpoint_final.pth" for fold in self.folds]

    def overlay(self, arm: str) -> Path:
        """What was laid over nnU-Net's plans for an arm."""
        return self.root / "overlays" / f"{arm}.json"

    def row(self, arm: Arm) -> Path:
        """Where an arm's result is written down; its logs lie beside it."""
        return Path(self.arguments.rows) / f"{self.name}.{arm.name}.json"

    def script(self, command: str, *flags: object) -> tuple[str, ...]:
        """A subcommand of `benchmark.py` for this draw."""
        given = vars(self.arguments)
        shared = [part for name in ("data", "out", "split", "rows", "overlay", "network", "device") for part in (f"--{name}", given[name])]
        frozen = ("--frozen", given["frozen"]) if given["frozen"] else ()
        drawn = ("--labels", self.labels, "--draws", self.draw, "--teachers", self.teachers)
        file = Path(__file__).with_name("benchmark.py")
        return tuple(map(str, (sys.executable, file, command, *shared, *frozen, *drawn, *flags)))


def dataset_name(number: int) -> str:
    """Dataset folder."""
    return hippocampus.Benchmark.dataset_name(number)


def plans_name(arm: str) -> str:
    """Plans that `nnssl_prepare` makes of an arm's overlay."""
    return f"nnUNetPlans_nnssl_{arm}"


def console(command: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / command)
