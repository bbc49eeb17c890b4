"""A training over a finished one: what counts as trained meanwhile, what is continued, and what stays of the old one."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.run.run_training import maybe_load_checkpoint
from short_training import run, same

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.checkpoints import fingerprint, load_checkpoint
from nnunet_ssl.nnunet_api.earlier_training import set_aside
from nnunet_ssl.nnunet_api.training_state import is_trained_and_validated, training_command
from nnunet_ssl.run import training_process
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer

MODEL = ModelLocation(
    dataset="Dataset901_Tiny_f0s1", trainer="SemiSupervisedStudentTrainer", plans="nnUNetPlans", configuration="3d_fullres"
)


@pytest.fixture
def make(tiny: Any, short: Callable[..., dict[str, Any]]) -> Callable[[], Any]:
    """Makes students of three epochs, which save after each."""
    tiny.write_sidecar(num_epochs=3)
    return lambda: tiny.trainer(SemiSupervisedStudentTrainer, settings=short(iterations=1))


def validate() -> None:
    """What nnU-Net's validation leaves."""
    MODEL.validation_summary(0).parent.mkdir(exist_ok=True)
    MODEL.validation_summary(0).write_text('{"of": "the first"}')


def files() -> set[str]:
    """Checkpoints and figures of the fold."""
    folder = MODEL.fold_folder(0)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".pth", ".json")} - {"debug.json"}


def test_a_new_training_that_is_cut_off_is_continued(make: Callable[[], Any]) -> None:
    run(make())
    validate()
    assert is_trained_and_validated(MODEL, 0)
    old = load_checkpoint(MODEL.checkpoint(0))["network_weights"]
    new = run(make(), until_epoch=2)
    assert not is_trained_and_validated(MODEL, 0)
    assert training_command(MODEL, 0).endswith(" --c")
    continued = make()
    maybe_load_checkpoint(continued, True, False)
    assert continued.current_epoch == 2
    assert same(continued.network.state_dict(), new.network.state_dict())
    assert not same(continued.network.state_dict(), old)
    run(continued)
    # what nnU-Net leaves, and nothing of the training before
    assert files() == {"checkpoint_best.pth", "checkpoint_final.pth"}
    assert not is_trained_and_validated(MODEL, 0)  # before it is validated


def test_a_start_that_is_ended_at_once_loses_nothing(make: Callable[[], Any]) -> None:
    run(make())
    validate()
    before = fingerprint(MODEL.checkpoint(0))
    run(make(), until_epoch=0)
    assert is_trained_and_validated(MODEL, 0)
    assert fingerprint(MODEL.checkpoint(0)) == before


def test_what_is_set_aside_is_whole_until_the_new_training_ends(make: Callable[[], Any]) -> None:
    run(make())
    validate()
    before = MODEL.checkpoint(0).read_bytes()
    run(make(), until_epoch=1)
    folder = MODEL.fold_folder(0)
    assert files() == {"checkpoint_best.pth", "checkpoint_latest.pth", "earlier_checkpoint_final.pth", "validation/earlier_summary.json"}
    assert (folder / "earlier_checkpoint_final.pth").read_bytes() == before
    assert "earlier_checkpoint_final.pth" in "".join(path.read_text() for path in folder.glob("training_log*"))


def test_a_checkpoint_that_could_not_be_written_leaves_the_old_model(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(make())
    validate()

    def no_room(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("torch.save", no_room)
    trainer = make()
    trainer.on_train_start()
    with pytest.raises(OSError, match="no space left"):
        trainer.save_checkpoint(str(MODEL.checkpoint(0).with_name("checkpoint_latest.pth")))
    assert is_trained_and_validated(MODEL, 0)


def test_a_checkpoint_that_did_not_reach_the_disk_leaves_the_old_model(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that allot space late, and quotas of network drives, say only then that there is none."""
    run(make())
    validate()
    before = files()

    def no_room(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "quota exceeded")

    trainer = make()
    trainer.on_train_start()
    monkeypatch.setattr("os.fsync", no_room)
    latest = MODEL.checkpoint(0).with_name("checkpoint_latest.pth")
    with pytest.raises(OSError, match="quota exceeded") as raised:
        trainer.save_checkpoint(str(latest))
    assert raised.value.filename == str(latest)
    assert files() == before
    assert is_trained_and_validated(MODEL, 0)


def test_a_new_final_checkpoint_is_not_taken_for_validated(make: Callable[[], Any]) -> None:
    """Where a training is too short to be saved on the way, and is killed in validation."""
    folder = MODEL.fold_folder(0)
    (folder / "validation").mkdir(parents=True)
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "validation/summary.json"):
        (folder / name).write_text("{}")
    assert set_aside(folder / "checkpoint_best.pth") == []
    trainer = make()
    trainer.initialize()
    trainer.logger.local_logger.my_fantastic_logging["ema_fg_dice"] = [0.5]
    trainer.save_checkpoint(str(MODEL.checkpoint(0)))
    assert files() == {"checkpoint_final.pth", "checkpoint_best.pth"}


def test_a_finished_training_that_is_continued_stays_as_it_is(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--c` does to make up for a validation; a run knows its teacher by these bytes."""
    run(make())
    validate()
    before = fingerprint(MODEL.checkpoint(0)), MODEL.checkpoint(0).stat()
    monkeypatch.setattr("os.getpid", lambda: 1)  # part of the names of temporary files, which PyTorch writes into archives
    again = make()
    maybe_load_checkpoint(again, True, False)
    expected = copy.deepcopy(again.network.state_dict())
    run(again)
    assert (fingerprint(MODEL.checkpoint(0)), MODEL.checkpoint(0).stat().st_ino) == (before[0], before[1].st_ino)
    assert same(again.network.state_dict(), expected)
    assert is_trained_and_validated(MODEL, 0)


def test_nnssl_run_does_not_remove_the_checkpoint_of_a_training_anew(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As another trainer than ours may leave it."""
    run(make())
    latest = MODEL.checkpoint(0).with_name("checkpoint_latest.pth")
    latest.write_bytes(MODEL.checkpoint(0).read_bytes())
    monkeypatch.setattr(training_process, "_ENTRY", "")
    for newer, stays in ((1, True), (-1, False)):
        seconds = MODEL.checkpoint(0).stat().st_mtime + newer
        os.utime(latest, (seconds, seconds))
        training_process.train(MODEL, 0, device="cpu", log=tmp_path / "log", epochs=None)
        assert latest.exists() == stays
