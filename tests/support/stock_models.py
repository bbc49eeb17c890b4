"""Teacher and students of two folds, trained, continued, validated and published by nnU-Net's own commands; once for all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_commands import stock
from quick_nnunet import quick_nnunet
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    Project,
    environment,
    folders,
    grow_stage,
    open_tiny_run,
    teacher_store,
    write_evidence,
)

from nnunet_ssl.locations import trainers_folder
from nnunet_ssl.pseudolabel.publish import publish

TWO_STEPS = "nnUNetTrainer_2steps"
"""A trainer of nnU-Net's own, shortened by its user."""
_TWO_STEPS = f"""
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class {TWO_STEPS}(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = 2, 1, 1, 1
        self.initial_lr = {{lr}}
"""
_LOGGER = "nnunetv2.training.logging.nnunet_logger.MetaLogger"
STANDING_STILL = 1e-9
"""Learning rate at which weights stay what they were."""
_SETTINGS = {
    "curriculum.order": "all-at-once",
    "student.length.num_epochs": 2,
    "student.length.iterations_per_epoch": 1,
    "student.distillation_epochs": 0,
    "evidence.num_samples": 1,
}


@dataclass
class StockModels:
    """Where the models lie, and what the commands printed, by what they were asked."""

    project: Project
    mine: Path
    """Folder of the user's own trainer."""
    pretrained: Path
    """Checkpoint that was given with `-pretrained_weights`."""
    said: dict[str, str] = field(default_factory=dict)

    def train(self, dataset: object, fold: object, trainer: str, *flags: object) -> str:
        """`nnUNetv2_train` on a CPU; returns what it printed."""
        return stock("nnUNetv2_train", dataset, CONFIGURATION, fold, "-tr", trainer, "-p", PLANS, "-device", "cpu", *flags)

    def fold(self, trainer: str, fold: object, dataset: str = DATASET) -> Path:
        return self.project.results / dataset / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}"

    def weights(self, trainer: str, fold: object, dataset: str = DATASET) -> dict[str, torch.Tensor]:
        """Weights of a fold's final checkpoint."""
        weights: dict[str, torch.Tensor] = torch.load(self.fold(trainer, fold, dataset) / "checkpoint_final.pth", weights_only=False)[
            "network_weights"
        ]
        return weights

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """nnU-Net's variables, our trainers beside the user's, and pools of threads in place of processes."""
        with environment(self.project, workers=0), quick_nnunet(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{_LOGGER}.plot_progress_png", lambda _, folder: (Path(folder) / "progress.png").touch())  # takes seconds
            patch.setenv("nnUNet_extTrainer", os.pathsep.join([str(self.mine), str(trainers_folder())]))
            yield


def stage_name(fold: int) -> str:
    return f"Dataset{601 + fold}_Tiny_f{fold}s1"


@contextlib.contextmanager
def _killed_in_second_epoch() -> Iterator[None]:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    start = nnUNetTrainer.on_epoch_start

    def start_or_stop(trainer: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        start(trainer)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(nnUNetTrainer, "on_epoch_start", start_or_stop)
        yield


def _train_everything(models: StockModels) -> None:
    """Two folds of teacher (random weights), student and stock trainer; each flag of `nnUNetv2_train` in its place."""
    for fold in (0, 1):
        models.said[f"teacher {fold} --val --npz"] = models.train(137, fold, OUR_TEACHER, "--val", "--npz")
    for fold, settings in ((0, _SETTINGS), (1, {**_SETTINGS, "student.warm_lr": STANDING_STILL})):
        run = open_tiny_run(models.project, fold, settings=settings)
        write_evidence(teacher_store(run))
        grow_stage(run)
        if fold == 0:
            with _killed_in_second_epoch():
                models.train(601, 0, OUR_STUDENT)
            models.said["student --c"] = models.train(601, 0, OUR_STUDENT, "--c", "--npz")
        else:
            models.said["student -pretrained_weights"] = models.train(
                602, 1, OUR_STUDENT, "-pretrained_weights", models.pretrained, "--npz"
            )
        publish(run)
    with _killed_in_second_epoch():
        models.train(601, 0, TWO_STEPS)
    models.said["stock --c"] = models.train(601, 0, TWO_STEPS, "--c", "--npz")
    models.said["stock -pretrained_weights"] = models.train(602, 1, TWO_STEPS, "-pretrained_weights", models.pretrained)


@pytest.fixture(scope="session")
def built_stock_models(built_project: Project, built_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> StockModels:
    """Built once; not to be changed."""
    root = tmp_path_factory.mktemp("stock")
    found = folders(root)
    project = Project(found.raw, found.preprocessed, found.results, built_project.unlabelled)
    sources = ((built_project.raw, found.raw), (built_project.preprocessed, found.preprocessed), (built_teacher, found.results))
    for source, target in sources:
        shutil.copytree(source, target, dirs_exist_ok=True)
    models = StockModels(project, root / "mine", root / "pretrained.pth")
    models.mine.mkdir()
    (models.mine / "two_steps_trainer.py").write_text(_TWO_STEPS.format(lr=STANDING_STILL))
    checkpoint = torch.load(models.fold(OUR_TEACHER, 1) / "checkpoint_final.pth", weights_only=False)
    generator = torch.Generator().manual_seed(5)
    for value in checkpoint["network_weights"].values():
        value += 0.1 * torch.randn(value.shape, generator=generator)
    torch.save(checkpoint, models.pretrained)
    with models.environment():
        _train_everything(models)
    return models


@pytest.fixture
def stock_models(built_stock_models: StockModels, quiet_machine: None) -> Iterator[StockModels]:
    """`built_stock_models`, named by the environment variables."""
    with built_stock_models.environment():
        yield built_stock_models
