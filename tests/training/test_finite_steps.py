"""Losses and weights that are no numbers: skipped, named, and never saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_training import log, run, same
from small_disk import small_disk
from torch import nn

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.trained_model import load_trained_model
from nnunet_ssl.training import finite_steps as module
from nnunet_ssl.training.finite_steps import MOST_IN_A_ROW, FiniteSteps
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer
from nnunet_ssl.training.warm_start import load_all_weights

Settings = Callable[..., dict[str, Any]]


class Broken(nn.Module):
    """A loss that is no number at some of its steps."""

    def __init__(self, loss: Any, value: float, steps: Callable[[int], bool]) -> None:
        super().__init__()
        self.inner, self.value, self.steps, self.step = loss, value, steps, 0

    def forward(self, output: Any, target: Any) -> torch.Tensor:
        loss = self.inner(output, target)
        if torch.is_grad_enabled():
            self.step += 1
            if self.steps(self.step):
                return loss * self.value  # type: ignore[no-any-return]
        return loss  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "inner" or "inner" not in self._modules else getattr(self._modules["inner"], name)


def broken_trainer(tiny: Any, settings: dict[str, Any], value: float, steps: Callable[[int], bool], kind: Any) -> Any:
    trainer = tiny.trainer(kind, settings=settings)
    trainer.initialize()
    trainer.loss = Broken(trainer.loss, value, steps)
    return trainer


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return copy.deepcopy(trainer.network.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", ["nnunet", "adamw"])
def test_a_step_without_a_number_changes_nothing(tiny: Any, short: Settings, value: float, optimizer: str) -> None:
    settings = short(student={"optimizer": optimizer})
    trainer = broken_trainer(tiny, settings, value, lambda step: step == 2, SemiSupervisedStudentTrainer)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    states = [weights(trainer)]
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
        states.append(weights(trainer))
    assert not same(states[1], states[0])
    assert same(states[2], states[1])
    assert not same(states[3], states[2])
    assert trainer.finite_steps.skipped == 1
    assert all(torch.isfinite(v).all() for v in states[3].values())
    assert all(torch.isfinite(v).all() for v in trainer.average._averaged.values())


@pytest.mark.parametrize("kind", [SemiSupervisedStudentTrainer, TransASPPStudentTrainer, TransASPPTeacherTrainer])
def test_a_training_that_stays_broken_stops_with_its_last_good_checkpoint(
    tiny: Any, short: Settings, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_A_ROW", 3)
    tiny.write_sidecar(num_epochs=3)
    dataset = {} if kind is not TransASPPTeacherTrainer else {"dataset": "Dataset137_Tiny"}
    trainer = tiny.trainer(kind, **dataset, settings=short(epochs=3, iterations=2))
    trainer.initialize()
    trainer.loss = Broken(trainer.loss, float("nan"), lambda step: step > 2)
    with pytest.raises(StateError) as raised:
        trainer.run_training()
    message = str(raised.value)
    assert message.startswith("epoch 2: 3 steps in a row had a loss or gradient that is NaN or infinite (loss nan")
    assert ("loss_supervised" in message) == (kind is not TransASPPTeacherTrainer)
    assert "cases of the last batch: " in message
    assert "lab_" in message
    assert message.endswith("look at these images; then add --c.")
    assert not (Path(trainer.output_folder) / "checkpoint_final.pth").exists()
    for checkpoint in Path(trainer.output_folder).glob("checkpoint_*.pth"):
        assert all(torch.isfinite(v).all() for v in load_checkpoint(checkpoint)["network_weights"].values())
    assert "2 of 2 steps had no finite loss and gradient and changed nothing" in Path(trainer.log_file).read_text()


def test_bad_steps_are_counted_in_a_row() -> None:
    steps = FiniteSteps()
    for _ in range(3):
        for _ in range(MOST_IN_A_ROW - 1):
            steps.after_step(np.array(np.nan), {}, epoch=0, cases=[])
        steps.after_step(np.array(0.5), {}, epoch=0, cases=[])
    for _ in range(MOST_IN_A_ROW - 1):
        steps.after_step(np.array(np.inf), {}, epoch=0, cases=[])
    with pytest.raises(StateError, match=r"loss inf, loss_low -3; cases of the last batch: a, b"):
        steps.after_step(np.array(np.inf), {"loss_low": np.array([-3.0]), "per_class": np.ones(3)}, epoch=0, cases=["a", "b"])


def test_gradients_that_overflow_while_the_loss_does_not_count_too() -> None:
    steps, parameter = FiniteSteps(), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9, weight_decay=0.5)
    steps.guard(optimizer)
    parameter.grad = torch.tensor([1.0, torch.inf])
    optimizer.step()
    assert parameter.tolist() == [1, 1]
    steps.after_step(np.array(0.5), {}, epoch=0, cases=[])
    assert steps.skipped == 1
    parameter.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    assert parameter.tolist() == [-0.5, 0.5]


def test_a_gradient_scaler_at_its_end_stops_the_training() -> None:
    class Scaler:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def get_scale(self) -> float:
            return self.scale

    FiniteSteps().check_scale(None, epoch=0)
    FiniteSteps().check_scale(Scaler(2.0**-2), epoch=0)
    with pytest.raises(
        StateError, match=r"epoch 4: the gradients are NaN or infinite in step after step \(the gradient scaler is down to 0.1"
    ):
        FiniteSteps().check_scale(Scaler(2.0**-3), epoch=4)


# ---- with a gradient scaler, as on a GPU


def test_below_the_smallest_scale_no_gradient_is_left() -> None:
    largest = 1 / (2 * 128**3)  # of a voxel's share in a mean cross-entropy
    kept, lost = torch.tensor([largest * module.SMALLEST_SCALE, largest * module.SMALLEST_SCALE / 2]).half().tolist()
    assert (kept > 0, lost) == (True, 0)


def scaled_step(steps: FiniteSteps, scaler: Any, loss_factor: float = 1.0, gradient_factor: float = 1.0) -> None:
    """One step of nnU-Net's form with a scaler, which works on CPUs as well."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    loss = parameter.sum() * loss_factor
    steps.before_step(scaler)
    scaler.scale(loss).backward()
    assert parameter.grad is not None
    parameter.grad *= gradient_factor
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    steps.after_step(loss.detach().numpy(), {}, epoch=3, cases=["a"], scaler=scaler)
    assert torch.equal(parameter.detach(), torch.ones(2)) == (not np.isfinite(loss_factor * gradient_factor))


