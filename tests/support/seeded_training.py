"""Trainings that can be repeated: what they draw follows from dataset and epoch, so that one that was cut off ends in the same weights."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ssl.training.phased_trainer import PhasedTrainer


def seed_trainings(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Seed every training of ours in this process, and save a checkpoint after every epoch.

    One thread, and loaders without worker processes (`nnUNet_n_proc_DA=0`), are the caller's affair. nnU-Net's drawings of the progress
    and of the network are left out, since they take seconds and are not looked at.

    Args:
        put: sets an attribute; pytest's undoes it after the test.
    """
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    initialize, epoch_start = nnUNetTrainer.initialize, PhasedTrainer.on_epoch_start

    def seeded_initialize(trainer: Any) -> None:
        _seed(trainer, "weights")
        initialize(trainer)

    def seeded_epoch_start(trainer: Any) -> None:
        epoch_start(trainer)
        trainer.save_every = 1
        _seed(trainer, trainer.current_epoch)

    put(nnUNetTrainer, "initialize", seeded_initialize)
    put(PhasedTrainer, "on_epoch_start", seeded_epoch_start)
    put(MetaLogger, "plot_progress_png", lambda logger, folder: Path(folder, "progress.png").touch())
    put(nnUNetTrainer, "plot_network_architecture", lambda trainer: None)


def _seed(trainer: Any, moment: object) -> None:
    seed = zlib.crc32(f"{trainer.plans_manager.dataset_name} {moment}".encode())
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (nnU-Net's loaders and augmentation draw from the global generators)
    random.seed(seed)
    if hasattr(trainer, "_cutmix"):
        trainer._cutmix._generator = np.random.default_rng(seed)
