"""What a step of a real student hands to its network and its loss, and what of the plans its loss is built with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_ssl.training.extra_channels import CODE_IGNORED, CODE_LABELLED, CODE_POOL, samples_from_pool
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.naive_self_training import NaiveSelfTrainingTrainer
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import UAMTTrainer
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer

Settings = Callable[..., dict[str, Any]]
STUDENTS = [TransASPPStudentTrainer, SemiSupervisedStudentTrainer]
PEERS = [NaiveSelfTrainingTrainer, MeanTeacherTrainer, UAMTTrainer, CrossPseudoSupervisionTrainer]
BOX = ((3, 13), (0, 9), (5, 16))
"""What CutMix pastes, of a patch of 16 voxels a side."""


def initialised(tiny: Any, settings: dict[str, Any], kind: Any = SemiSupervisedStudentTrainer) -> Any:
    trainer = tiny.trainer(kind, settings=settings)
    trainer.initialize()
    return trainer


@pytest.mark.parametrize("refresh", [0.0, 1.0])
def test_a_pasted_box_is_learned_as_its_manual_label_says(tiny: Any, short: Settings, refresh: float) -> None:
    tiny.write_sidecar(stage=2)
    trainer = initialised(tiny, short(student={"cutmix": 1.0, "refresh": refresh}))
    trainer._cutmix.draw_box = lambda shape: BOX
    images: list[Tensor] = []
    targets: list[list[Tensor]] = []
    trainer.network.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0].clone()))
    trainer.loss.register_forward_pre_hook(lambda module, inputs: targets.append(inputs[1]))
    batch = next(trainer.get_dataloaders()[0])
    scales = len(batch["target"]) // 2
    of_pool = int(samples_from_pool(batch["target"][scales]).nonzero())
    of_label = 1 - of_pool
    before = {"image": batch["data"][:, :1].clone(), "seg": batch["target"][0].clone(), "extra": batch["target"][scales].clone()}
    trainer._step = trainer._semi_supervised_steps  # the targets outside the box are the average's alone
    trainer.train_step(batch)

    after = {"image": images[-1], "seg": targets[0][0], "extra": targets[0][scales]}
    inside = torch.zeros(16, 16, 16, dtype=torch.bool)
    inside[tuple(slice(*side) for side in BOX)] = True
    manual = before["extra"][of_label, 0] == CODE_LABELLED
    assert (inside & manual).sum() > 100
    for name in ("image", "seg"):
        assert torch.equal(after[name][of_pool][:, inside], before[name][of_label][:, inside]), name
        assert torch.equal(after[name][of_pool][:, ~inside], before[name][of_pool][:, ~inside]), name
    code, confidence, *q = after["extra"][of_pool]
    assert torch.equal(code[inside], torch.where(manual, CODE_POOL, CODE_IGNORED)[inside])
    assert (confidence[inside & manual] == 10_000).all()
    assert torch.equal(torch.stack(q)[:, inside], before["extra"][of_label, 2:][:, inside])
    # outside the box they are the evidence's where nothing refreshes them
    assert torch.equal(torch.stack(q)[:, ~inside], before["extra"][of_pool, 2:][:, ~inside]) is (refresh == 0)


@pytest.mark.parametrize("kind", STUDENTS)
def test_the_pool_weighs_nothing_in_the_first_step_and_all_after_the_ramp(tiny: Any, short: Settings, kind: Any) -> None:
    trainer = initialised(tiny, short(iterations=2, student={"ramp_up": 0.5, "unlearning_gradient_ratio": None}), kind)
    training = trainer.get_dataloaders()[0]
    weights = []
    for trainer.current_epoch in (0, 1):
        trainer.on_train_epoch_start()
        for _ in range(2):
            found = {name: np.asarray(value).mean() for name, value in trainer.train_step(next(training)).items()}
            of_pool = found["loss_high"] + 0.1 * found["loss_low"]
            assert of_pool > 0.1
            weights.append((found["loss"] - found["loss_supervised"]) / of_pool)
    # two epochs of two steps each, the first half of which is the ramp
    assert weights == pytest.approx([0, 0.5, 1, 1], abs=1e-4)


@pytest.mark.parametrize(("batch_dice", "overlap"), [(False, 1 / 2), (True, 1 / 3)])
def test_overlap_of_the_pool_is_summed_over_the_batch_where_the_plans_say_so(
    tiny: Any, short: Settings, batch_dice: bool, overlap: float
) -> None:
    tiny.plans["configurations"][tiny.configuration]["batch_dice"] = batch_dice
    loss = initialised(tiny, short()).loss
    # two pool samples of class 1 everywhere, with confidence; the first is predicted so, the second as background
    logits = torch.full((2, 3, 2, 2, 2), -20.0)
    logits[0, 1] = logits[1, 0] = 0.0
    extra = torch.tensor([CODE_POOL, 10_000, 0, 10_000, 0], dtype=torch.int16).view(1, 5, 1, 1, 1).expand(2, 5, 2, 2, 2)
    scales = len(loss.weights)
    loss([logits] * scales, [torch.ones(2, 1, 2, 2, 2)] * scales + [extra] * scales)
    # the overlaps are 0 and 1, together (0 + n) / (2n + n); the cross-entropies are 0 and 20
    assert float(loss.last_terms["loss_high"]) == pytest.approx(10 + overlap, abs=1e-4)


@pytest.mark.parametrize("kind", [*STUDENTS, *PEERS])
@pytest.mark.parametrize("lambda_ce", [1.0, 0.25])
def test_cross_entropy_of_manual_labels_has_its_weight(tiny: Any, short: Settings, kind: Any, lambda_ce: float) -> None:
    loss = initialised(tiny, short(student={"lambda_ce": lambda_ce}), kind).loss
    logits, target = torch.zeros(2, 3, 4, 4, 4), torch.ones(2, 1, 4, 4, 4)
    scales = len(loss.supervised.loss.weight_factors)
    found = float(loss([logits] * scales, [target] * scales))
    # every class has 1/3: the soft Dice of class 1 is (2/3) / (4/3), that of class 2 is 0
    assert found == pytest.approx(lambda_ce * math.log(3) - (1 / 2 + 0) / 2, abs=1e-4)
