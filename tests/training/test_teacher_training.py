"""Real trainings of the teacher, of seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from short_training import log, run

from nnunet_ssl.data import pool_index
from nnunet_ssl.data.groups import keep_groups
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint, pool_images_seen
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

DATASET = "Dataset137_Tiny"
HEAD = "uncertainty_head."


@pytest.fixture
def make_teacher(tiny: Any, short: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Teachers with two epochs of each phase."""
    monkeypatch.setattr(pool_index, "find_pool", lambda plans, configuration: None)

    def make(**teacher: Any) -> Any:
        settings = short(epochs=2, teacher={"distillation_epochs": 2, **teacher})
        return tiny.trainer(TransASPPTeacherTrainer, DATASET, settings=settings)

    return make


def state(trainer: Any) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = copy.deepcopy(trainer.network.state_dict())
    return weights


def changed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_both_phases(make_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_teacher()
    plots = []
    trainer.logger.plot_progress_png = lambda folder: plots.append(MetaLogger.plot_progress_png(trainer.logger, folder))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path: Path(path).touch())
    phases = []
    step = trainer.train_step

    def observed(batch: dict[str, Any]) -> dict[str, Any]:
        before = state(trainer)
        result: dict[str, Any] = step(batch)
        names = changed(before, state(trainer))
        phases.append((trainer.phase.name, any(n.startswith(HEAD) for n in names), any(not n.startswith(HEAD) for n in names)))
        assert set(result) == {"loss", "loss_uncertainty"}
        return result

    trainer.train_step = observed
    trainer.run_training()
    assert phases == [("supervised", False, True)] * 4 + [("uncertainty distillation", True, False)] * 4
    values = log(trainer)
    assert {len(v) for v in values.values()} == {4}
    assert np.isfinite(values["loss_uncertainty"]).tolist() == [False, False, True, True]
    assert values["train_losses"][2] == values["train_losses"][3] == values["train_losses"][1]
    assert values["lrs"] == pytest.approx([1e-2, 1e-2 * 0.5**0.9, 1e-3, 1e-3 * 0.5**0.9])
    assert all(np.isreal(v) for v in values["lrs"])
    assert len(plots) == 4
    assert (Path(trainer.output_folder) / "progress.png").is_file()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_continues_from_an_interruption_in_either_phase(make_teacher: Any, epoch: int) -> None:
    before = run(make_teacher(), until_epoch=epoch)
    after = make_teacher()
    maybe_load_checkpoint(after, True, False)
    assert after.current_epoch == epoch
    assert after.phase.name == before.phase.name
    assert not changed(state(before), state(after))
    assert len(after.optimizer.param_groups) == len(before.optimizer.param_groups) == 1
    momenta = [t.optimizer.state_dict()["state"] for t in (before, after)]
    assert momenta[0].keys() == momenta[1].keys()
    assert all(torch.equal(momenta[0][k]["momentum_buffer"], momenta[1][k]["momentum_buffer"]) for k in momenta[0])
    after.run_training()
    assert {len(v) for v in log(after).values()} == {4}
    assert log(after)["lrs"] == pytest.approx([1e-2, 1e-2 * 0.5**0.9, 1e-3, 1e-3 * 0.5**0.9])
    assert log(after)["train_losses"][:epoch] == log(before)["train_losses"][:epoch]
    if epoch >= 2:
        assert all(name.startswith(HEAD) for name in changed(state(before), state(after)))


def test_a_long_training_is_saved_between_the_phases(make_teacher: Any) -> None:
    trainer = make_teacher(length={"num_epochs": 60, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}, distillation_epochs=40)
    assert trainer.schedule.save_every == 10
    intervals = []
    for trainer.current_epoch in (0, 58, 59, 60, 99):
        trainer.logger.local_logger.my_fantastic_logging["epoch_start_timestamps"] = [0.0] * trainer.current_epoch
        trainer.on_epoch_start()
        intervals.append(trainer.save_every)
    assert intervals == [10, 10, 1, 10, 1]


def test_without_distillation_it_is_one_phase(make_teacher: Any) -> None:
    trainer = make_teacher(distillation_epochs=0)
    trainer.run_training()
    assert {len(v) for v in log(trainer).values()} == {2}
    assert np.isnan(log(trainer)["loss_uncertainty"]).all()


