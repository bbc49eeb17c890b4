"""A training that was cut off ends in the weights of one that was not, to the bit: a checkpoint holds all that a training carries on.

What a training draws follows from the epoch here (`seeded_training`); in earnest it does not, and two trainings never end alike.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from seeded_training import seed_trainings
from short_training import log, run, same

from nnunet_ssl.data import pool_index
from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.naive_self_training import NaiveSelfTrainingTrainer
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import UAMTTrainer
from nnunet_ssl.training.student import TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

pytestmark = pytest.mark.slow

LONG = pytest.mark.skipif("NNSSL_LONG_TESTS" not in os.environ, reason="takes a minute: make kill-check")
PEERS = [NaiveSelfTrainingTrainer, MeanTeacherTrainer, UAMTTrainer, CrossPseudoSupervisionTrainer]
PHASES = {"fine_tune_epochs": 1, "distillation_epochs": 2}
"""A student's, after two epochs on the pool."""


@pytest.fixture
def make(tiny: Any, short: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes trainers, all draws of which follow from the epoch."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(pool_index, "find_pool", lambda plans, configuration: None)
    seed_trainings(monkeypatch.setattr)
    tiny.write_sidecar(stage=1, num_stages=1, num_epochs=2)

    def trainer(kind: Any, **student: Any) -> Any:
        if kind is TransASPPTeacherTrainer:
            return tiny.trainer(kind, "Dataset137_Tiny", settings=short(teacher={"distillation_epochs": 2, **student}))
        return tiny.trainer(kind, settings=short(student=student))

    return trainer


def final(trainer: Any) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    return checkpoint


def cut_off_everywhere(make: Callable[..., Any], kind: Any, **student: Any) -> None:
    """Train at a stretch, then with a new process's worth of objects for every epoch; compare what is left."""
    whole = run(make(kind, **student))
    expected, losses = final(whole), {name: values for name, values in log(whole).items() if "timestamps" not in name}
    shutil.rmtree(whole.output_folder)
    for epoch in range(1, whole.num_epochs):
        part = make(kind, **student)
        maybe_load_checkpoint(part, epoch > 1, False)
        run(part, until_epoch=epoch)
        (Path(part.output_folder) / f"{TEMPORARY_PREFIX}1_x.pth").write_text("what a killed process leaves")
    last = make(kind, **student)
    maybe_load_checkpoint(last, True, False)
    run(last)
    found = final(last)
    assert same(found["network_weights"], expected["network_weights"])
    assert found["_best_ema"] == expected["_best_ema"]
    assert found.get("nnssl", {}).keys() == expected.get("nnssl", {}).keys()
    if "raw_weights" in expected.get("nnssl", {}):
        assert same(found["nnssl"]["raw_weights"], expected["nnssl"]["raw_weights"])
    if "second" in expected.get("nnssl", {}):
        assert same(found["nnssl"]["second"]["network_weights"], expected["nnssl"]["second"]["network_weights"])
    for name, values in losses.items():
        np.testing.assert_array_equal(np.array(log(last)[name], dtype=float), np.array(values, dtype=float), err_msg=name)
    assert not list(Path(last.output_folder).glob(f"{TEMPORARY_PREFIX}*"))


def test_teacher(make: Callable[..., Any]) -> None:
    cut_off_everywhere(make, TransASPPTeacherTrainer)


@pytest.mark.parametrize("optimizer", ["nnunet", pytest.param("adamw", marks=LONG)])
def test_student_through_all_its_phases(make: Callable[..., Any], optimizer: str) -> None:
    cut_off_everywhere(make, TransASPPStudentTrainer, optimizer=optimizer, ema_decay=0.5, cutmix=1.0, **PHASES)


@LONG
@pytest.mark.parametrize("kind", PEERS)
def test_peers(make: Callable[..., Any], kind: Any) -> None:
    cut_off_everywhere(make, kind)


def test_other_draws_give_other_weights(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """That the comparison can fail."""
    first = final(run(make(TransASPPTeacherTrainer)))
    monkeypatch.setattr("seeded_training.zlib.crc32", lambda text: 5)
    second = final(run(make(TransASPPTeacherTrainer)))
    assert not same(first["network_weights"], second["network_weights"])
