"""Every overridden hook has nnU-Net's signature to the letter; a new version of nnU-Net that changes one fails here first."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.naive_self_training import NaiveSelfTrainingTrainer
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import UAMTTrainer
from nnunet_ssl.training.phases import PhasedPolyLRScheduler
from nnunet_ssl.training.stage_loader import StageDataLoader, loaders_built_by
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

PEERS = [NaiveSelfTrainingTrainer, MeanTeacherTrainer, UAMTTrainer, CrossPseudoSupervisionTrainer]
TRAINERS = [TransASPPTeacherTrainer, TransASPPStudentTrainer, SemiSupervisedStudentTrainer, *PEERS]


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def overridden(ours: type, theirs: type) -> set[str]:
    """Names that our classes define anew."""
    defined = {name for kind in ours.__mro__ if kind.__module__.startswith("nnunet_ssl") for name in vars(kind)}
    return {name for name in defined & set(dir(theirs)) if name == "__init__" or not name.startswith("__")}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [*((t, nnUNetTrainer) for t in TRAINERS), (StageDataLoader, nnUNetDataLoader), (PhasedPolyLRScheduler, PolyLRScheduler)],
)
def test_signatures(ours: type, theirs: type) -> None:
    names = overridden(ours, theirs)
    assert names
    # nobody but us makes a scheduler
    for name in names - ({"__init__"} if ours is PhasedPolyLRScheduler else set()):
        assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name)), name
        assert isinstance(inspect.getattr_static(ours, name), staticmethod) == isinstance(
            inspect.getattr_static(theirs, name), staticmethod
        )


def test_what_is_overridden() -> None:
    """The list of hooks, so that a new one is a decision."""
    common = {
        "__init__", "print_plans", "configure_optimizers", "on_epoch_start", "on_train_epoch_start", "train_step", "on_train_epoch_end",
        "save_checkpoint", "_build_loss", "perform_actual_validation", "initialize",
    }  # fmt: skip
    student = common | {
        "do_split", "get_tr_and_val_datasets", "get_dataloaders", "on_train_start", "on_validation_epoch_start",
        "on_validation_epoch_end", "load_checkpoint", "configure_rotation_dummyDA_mirroring_and_inital_patch_size",
    }  # fmt: skip
    assert overridden(SemiSupervisedStudentTrainer, nnUNetTrainer) == student
    assert overridden(TransASPPStudentTrainer, nnUNetTrainer) == student | {"build_network_architecture"}
    for peer in PEERS:
        assert overridden(peer, nnUNetTrainer) == student | {"build_network_architecture"}
    assert overridden(TransASPPTeacherTrainer, nnUNetTrainer) == common | {
        "build_network_architecture",
        "do_split",
        "load_checkpoint",
        "on_train_start",
    }
    assert overridden(StageDataLoader, nnUNetDataLoader) == {"get_indices"}


def test_loader_class_is_restored() -> None:
    module = inspect.getmodule(nnUNetTrainer)
    with pytest.raises(RuntimeError), loaders_built_by(lambda: None):
        raise RuntimeError
    assert module.nnUNetDataLoader is nnUNetDataLoader
