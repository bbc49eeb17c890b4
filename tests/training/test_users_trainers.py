"""Trainers that a user derives from ours, and nnU-Net's own variants with ours mixed in."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import nnUNetTrainerDiceLoss
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerTopkLoss import nnUNetTrainerTopk10Loss
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainer_warmup import nnUNetTrainer_warmup
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_250epochs
from short_training import log, run
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.training.phases import DISTILLATION, SEMI_SUPERVISED
from nnunet_ssl.training.student import SemiSupervisedStudent, SemiSupervisedStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

OUR_NETWORK = "nnunet_ssl.networks.trans_aspp_unet.TransASPPUNet"
DATASET, STAGE = "Dataset137_Tiny", "Dataset901_Tiny_f0s1"
Settings = Callable[..., dict[str, Any]]


def that_sets(base: Any, name: str, value: float) -> Any:
    """A trainer derived from another one, as nnU-Net's users do it: one value changed in the constructor."""

    class Changed(base):
        def __init__(self, plans: Any, configuration: Any, fold: Any, dataset_json: Any, device: Any) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            setattr(self, name, value)

    return Changed


class WeightedLoss(nnUNetTrainer):
    """A trainer with a weight of its own on the cross-entropy."""

    def _build_loss(self) -> Any:
        dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
        self.enable_deep_supervision = False
        return DC_and_CE_loss(dice, {}, weight_ce=0.3, weight_dice=0.7, dice_class=MemoryEfficientSoftDiceLoss)


class OverWeightedLoss(SemiSupervisedStudent, WeightedLoss):
    pass


class OverDice(SemiSupervisedStudent, nnUNetTrainerDiceLoss):
    pass


class OverCrossEntropy(SemiSupervisedStudent, nnUNetTrainerCELoss):
    pass


class OverTopK(SemiSupervisedStudent, nnUNetTrainerTopk10Loss):
    pass


class Over250Epochs(SemiSupervisedStudent, nnUNetTrainer_250epochs):
    pass


class FusedSGD(nnUNetTrainer):
    """A trainer whose optimiser can be had in another way, which nnU-Net never asks for."""

    def configure_optimizers(self, *, fused: bool = True) -> Any:
        optimizer, scheduler = super().configure_optimizers()
        optimizer.param_groups[0]["fused"] = fused
        return optimizer, scheduler


class OverFusedSGD(SemiSupervisedStudent, FusedSGD):  # type: ignore[misc]
    pass


class NeedsRate(nnUNetTrainer):
    """A trainer that gives its own optimiser a rate."""

    def configure_optimizers(self, rate: float) -> Any:
        self.initial_lr = rate
        return super().configure_optimizers()


class OverNeedsRate(SemiSupervisedStudent, NeedsRate):  # type: ignore[misc]
    pass


class OverWarmup(SemiSupervisedStudent, nnUNetTrainer_warmup):
    pass


@pytest.mark.parametrize(
    ("base", "dataset", "section"), [(TransASPPTeacherTrainer, DATASET, "teacher"), (SemiSupervisedStudentTrainer, STAGE, "student")]
)
@pytest.mark.parametrize(
    ("name", "value", "planned", "setting"), [("num_epochs", 250, "2", "length.num_epochs"), ("initial_lr", 0.25, "0.01", "initial_lr")]
)
def test_length_and_rate_set_by_hand_are_refused(
    tiny: Any, short: Settings, base: Any, dataset: str, section: str, name: str, value: float, planned: str, setting: str
) -> None:
    trainer = tiny.trainer(that_sets(base, name, value), dataset, settings=short())
    with pytest.raises(ConfigError) as error:
        trainer.initialize()
    assert str(error.value).startswith(f"Changed sets {name} to {value}, and its phases were made with {planned};")
    assert f"{section}.{setting}" in str(error.value)


def test_other_values_may_be_set_by_hand(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(that_sets(TransASPPTeacherTrainer, "weight_decay", 0.125), DATASET, settings=short())
    trainer.initialize()
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.125


def test_length_of_the_trainer_underneath_gives_way_to_the_settings(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(Over250Epochs, settings=short())
    trainer.initialize()
    assert trainer.num_epochs == trainer.schedule.num_epochs == 2


def test_a_warm_up_is_refused_by_name(tiny: Any, short: Settings) -> None:
    with pytest.raises(ConfigError, match=r"OverWarmup is built on nnUNetTrainer_warmup, which has another optimiser .*'stage'"):
        tiny.trainer(OverWarmup, settings=short())
    assert list(tiny.results.rglob("*Warmup*")) == []


def test_an_argument_that_nnunet_does_not_give_is_refused_by_name(tiny: Any, short: Settings) -> None:
    with pytest.raises(ConfigError, match=r"OverNeedsRate is built on NeedsRate, .*'rate'"):
        tiny.trainer(OverNeedsRate, settings=short())


def test_an_optional_argument_is_no_warm_up(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(OverFusedSGD, settings=short())
    trainer.initialize()
    assert trainer.optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.3), (0.5, 0.15)])
