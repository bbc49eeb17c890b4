"""A training that continues from, or starts from, a checkpoint that carries code: it stops, names the file and runs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from payload import PLAIN, arm_checkpoint, unpickled
from short_training import run

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.checkpoints import weights_only
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.student import TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

Settings = Callable[..., dict[str, Any]]
REFUSED = r"checkpoint_latest\.pth holds objects other than weights and numbers and was not opened \(posix\.mkdir\)"


def interrupted(tiny: Any, settings: dict[str, Any], kind: Any, *dataset: str) -> tuple[Any, Path]:
    """A trainer that would continue, and the checkpoint it would continue from."""
    before = run(tiny.trainer(kind, *dataset, settings=settings), until_epoch=1)
    path = Path(before.output_folder) / "checkpoint_latest.pth"
    return tiny.trainer(kind, *dataset, settings=settings), path


@pytest.mark.parametrize(
    ("kind", "dataset"),
    [(TransASPPTeacherTrainer, ["Dataset137_Tiny"]), (TransASPPStudentTrainer, []), (CrossPseudoSupervisionTrainer, [])],
    ids=["teacher", "student", "peer"],
)
def test_continued_training(tiny: Any, short: Settings, tmp_path: Path, kind: Any, dataset: list[str]) -> None:
    with unpickled() as seen:
        trainer, path = interrupted(tiny, short(), kind, *dataset)
        maybe_load_checkpoint(trainer, True, False)
    assert trainer.current_epoch == 1
    assert seen <= PLAIN
    arm_checkpoint(path, tmp_path / "boom")
    with pytest.raises(StateError, match=REFUSED):
        maybe_load_checkpoint(tiny.trainer(kind, *dataset, settings=short()), True, False)
    assert not (tmp_path / "boom").exists()


def test_start_of_a_student(tiny: Any, short: Settings, tmp_path: Path) -> None:
    path = tiny.results / "Dataset137_Tiny" / "checkpoint_latest.pth"
    path.parent.mkdir(parents=True)
    arm_checkpoint(path, tmp_path / "boom")
    tiny.write_sidecar(init="teacher", init_checkpoint=path.relative_to(tiny.results).as_posix())
    with pytest.raises(StateError, match=REFUSED):
        tiny.trainer(TransASPPStudentTrainer, settings=short()).initialize()
    assert not (tmp_path / "boom").exists()


def test_what_nnunet_opens_meanwhile_is_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm_checkpoint(tmp_path / "a.pth", tmp_path / "boom")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with weights_only(), pytest.raises(Exception, match=r"posix\.mkdir"):
        torch.load(tmp_path / "a.pth", weights_only=False)
    assert not (tmp_path / "boom").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