def test_steps_that_a_scaler_leaves_out_are_counted() -> None:
    steps, scaler = FiniteSteps(), torch.amp.GradScaler("cpu")
    scaled_step(steps, scaler)
    scaled_step(steps, scaler, gradient_factor=float("inf"))
    assert (steps.skipped, scaler.get_scale()) == (1, 2.0**15)
    for _ in range(MOST_IN_A_ROW - 2):
        scaled_step(steps, scaler, gradient_factor=float("nan"))
    with pytest.raises(StateError, match="epoch 3: 20 steps in a row had a loss or gradient that is NaN or infinite"):
        scaled_step(steps, scaler, gradient_factor=float("inf"))


def test_broken_images_now_and_then_do_not_use_up_the_scale() -> None:
    """A scaler takes a NaN loss for an overflow: 30 of them, one in 50 steps, would take it from 2^16 to 2^-14."""
    steps, scaler = FiniteSteps(), torch.amp.GradScaler("cpu")
    for step in range(1500):
        scaled_step(steps, scaler, loss_factor=float("nan") if step % 50 == 0 else 1.0)
    assert (steps.skipped, scaler.get_scale()) == (30, 2.0**16)


def test_scales_of_several_processes_stay_alike() -> None:
    """Only one of them may have seen the broken image; all have left the step out."""
    steps, scaler = FiniteSteps(restores_scale=False), torch.amp.GradScaler("cpu")
    scaled_step(steps, scaler, loss_factor=float("nan"))
    assert (steps.skipped, scaler.get_scale()) == (1, 2.0**15)