def test_the_weight_of_a_users_cross_entropy_is_kept(tiny: Any, short: Settings, factor: float, expected: float) -> None:
    trainer = tiny.trainer(OverWeightedLoss, settings=short(student={"lambda_ce": factor}))
    loss = trainer._build_loss().supervised.loss
    assert (loss.weight_ce, loss.weight_dice) == (pytest.approx(expected), 0.7)


@pytest.mark.parametrize("kind", [OverDice, OverCrossEntropy, OverTopK])
def test_losses_of_one_part(tiny: Any, short: Settings, kind: Any) -> None:
    tiny.write_sidecar(num_epochs=1)
    values = log(run(tiny.trainer(kind, settings=short(iterations=1, student={"lambda_ce": 0.5}))))
    assert np.isfinite(values["train_losses"]).all()
    assert np.isfinite(values["loss_high"]).all()


class CopiedLoaders(nnUNetTrainer):
    """A trainer with nnU-Net's `get_dataloaders` copied into a file of its own, as one does to give the loader another argument."""


def copied(method: Any) -> Any:
    """A method whose names are looked up in a module of its own."""
    names = dict(vars(sys.modules[method.__module__]))
    exec(textwrap.dedent(inspect.getsource(method)), names)
    return names[method.__name__]


class OverCopiedLoaders(SemiSupervisedStudent, CopiedLoaders):
    pass


class OverCalledLoaders(SemiSupervisedStudent, nnUNetTrainer):
    """Adds to nnU-Net's loaders without making others."""

    def get_dataloaders(self) -> Any:
        self.added = True
        return super().get_dataloaders()


def test_loaders_of_its_own_are_refused(tiny: Any, short: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    method = copied(nnUNetTrainer.get_dataloaders)
    method.__qualname__ = "CopiedLoaders.get_dataloaders"
    monkeypatch.setattr(CopiedLoaders, "get_dataloaders", method, raising=False)
    trainer = tiny.trainer(OverCopiedLoaders, settings=short())
    trainer.initialize()
    with pytest.raises(ConfigError, match=r"OverCopiedLoaders is built on CopiedLoaders, whose get_dataloaders .* learned as manual ones"):
        trainer.get_dataloaders()


def test_loaders_that_are_nnunets_are_ours(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(OverCalledLoaders, settings=short())
    trainer.initialize()
    trainer.get_dataloaders()
    assert trainer.added


def of_plain_convolutions(plans_manager: Any, configuration_manager: Any, *args: Any, **kwargs: Any) -> nn.Module:
    return nn.Conv3d(1, 3, 1)


class AnotherNetwork(nnUNetTrainer):
    build_network_architecture = staticmethod(of_plain_convolutions)


class OverAnotherNetwork(SemiSupervisedStudent, AnotherNetwork):
    pass


class TeacherOfAnotherNetwork(TransASPPTeacherTrainer):
    build_network_architecture = staticmethod(of_plain_convolutions)


@pytest.mark.parametrize(("kind", "dataset"), [(OverAnotherNetwork, STAGE), (TeacherOfAnotherNetwork, DATASET)])
def test_network_without_a_head_is_refused_at_once(tiny: Any, short: Settings, kind: Any, dataset: str) -> None:
    tiny.plans["configurations"][tiny.configuration]["architecture"]["network_class_name"] = OUR_NETWORK
    trainer = tiny.trainer(kind, dataset, settings=short())
    with pytest.raises(ConfigError, match=rf"{kind.__name__} builds Conv3d, which has no .*'has_uncertainty_head = False'"):
        trainer.initialize()


class WithoutHead(OverAnotherNetwork):
    has_uncertainty_head = False


def test_network_without_a_head_has_no_distillation(tiny: Any, short: Settings) -> None:
    tiny.plans["configurations"][tiny.configuration]["architecture"]["network_class_name"] = OUR_NETWORK
    tiny.write_sidecar(stage=1, num_stages=1)
    phases = {}
    for kind in (OverAnotherNetwork, WithoutHead):
        trainer = tiny.trainer(kind, settings=short(student={"distillation_epochs": 1}))
        phases[kind] = [phase.name for phase in trainer.schedule.phases]
    trainer.initialize()
    assert phases == {OverAnotherNetwork: [SEMI_SUPERVISED, DISTILLATION], WithoutHead: [SEMI_SUPERVISED]}
