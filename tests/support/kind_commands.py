"""A kind of dataset from its raw images to a published student, by the commands a user types, in this process."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_kinds import NUMBER, Kind, write_dataset
from quick_nnunet import quick_nnunet
from tiny_setup import Project, environment, folders

from nnunet_ssl.cli import prepare, pseudolabel
from nnunet_ssl.locations import trainers_folder

TEACHER, STUDENT = "TransASPPTeacherTrainer", "TransASPPStudentTrainer"
PLANS = "nnUNetPlans_nnssl_tiny"
_LENGTH = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1}


@contextlib.contextmanager
def kind_environment(project: Project) -> Iterator[None]:
    """nnU-Net's variables, our trainers, and nothing that takes time without being looked at."""
    with environment(project, workers=0), quick_nnunet(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", str(trainers_folder()))
        patch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda logger, folder: None)
        yield


def stock(command: str, *flags: object) -> str:
    """A command of nnU-Net, by the function that is installed as that command; returns what it printed."""
    (entry,) = entry_points(group="console_scripts", name=command)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [command, *map(str, flags)])
        entry.load()()
    return said.getvalue()


@dataclass
class KindRun:
    """What one kind leaves on disk, and what our commands printed."""

    kind: Kind
    project: Project
    plans: str = "nnUNetPlans"
    printed: list[str] = field(default_factory=list)

    @property
    def setup_flags(self) -> list[str]:
        return ["-d", str(NUMBER), "-c", self.kind.configuration, "-p", self.plans]

    @property
    def preprocessed(self) -> Path:
        return self.project.preprocessed / self.kind.dataset

    def ours(self, command: Any, *flags: str, code: int = 0) -> str:
        """A command of ours; returns what it printed."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = command.main([*self.setup_flags, *flags])
        self.printed.append(said.getvalue())
        assert found == code, said.getvalue()
        return said.getvalue()

    def plan_and_preprocess(self) -> None:
        kind, flags = self.kind, ("-d", NUMBER, "-np", 1)
        write_dataset(kind, self.project.raw, self.project.unlabelled)
        stock("nnUNetv2_plan_and_preprocess", *flags, "-npfp", 1, "--no_pp")
        file = self.preprocessed / "nnUNetPlans.json"
        plans = json.loads(file.read_text())
        plans["configurations"] |= kind.plans
        plans["configurations"][kind.configuration] |= {"patch_size": list(kind.patch)}
        file.write_text(json.dumps(plans))
        stock("nnUNetv2_preprocess", *flags, "-plans_name", "nnUNetPlans", "-c", kind.configuration)
        if kind.splits:
            splits = [{"train": [f"lab_{i}" for i in train], "val": [f"lab_{i}" for i in val]} for train, val in kind.splits]
            (self.preprocessed / "splits_final.json").write_text(json.dumps(splits))

    def prepare(self) -> None:
        teacher = {"length": {"num_epochs": 1, **_LENGTH, "iterations_per_epoch": 32}, "optimizer": "adamw", "initial_lr": 1e-2}
        student = {"length": {"num_epochs": len(self.kind.stages), **_LENGTH}, "distillation_epochs": 0}
        settings = {"teacher": {**teacher, "distillation_epochs": 1, "num_samples": 2}, "student": student}
        overlay = {"network": "TransASPPUNet", "features": {"base": 4, "max": 8}, "batch_size": 2, "nnssl": settings}
        file = self.project.results / "tiny.json"
        file.write_text(json.dumps(overlay))
        self.ours(prepare, "--preset", str(file), "-u", str(self.project.unlabelled), "-np", "1")
        self.plans = PLANS

    def train(self, dataset: object, fold: object, trainer: str) -> str:
        return stock("nnUNetv2_train", dataset, self.kind.configuration, fold, "-tr", trainer, "-p", self.plans, "-device", "cpu")

    def pseudolabel(self, *flags: str) -> str:
        stages = map(str, self.kind.stages)
        return self.ours(pseudolabel, "-f", self.kind.fold, "-device", "cpu", "--num-samples", "2", "--stages", *stages, *flags)

    def predict(self, trainer: str, folds: Sequence[object], out: Path) -> None:
        flags = ["-f", *folds, "-tr", trainer, "-i", self.project.unlabelled, "-o", out, "-device", "cpu", "-npp", 0, "-nps", 0]
        stock("nnUNetv2_predict", *self.setup_flags, *flags)

    def open(self) -> Any:
        """The run on disk."""
        from nnunet_ssl.nnunet_api.load_setup import load_setup
        from nnunet_ssl.pseudolabel.run_spec import RunSpec
        from nnunet_ssl.pseudolabel.start_run import open_run

        fold = "all" if self.kind.fold == "all" else int(self.kind.fold)
        return open_run(RunSpec(setup=load_setup(str(NUMBER), self.kind.configuration, self.plans), fold=fold, teacher_trainer=TEACHER))

    def whole(self) -> None:
        """Everything, from raw images to the published student."""
        seed_everything(0)
        self.plan_and_preprocess()
        self.prepare()
        folds = range(len(self.kind.splits)) if self.kind.fold == "all" else [self.kind.fold]
        for fold in folds:
            self.train(NUMBER, fold, TEACHER)
        for stage in range(1, len(self.kind.stages) + 1):
            self.pseudolabel(*(self.kind.later if stage > 1 else self.kind.first))
            self.train(600 + stage, self.kind.fold, STUDENT)
        self.pseudolabel(*(self.kind.later or self.kind.first))


def seed_everything(seed: int) -> None:
    """Seed what nnU-Net and PyTorch draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (nnU-Net's augmentation draws from the global generators)
    random.seed(seed)


def begin(kind: Kind, root: Path) -> KindRun:
    """Empty folders for a kind."""
    return KindRun(kind, folders(root))
