"""Whole trainings of teacher and student by two processes, as `nnUNetv2_train -num_gpus 2` starts them, but on CPUs and with gloo."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from short_training import log, same
from torch import distributed, nn

from nnunet_ssl.networks import unwrap
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.training.distributed import HEAD
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

Settings = Callable[..., dict[str, Any]]


def train(rank: int, folder: Path, make: Callable[[], Any]) -> None:
    """One of the processes; leaves what it has learned and measured in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    group = {"init_method": f"file://{folder}/group", "timeout": timedelta(seconds=120)}
    distributed.init_process_group("gloo", rank=rank, world_size=2, **group)
    stock.DDP = lambda network, device_ids: nn.parallel.DistributedDataParallel(network)
    try:
        trainer = make()
        # nnU-Net takes several processes for several GPUs
        trainer.device, trainer.grad_scaler = torch.device("cpu"), None
        step, drawn = trainer.train_step, []

        def watched(batch: dict[str, Any]) -> dict[str, Any]:
            drawn.append([not str(key).startswith("pool") for key in batch["keys"]])
            return step(batch)

        trainer.train_step = watched
        trainer.run_training()
        found = {
            "labelled": drawn,
            "weights": unwrap(trainer.network).state_dict(),
            "log": log(trainer),
            "batch_size": trainer.batch_size,
            "checkpoint": str(Path(trainer.output_folder) / "checkpoint_final.pth"),
        }
        torch.save(found, folder / f"rank_{rank}.pt")
    finally:
        distributed.destroy_process_group()


def two_ranks(folder: Path, make: Callable[[], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both processes ended with."""
    torch.multiprocessing.start_processes(train, args=(folder, make), nprocs=2, start_method="fork")
    first, second = (torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(2))
    return first, second


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("kind", [TransASPPTeacherTrainer, TransASPPStudentTrainer, SemiSupervisedStudentTrainer])
def test_processes_learn_the_same(tiny: Any, short: Settings, tmp_path: Path, kind: Any, batch_size: int) -> None:
    """With a batch of 2, one process has a labelled sample and the other one of the pool."""
    tiny.plans["configurations"][tiny.configuration]["batch_size"] = batch_size
    is_teacher = kind is TransASPPTeacherTrainer
    dataset = ["Dataset137_Tiny"] if is_teacher else []
    settings = short(iterations=4, teacher={"distillation_epochs": 1})
    first, second = two_ranks(tmp_path, lambda: tiny.trainer(kind, *dataset, settings=settings))
    assert first["batch_size"] == second["batch_size"] == batch_size // 2
    trunk = [{name: w for name, w in found["weights"].items() if is_teacher or HEAD not in name} for found in (first, second)]
    assert same(*trunk)  # a student's head begins to learn, and to be shared, in the last stage
    assert all(torch.isfinite(value).all() for value in first["weights"].values())
    assert np.isfinite(first["log"]["train_losses"]).all()
    assert len(first["log"]["train_losses"]) == (3 if is_teacher else 2)
    # the first process alone writes checkpoints
    saved = load_checkpoint(Path(first["checkpoint"]))["network_weights"]
    if is_teacher:
        assert same(saved, first["weights"])
    else:
        assert not same(saved, first["weights"])  # the moving average
        together = [a + b for a, b in zip(first["labelled"], second["labelled"], strict=True)]
        assert len(together) == 2 * 4
        assert {(sum(step), len(step)) for step in together} == {(batch_size // 2, batch_size)}
        for name in ("loss_supervised", "loss_high", "loss_low"):
            assert np.isfinite(first["log"][name]).any(), name


def test_last_stage(tiny: Any, short: Settings, tmp_path: Path) -> None:
    """Fine-tuning on manual labels, and the uncertainty head's distillation, which are part of it."""
    tiny.write_sidecar(stage=1, num_stages=1, num_epochs=1)
    settings = short(epochs=1, teacher={"num_samples": 2}, student={"fine_tune_epochs": 1, "distillation_epochs": 1})
    first, second = two_ranks(tmp_path, lambda: tiny.trainer(TransASPPStudentTrainer, settings=settings))
    assert len(first["log"]["train_losses"]) == 3
    assert same(first["weights"], second["weights"])
    saved = load_checkpoint(Path(first["checkpoint"]))["network_weights"]
    heads = [{name: w for name, w in weights.items() if HEAD in name} for weights in (saved, first["weights"])]
    assert heads[0]
    assert same(*heads)
