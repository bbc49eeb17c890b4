"""The second network of cross pseudo supervision."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from short_training import log, run, same

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.training.finite_steps import MOST_IN_A_ROW
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.peer_loss import pool_samples
from nnunet_ssl.training.student import TransASPPStudentTrainer

Settings = Callable[..., dict[str, Any]]


def momenta(optimizer: Any) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state_dict()["state"].values()]


def initialised(tiny: Any, settings: dict[str, Any]) -> Any:
    trainer = tiny.trainer(CrossPseudoSupervisionTrainer, settings=settings)
    trainer.initialize()
    trainer.network.train()
    return trainer


def test_the_networks_differ_from_the_start(tiny: Any, short: Settings) -> None:
    trainer = initialised(tiny, short())
    first, second = trainer.network.state_dict(), trainer.second.network.state_dict()
    assert first.keys() == second.keys()
    convolutions = [name for name in first if first[name].ndim == 5]
    assert convolutions
    assert all(not torch.equal(first[name], second[name]) for name in convolutions)


def test_second_network_of_a_trainer_with_nnunets_older_signature(tiny: Any, short: Settings) -> None:
    class OlderTrainer(CrossPseudoSupervisionTrainer):
        has_uncertainty_head = False

        @staticmethod
        def build_network_architecture(
            architecture_class_name: str,
            arch_init_kwargs: dict[str, Any],
            arch_init_kwargs_req_import: list[str],
            num_input_channels: int,
            num_output_channels: int,
            enable_deep_supervision: bool = True,
        ) -> Any:
            return get_network_from_plans(
                architecture_class_name,
                arch_init_kwargs,
                arch_init_kwargs_req_import,
                num_input_channels,
                num_output_channels,
                deep_supervision=enable_deep_supervision,
            )

    trainer = tiny.trainer(OlderTrainer, settings=short())
    with pytest.warns(DeprecationWarning, match="OlderTrainer uses the old build_network_architecture signature"):
        trainer.initialize()
    assert type(trainer.second.network).__name__ == "PlainConvUNet"
    assert trainer.second.network.state_dict().keys() == trainer.network.state_dict().keys()


def test_a_warm_start_is_shared_but_for_the_decoder(tiny: Any, short: Settings) -> None:
    student = run(tiny.trainer(TransASPPStudentTrainer, settings=short(epochs=1)))
    file = Path(student.output_folder) / "checkpoint_final.pth"
    tiny.write_sidecar(init="teacher", init_checkpoint=file.relative_to(tiny.results).as_posix())
    trainer = initialised(tiny, short())
    first, second = trainer.network.state_dict(), trainer.second.network.state_dict()
    equal = {name for name in first if torch.equal(first[name], second[name])}
    parts = {name: name.partition(".")[0] for name in first}
    assert {parts[name] for name in equal} >= {"encoder", "aspp", "transformer"}
    assert equal >= {name for name in first if parts[name] in ("encoder", "aspp", "transformer")}
    weights = [name for name in first if parts[name] == "decoder" and first[name].ndim == 5]
    assert weights
    assert not equal & set(weights)


def test_weights_that_come_in_after_the_start_are_shared_too(tiny: Any, short: Settings) -> None:
    """As with `-pretrained_weights`, which nnU-Net loads into the network that it knows."""
    trainer = initialised(tiny, short())
    drawn = {name: value.clone() for name, value in trainer.second.network.state_dict().items()}
    trainer.network.load_state_dict({name: value + 1 for name, value in trainer.network.state_dict().items()})
    trainer.on_train_start()
    first, second = trainer.network.state_dict(), trainer.second.network.state_dict()
    for name in first:
        expected = drawn if name.startswith(("decoder.", "uncertainty_head.")) else first
        assert torch.equal(second[name], expected[name])


def test_a_second_network_that_never_has_a_finite_loss_stops_the_training(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=1)
    trainer = tiny.trainer(CrossPseudoSupervisionTrainer, settings=short(epochs=1))
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    trainer.second.loss.weight = math.nan
    trainer.second.loss.ramp = 1.0
    trainer._step = 10**6
    for _ in range(MOST_IN_A_ROW - 1):
        trainer.train_step(batch)
    with pytest.raises(StateError, match="steps in a row had a loss or gradient that is NaN or infinite"):
        trainer.train_step(batch)


def test_each_learns_what_the_other_decided_before_the_step(tiny: Any, short: Settings) -> None:
    # without dropout, so that a network decides the same twice
    tiny.plans["configurations"][tiny.configuration]["architecture"]["arch_kwargs"] |= {
        "dropout_op": "torch.nn.Dropout3d",
        "dropout_op_kwargs": {"p": 0.0},
    }
    trainer = initialised(tiny, short(student={"ramp_up": 0.0}))
    batch = next(trainer.get_dataloaders()[0])
    images = batch["data"][pool_samples(batch["target"])]
    networks = (trainer.network, trainer.second.network)
    before = [copy.deepcopy(n.state_dict()) for n in networks]
    with torch.no_grad():
        decided = [n(images)[0].argmax(1) for n in networks]
    assert not torch.equal(*decided)
    outputs = trainer.train_step(batch)

    assert torch.equal(trainer.loss.reference, decided[1])
    assert torch.equal(trainer.second.loss.reference, decided[0])
    assert (trainer.network, trainer.second.network) == networks
    assert not same(before[0], networks[0].state_dict())
    assert not same(before[1], networks[1].state_dict())
    assert [outputs[name].item() for name in ("pool_weight", "pool_weight_second")] == [1.5, 1.5]
    assert outputs["loss_pool"] != outputs["loss_pool_second"]


def test_the_second_learns_at_the_same_rate_and_from_labels_alone_afterwards(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=2, num_stages=1)
    settings = short(student={"fine_tune_epochs": 1, "distillation_epochs": 1})
    trainer = run(tiny.trainer(CrossPseudoSupervisionTrainer, settings=settings))
    assert np.isfinite(log(trainer)["loss_supervised_second"]).tolist() == [True, True, True, False]
    assert np.isfinite(log(trainer)["loss_pool_second"]).tolist() == [True, True, False, False]
    rates = [t.optimizer.param_groups[0]["lr"] for t in (trainer, trainer.second)]
    assert rates[0] == rates[1]


def test_continues_with_the_second_network(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=3)
    before = run(tiny.trainer(CrossPseudoSupervisionTrainer, settings=short()), until_epoch=2)
    after = tiny.trainer(CrossPseudoSupervisionTrainer, settings=short())
    maybe_load_checkpoint(after, True, False)
    assert same(after.second.network.state_dict(), before.second.network.state_dict())
    assert not same(after.second.network.state_dict(), after.network.state_dict())
    ours, theirs = momenta(after.second.optimizer), momenta(before.second.optimizer)
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    final = load_checkpoint(Path(run(after).output_folder) / "checkpoint_final.pth")
    assert same(final["network_weights"], after.network.state_dict())
    assert same(final["nnssl"]["second"]["network_weights"], after.second.network.state_dict())


def test_a_checkpoint_of_another_trainer(tiny: Any, short: Settings) -> None:
    student = run(tiny.trainer(TransASPPStudentTrainer, settings=short(epochs=1)))
    trainer = tiny.trainer(CrossPseudoSupervisionTrainer, settings=short())
    with pytest.raises(StateError, match="has no second network"):
        trainer.load_checkpoint(str(Path(student.output_folder) / "checkpoint_final.pth"))


def test_each_has_a_gradient_scaler_of_its_own(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=1)
    trainer = tiny.trainer(CrossPseudoSupervisionTrainer, settings=short(epochs=1))
    # nnU-Net makes one on CUDA devices
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    trainer.initialize()
    trainer.train_step(next(trainer.get_dataloaders()[0]))
    assert trainer.grad_scaler is not trainer.second.grad_scaler
    assert [s.get_scale() for s in (trainer.grad_scaler, trainer.second.grad_scaler)] == [16.0, 16.0]
    state = trainer.second.state()
    trainer.train_step(next(trainer.get_dataloaders()[0]))
    assert trainer.second.grad_scaler.get_scale() == 32.0
    trainer.second.restore(state)
    assert trainer.second.grad_scaler.get_scale() == 16.0


def test_ramp_of_every_stage(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=5, stage=2)
    trainer = tiny.trainer(CrossPseudoSupervisionTrainer, settings=short(iterations=4, student={"ramp_up": 0.5}))
    ramps = []
    for trainer._step in (0, 5, 10, 19):
        ramps.append(trainer._ramp())
    assert ramps == [0, 0.5, 1, 1]