def test_settings_reach_nnunet(make_teacher: Any) -> None:
    trainer = make_teacher(lambda_ce=0.25, initial_lr=0.5, weight_decay=0.125)
    trainer.initialize()
    assert trainer.loss.loss.weight_ce == 0.25
    assert trainer.loss.loss.weight_dice == 1
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.125)


def test_adamw_takes_the_place_of_nnunets_optimizer(make_teacher: Any) -> None:
    trainer = make_teacher(optimizer="adamw", initial_lr=1e-3, weight_decay=1e-2)
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.AdamW
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-2)
    assert len(group["params"]) == len(list(trainer.network.parameters()))
    assert trainer.lr_scheduler.optimizer is trainer.optimizer


def test_defaults_without_an_nnssl_section(tiny: Any) -> None:
    trainer = tiny.trainer(TransASPPTeacherTrainer, DATASET)
    teacher = trainer.method.teacher
    assert trainer.num_epochs == 1000 + teacher.distillation_epochs
    assert (trainer.num_iterations_per_epoch, trainer.initial_lr, trainer.save_every) == (250, 1e-2, 50)


@pytest.mark.parametrize(
    "options", [{"dim": 2, "patch": (16, 16)}, {"regions": True}, {"ignore": True}], ids=["2d", "regions", "ignore-label"]
)
def test_distils_other_kinds_of_data(make_tiny: Any, short: Callable[..., dict[str, Any]], options: dict[str, Any]) -> None:
    tiny = make_tiny(**options)
    settings = short(epochs=1, teacher={"distillation_epochs": 1})
    trainer = tiny.trainer(TransASPPTeacherTrainer, DATASET, settings=settings)
    trainer._pool = lambda: None
    trainer.run_training()
    assert np.isfinite(log(trainer)["loss_uncertainty"][-1])


def test_the_pool_is_learnt_from_where_there_is_one(make_tiny: Any, make_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_tiny(ignore=True)
    folder = tiny.folder(DATASET) / f"{tiny.identifier}__pool_1234"
    folder.mkdir()
    for case in ("pool_0", "pool_1"):
        for part in (".b2nd", "_seg.b2nd", ".pkl"):
            (folder / f"{case}{part}").write_bytes((tiny.folder("Dataset901_Tiny_f0s1") / tiny.identifier / f"{case}{part}").read_bytes())
    monkeypatch.setattr(pool_index, "find_pool", lambda plans, configuration: SimpleNamespace(folder=folder, case_ids=["pool_0", "pool_1"]))
    trainer = make_teacher(distillation_epochs=1)
    run(trainer, until_epoch=2)
    trainer.on_train_epoch_start()
    keys = {key for _ in range(20) for key in next(trainer.dataloader_train)["keys"]}
    assert keys == {"lab_0", "lab_1", "pool_0", "pool_1"}


def test_images_of_a_group_that_the_fold_holds_out_are_not_learnt_from(
    make_tiny: Any, make_teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = make_tiny(ignore=True)
    folder = tiny.folder(DATASET) / f"{tiny.identifier}__pool_1234"
    folder.mkdir()
    for part in (".b2nd", "_seg.b2nd", ".pkl"):
        for case in ("pool_0", "pool_1"):
            (folder / f"{case}{part}").write_bytes((tiny.folder("Dataset901_Tiny_f0s1") / tiny.identifier / f"{case}{part}").read_bytes())
    pool = PoolIndex(folder, {case: (f"{case}_0000.nii.gz",) for case in ("pool_0", "pool_1")})
    monkeypatch.setattr(pool_index, "find_pool", lambda plans, configuration: pool)
    trainer = make_teacher(distillation_epochs=1)
    train, validation = trainer.do_split()
    keep_groups(pool, {**dict.fromkeys(train, "north"), **dict.fromkeys(validation, "south"), "pool_0": "south", "pool_1": "north"})
    run(trainer, until_epoch=2)
    trainer.on_train_epoch_start()
    keys = {key for _ in range(20) for key in next(trainer.dataloader_train)["keys"]}
    assert keys == {*train, "pool_1"}
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    assert pool_images_seen(load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")) == ["pool_1"]
    # a training that continues remembers what it has learned from before
    keep_groups(pool, {})
    again = make_teacher(distillation_epochs=1)
    maybe_load_checkpoint(again, True, False)
    assert again._checkpoint_entry() == {"pool_images": ["pool_1"]}
    assert again._cases_to_learn_from(pool) == ["pool_0", "pool_1"]