@pytest.mark.parametrize("kind", [SemiSupervisedStudentTrainer, CrossPseudoSupervisionTrainer])
def test_trainers_with_a_scaler_count_and_restore(tiny: Any, short: Settings, kind: Any) -> None:
    trainer = tiny.trainer(kind, settings=short())
    trainer.grad_scaler = torch.amp.GradScaler("cpu")  # nnU-Net makes one where it trains on a GPU
    trainer.initialize()
    trainer.loss = Broken(trainer.loss, float("nan"), lambda step: step == 2)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    assert (trainer.finite_steps.skipped, trainer.grad_scaler.get_scale()) == (1, 2.0**16)
    if kind is CrossPseudoSupervisionTrainer:
        assert (trainer.second.finite_steps.skipped, trainer.second.grad_scaler.get_scale()) == (0, 2.0**16)
        next(iter(trainer.second.network.parameters())).register_hook(lambda gradient: gradient * float("inf"))
        trainer.train_step(next(trainer.dataloader_train))
        assert (trainer.second.finite_steps.skipped, trainer.second.grad_scaler.get_scale()) == (1, 2.0**15)


@pytest.fixture
def saved(tiny: Any, short: Settings) -> tuple[Any, Path]:
    """A student and its checkpoint."""
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    trainer.initialize()
    path = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    return trainer, path


@pytest.mark.parametrize("where", ["network", "average"])
def test_nan_weights_are_not_saved(saved: tuple[Any, Path], where: str) -> None:
    trainer, path = saved
    before = path.read_bytes()
    state = trainer.network.state_dict() if where == "network" else trainer.average._averaged
    name = next(iter(state))
    state[name].view(-1)[0] = torch.nan
    with pytest.raises(
        StateError, match=rf"epoch 0: '{name}' of the network holds NaN or infinity, so .*checkpoint_latest\.pth was not written"
    ):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert [f.name for f in path.parent.glob("*check*")] == [path.name]


def test_nan_weights_are_neither_used_nor_started_from(saved: tuple[Any, Path]) -> None:
    trainer, path = saved
    checkpoint = torch.load(path, weights_only=False)
    name = next(iter(checkpoint["network_weights"]))
    checkpoint["network_weights"][name].view(-1)[0] = torch.inf
    final = path.with_name("checkpoint_final.pth")
    torch.save(checkpoint, final)
    message = rf"fold_0/checkpoint_final\.pth holds NaN or infinite weights \(the first in '{name}'\): its training has diverged"
    with pytest.raises(StateError, match=message):
        load_all_weights(trainer.network, final, 0)
    trainer.save_checkpoint(str(path))  # its network has taken none of them; the final checkpoint is set aside
    torch.save(checkpoint, final)
    (final.parent.parent / "plans.json").write_text((Path(trainer.preprocessed_dataset_folder_base) / "nnUNetPlans.json").read_text())
    (final.parent.parent / "dataset.json").write_text((Path(trainer.preprocessed_dataset_folder_base) / "dataset.json").read_text())
    with pytest.raises(StateError, match=message):
        load_trained_model(final.parent.parent, [0])


def test_a_checkpoint_on_a_full_disk(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """PyTorch only says that a position in the file was unexpected."""
    trainer, path = saved
    size = path.stat().st_size
    with small_disk(tmp_path / "disk", 4 * size) as disk:
        there = disk.root / path.name
        trainer.save_checkpoint(str(there))
        before = there.read_bytes()
        for room in (0, size // 4, size // 2):
            disk.leave(room)
            with pytest.raises(OSError, match="No space left on device") as raised:
                trainer.save_checkpoint(str(there))
            assert raised.value.filename == str(there)
            assert there.read_bytes() == before
            assert [f.name for f in disk.root.iterdir()] == [path.name]
        disk.leave(4 * size)
        trainer.save_checkpoint(str(there))
        assert load_checkpoint(there)["current_epoch"] == 1


def test_training_log_is_unchanged_where_all_is_well(tiny: Any, short: Settings) -> None:
    trainer = run(tiny.trainer(SemiSupervisedStudentTrainer, settings=short(epochs=1)))
    assert np.isfinite(log(trainer)["train_losses"]).all()
    assert "no finite loss" not in Path(trainer.log_file).read_text()
