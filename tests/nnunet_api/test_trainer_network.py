"""Networks of trainers with nnU-Net's present signature of `build_network_architecture`, and with the one before, which it still takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_setup import CONFIGURATION, DATASET, PLANS, Project, write_teacher

from nnunet_ssl.nnunet_api.external_trainers import VARIABLE, find_trainer
from nnunet_ssl.nnunet_api.network_size import network_size
from nnunet_ssl.nnunet_api.trained_model import load_trained_model
from nnunet_ssl.nnunet_api.trainer_network import build_network

OLD = "OldSignatureTrainer"
SOURCE = f"""
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans


class {OLD}(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(
        architecture_class_name,
        arch_init_kwargs,
        arch_init_kwargs_req_import,
        num_input_channels,
        num_output_channels,
        enable_deep_supervision=True,
    ):
        return get_network_from_plans(
            architecture_class_name,
            arch_init_kwargs,
            arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
        )
"""


@pytest.fixture
def with_old_trainer(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "trainers"
    folder.mkdir()
    (folder / "old_signature_trainer.py").write_text(SOURCE)
    monkeypatch.setenv(VARIABLE, str(folder))
    return project


@pytest.mark.parametrize("trainer", [OLD, "nnUNetTrainer"])
def test_trained_model_is_loaded(with_old_trainer: Project, trainer: str) -> None:
    write_teacher(trainer)
    model = load_trained_model(with_old_trainer.results / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}", [0])
    assert model.trainer_name == trainer
    assert all(torch.equal(value, model.parameters[0][name]) for name, value in model.network.state_dict().items())


def test_both_signatures_build_the_same_network(with_old_trainer: Project) -> None:
    setup = with_old_trainer.setup()
    assert network_size(setup, OLD) == network_size(setup, "nnUNetTrainer")


@pytest.mark.parametrize("trainer", [OLD, "nnUNetTrainer"])
@pytest.mark.parametrize("deep", [False, True])
def test_deep_supervision_is_passed_on(with_old_trainer: Project, trainer: str, deep: bool) -> None:
    setup = with_old_trainer.setup()
    network = build_network(
        find_trainer(trainer), setup.plans_manager, setup.configuration_manager, setup.num_channels, setup.heads, deep_supervision=deep
    )
    assert network.decoder.deep_supervision is deep
