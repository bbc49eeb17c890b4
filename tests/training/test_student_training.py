"""Real trainings of both students, of seconds, on a stage of two labelled and two pool cases."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from short_training import log, run, same

from nnunet_ssl.config import StudentConfig
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

BOTH = [TransASPPStudentTrainer, SemiSupervisedStudentTrainer]
Settings = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("kind", BOTH)
def test_two_epochs(tiny: Any, short: Settings, kind: Any) -> None:
    trainer = run(tiny.trainer(kind, settings=short()))
    assert {len(values) for values in log(trainer).values()} == {2}
    for name in ("loss_supervised", "loss_high", "loss_low", "confident_share", "unlearning_gradient_ratio"):
        assert np.isfinite(log(trainer)[name]).all(), name
    assert len(log(trainer)["confident_share_per_class"][0]) == 3
    assert log(trainer)["lrs"] == pytest.approx([1e-2, 1e-2 * 0.5**0.9])
    assert sorted(p.name for p in Path(trainer.output_folder).glob("*.pth")) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    text = Path(trainer.log_file).read_text()
    assert '"lambda_high": 1.0' in text
    assert ("Network derived" in text) == (kind is TransASPPStudentTrainer)


@pytest.mark.parametrize(
    "options",
    [{"dim": 2, "patch": (16, 16)}, {"patch": (4, 16, 16)}, {"regions": True}, {"ignore": True}],
    ids=["2d", "dummy-2d", "regions", "ignore-label"],
)
def test_other_kinds_of_data(make_tiny: Any, short: Settings, options: dict[str, Any]) -> None:
    tiny = make_tiny(**options)
    trainer = run(tiny.trainer(TransASPPStudentTrainer, settings=short(epochs=1, student={"cutmix": 1.0})))
    assert np.isfinite(log(trainer)["train_losses"]).all()
    assert np.isfinite(log(trainer)["loss_high"]).all()


@pytest.mark.parametrize(("batch_size", "share"), [(1, 0.5), (2, 0.9), (2, 0.1)])
def test_batches_of_one_kind(tiny: Any, short: Settings, batch_size: int, share: float) -> None:
    tiny.plans["configurations"][tiny.configuration]["batch_size"] = batch_size
    tiny.write_sidecar(num_epochs=1)
    settings = short(iterations=8, student={"labelled_share": share, "refresh": 1.0})
    trainer = run(tiny.trainer(SemiSupervisedStudentTrainer, settings=settings))
    assert np.isfinite(log(trainer)["train_losses"]).all()


def test_share_of_one_leaves_the_pool_out(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short(student={"labelled_share": 1.0, "refresh": 1.0, "cutmix": 1.0}))
    trainer.initialize()
    training, _ = trainer.get_dataloaders()
    assert not [key for _ in range(6) for key in next(training)["keys"] if key.startswith("pool")]
    tiny.write_sidecar(num_epochs=1)
    values = log(run(tiny.trainer(SemiSupervisedStudentTrainer, settings=short(student={"labelled_share": 1.0, "refresh": 1.0}))))
    assert np.isfinite(values["train_losses"]).all()
    assert values["train_losses"] == pytest.approx(values["loss_supervised"])
    assert np.isnan(values["loss_high"]).all()


def test_batches_are_mixed_and_targets_follow_the_segmentation(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    for _ in range(6):
        batch = next(training)
        from_pool = [key.startswith("pool") for key in batch["keys"]]
        assert sum(from_pool) == 1
        scales = len(batch["target"]) // 2
        assert scales == len(trainer._get_deep_supervision_scales())
        for seg, extra in zip(batch["target"][:scales], batch["target"][scales:], strict=True):
            assert extra.shape == (2, 5, *seg.shape[2:])
            for sample, is_pool in enumerate(from_pool):
                code = extra[sample, 0]
                assert set(code.unique().tolist()) <= ({2, 3} if is_pool else {0, 1})
                exists = code == 1
                one_hot = torch.stack([seg[sample, 0] == k for k in range(3)])
                # not all: at the border of the image a label competes with padding, its probability does not
                agree = (extra[sample, 2:].argmax(0) == one_hot.int().argmax(0))[exists].float().mean()
                assert is_pool or agree > 0.97
    held_out = next(validation)
    assert set(held_out["keys"]) == {"lab_2"}
    assert len(held_out["target"]) == scales


def test_outputs_match_the_scales_of_the_targets(make_tiny: Any, short: Settings) -> None:
    for options in ({}, {"patch": (4, 16, 16)}):
        trainer = make_tiny(**options).trainer(TransASPPStudentTrainer, settings=short())
        trainer.initialize()
        batch = next(trainer.get_dataloaders()[0])
        outputs = trainer.network(batch["data"])
        assert [tuple(o.shape[2:]) for o in outputs] == [tuple(t.shape[2:]) for t in batch["target"][: len(outputs)]]


def test_ramp_of_the_first_stage_alone(tiny: Any, short: Settings) -> None:
    settings = short(epochs=5, iterations=4, student={"ramp_up": 0.5})
    tiny.write_sidecar(num_epochs=5)
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=settings)
    ramps = []
    for trainer._step in (0, 5, 10, 19):
        ramps.append(trainer._ramp())
    assert ramps == [0, 0.5, 1, 1]
    tiny.write_sidecar(stage=2)
    assert tiny.trainer(SemiSupervisedStudentTrainer, settings=settings)._ramp() == 1


@pytest.mark.parametrize("ema", [True, False])
def test_continues_from_an_interruption(tiny: Any, short: Settings, ema: bool) -> None:
    tiny.write_sidecar(num_epochs=3)
    settings = short(student={"ema": ema})
    before = run(tiny.trainer(SemiSupervisedStudentTrainer, settings=settings), until_epoch=2)
    after = tiny.trainer(SemiSupervisedStudentTrainer, settings=settings)
    maybe_load_checkpoint(after, True, False)
    assert after.current_epoch == 2
    assert same(after.network.state_dict(), before.network.state_dict())
    states = [t.optimizer.state_dict()["state"] for t in (before, after)]
    assert all(torch.equal(states[0][k]["momentum_buffer"], states[1][k]["momentum_buffer"]) for k in states[0])
    if ema:
        assert after.average.num_updates == before.average.num_updates == 4
        assert same(after.average._averaged, before.average._averaged)
        assert not same(after.average._averaged, after.average._current())
    run(after)
    assert {len(values) for values in log(after).values()} == {3}
    assert after._step == 6
    assert not list(Path(after.output_folder).glob("checkpoint_latest*"))


@pytest.mark.parametrize("ema", [True, False])
def test_the_last_factor_of_the_unlearning_cap_is_carried_on(tiny: Any, short: Settings, ema: bool) -> None:
    """A batch of pool samples alone has nothing to measure it by."""
    tiny.write_sidecar(num_epochs=3)
    before = tiny.trainer(TransASPPStudentTrainer, settings=short(student={"ema": ema}))
    before.initialize()
    before.on_train_start()
    before.loss.last_scale = torch.tensor(0.3)
    before.current_epoch = 1
    before.save_checkpoint(str(Path(before.output_folder) / "checkpoint_latest.pth"))
    after = tiny.trainer(TransASPPStudentTrainer, settings=short(student={"ema": ema}))
    maybe_load_checkpoint(after, True, False)
    assert torch.equal(after.loss.last_scale, torch.tensor(0.3))


def test_checkpoints_hold_the_average_for_inference(tiny: Any, short: Settings) -> None:
    trainer = run(tiny.trainer(TransASPPStudentTrainer, settings=short(student={"ema_decay": 0.5})))
    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    checkpoint = load_checkpoint(file)
    raw = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    with trainer.average.applied():
        assert same(checkpoint["network_weights"], trainer.network.state_dict())
    weights = checkpoint["nnssl"]["raw_weights"]
    assert all(torch.equal(weights[name], raw[name]) for name in weights)
    assert any(not torch.equal(weights[name], checkpoint["network_weights"][name]) for name in weights)
    assert checkpoint["nnssl"]["num_updates"] == 4
    assert [p.name for p in file.parent.glob(".*")] == []


def test_validation_sees_the_average(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    trainer.initialize()
    raw = copy.deepcopy(trainer.network.state_dict())
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter += 1
    trainer.on_validation_epoch_start()
    assert same(trainer.network.state_dict(), raw)
    trainer.on_validation_epoch_end([{"loss": np.array(0.0), **{f"{k}_hard": np.ones(2) for k in ("tp", "fp", "fn")}}])
    assert not same(trainer.network.state_dict(), raw)


def test_nothing_is_written_when_checkpoints_are_off(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short(epochs=1))
    trainer.disable_checkpointing = True
    run(trainer)
    assert not list(Path(trainer.output_folder).glob("*.pth"))


@pytest.mark.parametrize("kind", BOTH)
def test_starts_from_the_previous_student(tiny: Any, short: Settings, kind: Any) -> None:
    first = run(tiny.trainer(kind, settings=short(epochs=1)))
    file = Path(first.output_folder) / "checkpoint_final.pth"
    tiny.write_sidecar(stage=2, init="previous", init_checkpoint=file.relative_to(tiny.results).as_posix())
    second = tiny.trainer(kind, settings=short(epochs=1))
    second.initialize()
    weights = load_checkpoint(file)["network_weights"]
    assert same(second.network.state_dict(), weights)
    assert same(second.average._averaged, {name: weights[name] for name in second.average._averaged})
    assert second.initial_lr == StudentConfig().warm_lr


def test_continuing_does_not_need_what_the_stage_started_from(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(num_epochs=1)
    trainer = run(tiny.trainer(SemiSupervisedStudentTrainer, settings=short()))
    tiny.write_sidecar(init="previous", init_checkpoint="gone.pth")
    again = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    maybe_load_checkpoint(again, False, True)
    assert same(again.network.state_dict(), trainer.network.state_dict())


def test_weights_that_do_not_fit(tiny: Any, short: Settings) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    trainer.initialize()
    weights = trainer.network.state_dict()
    file = tiny.results / "other.pth"
    tiny.write_sidecar(init="previous", init_checkpoint="other.pth")
    name = next(iter(weights))
    for changed, message in (
        ({**weights, name: torch.zeros(1)}, rf"other\.pth does not fit .*'{name}' has shape \(1,\)"),
        ({k: v for k, v in weights.items() if k != name}, f"only the network has '{name}'"),
        ({**weights, "surplus": torch.zeros(1)}, "only the checkpoint has 'surplus'"),
    ):
        torch.save({"network_weights": changed}, file)
        with pytest.raises(StateError, match=message):
            tiny.trainer(SemiSupervisedStudentTrainer, settings=short()).initialize()


def test_pretrained_weights_of_nnunet_win(tiny: Any, short: Settings) -> None:
    first = run(tiny.trainer(SemiSupervisedStudentTrainer, settings=short(epochs=1)))
    second = tiny.trainer(SemiSupervisedStudentTrainer, settings=short(epochs=1))
    maybe_load_checkpoint(second, False, False, str(Path(first.output_folder) / "checkpoint_final.pth"))
    second.on_train_start()
    assert same(second.average._averaged, second.average._current())


@pytest.mark.parametrize("optimizer", ["nnunet", "adamw"])
def test_last_stage_fine_tunes_and_distils(tiny: Any, short: Settings, optimizer: str) -> None:
    tiny.write_sidecar(num_epochs=1, num_stages=1)
    extra = {"fine_tune_epochs": 1, "distillation_epochs": 2, "optimizer": optimizer}
    trainer = tiny.trainer(TransASPPStudentTrainer, settings=short(student=extra))
    assert trainer.num_epochs == 4
    run(trainer, until_epoch=2)
    assert trainer._stage_dataset.labelled_share == 1.0
    with trainer.average.applied():
        averaged = copy.deepcopy(trainer.network.state_dict())

    after = tiny.trainer(TransASPPStudentTrainer, settings=short(student=extra))
    maybe_load_checkpoint(after, True, False)
    run(after)
    values = log(after)
    assert {len(v) for v in values.values()} == {4}
    assert np.isfinite(values["loss_high"]).tolist() == [True, False, False, False]
    assert np.isfinite(values["loss_uncertainty"]).tolist() == [False, False, True, True]
    assert values["lrs"] == pytest.approx([1e-2, trainer.method.student.warm_lr, 1e-3, 1e-3 * 0.5**0.9])
    final = load_checkpoint(Path(after.output_folder) / "checkpoint_final.pth")["network_weights"]
    moved = {name for name in final if not torch.equal(final[name], averaged[name])}
    assert moved
    assert all(name.startswith("uncertainty_head.") for name in moved)


def test_no_distillation_where_there_is_no_head_or_another_stage_follows(tiny: Any, short: Settings) -> None:
    settings = short(student={"distillation_epochs": 5})
    tiny.write_sidecar(num_stages=1)
    assert tiny.trainer(SemiSupervisedStudentTrainer, settings=settings).num_epochs == 2
    assert tiny.trainer(TransASPPStudentTrainer, settings=settings).num_epochs == 7
    tiny.write_sidecar(num_stages=2)
    assert tiny.trainer(TransASPPStudentTrainer, settings=settings).num_epochs == 2


def test_student_of_a_teacher(tiny: Any, short: Settings) -> None:
    teacher = run(tiny.trainer(TransASPPTeacherTrainer, "Dataset137_Tiny", settings=short(epochs=1)))
    file = Path(teacher.output_folder) / "checkpoint_final.pth"
    tiny.write_sidecar(init="teacher", init_checkpoint=file.relative_to(tiny.results).as_posix())
    student = tiny.trainer(TransASPPStudentTrainer, settings=short())
    student.initialize()
    assert same(student.network.state_dict(), teacher.network.state_dict())


def test_worker_processes(tiny: Any, short: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    tiny.write_sidecar(num_epochs=1, num_stages=1)
    settings = short(student={"fine_tune_epochs": 1, "distillation_epochs": 1})
    trainer = run(tiny.trainer(TransASPPStudentTrainer, settings=settings))
    assert {len(v) for v in log(trainer).values()} == {3}
