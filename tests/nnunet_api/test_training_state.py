"""How far a training is, from the files it has left, and the command that does the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_setup import Project

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open, is_trained_and_validated, training_command

MODEL = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")


def touch(name: str) -> None:
    MODEL.fold_folder(0).mkdir(parents=True, exist_ok=True)
    (MODEL.fold_folder(0) / name).touch()


@pytest.mark.parametrize(
    ("plans", "expected"),
    [("P", "nnUNetv2_train 601 3d_fullres 0 -tr T -p P"), ("nnUNetPlans", "nnUNetv2_train 601 3d_fullres 0 -tr T")],
)
def test_command_as_a_user_would_type_it(nnunet_environment: Any, plans: str, expected: str) -> None:
    model = ModelLocation(dataset=MODEL.dataset, trainer="T", plans=plans, configuration="3d_fullres")
    assert training_command(model, 0) == expected
    assert training_command(model, 0, device="cpu") == f"{expected} -device cpu"


@pytest.mark.parametrize(
    ("files", "flag"),
    [
        (["checkpoint_latest.pth"], " --c"),
        (["checkpoint_best.pth"], " --c"),
        (["checkpoint_latest.pth", "checkpoint_final.pth"], " --val"),
        (["progress.png"], ""),
    ],
)
def test_command_does_not_train_over_what_is_there(nnunet_environment: Any, files: list[str], flag: str) -> None:
    for name in files:
        touch(name)
    assert training_command(MODEL, 0) == f"nnUNetv2_train 601 3d_fullres 0 -tr T -p P{flag}"
    MODEL.validation_summary(0).parent.mkdir()
    MODEL.validation_summary(0).write_text("{}")
    assert training_command(MODEL, 0).endswith(" -p P" + flag.replace(" --val", ""))
    assert training_command(MODEL, 0, npz=True).endswith(f" -p P{flag} --npz")


def test_command_that_trains_anew(nnunet_environment: Any) -> None:
    touch("checkpoint_latest.pth")
    assert training_command(MODEL, 0, anew=True) == "nnUNetv2_train 601 3d_fullres 0 -tr T -p P"


def test_checkpoint_to_open_is_the_one_that_nnunet_takes(nnunet_environment: Any) -> None:
    assert checkpoint_to_open(MODEL, 0) is None
    for name in ("checkpoint_best.pth", "checkpoint_latest.pth", "checkpoint_final.pth"):
        touch(name)
        assert checkpoint_to_open(MODEL, 0) == MODEL.fold_folder(0) / name


def test_trained_means_validated_too(project: Project) -> None:
    assert not is_trained_and_validated(MODEL, 0)
    touch("checkpoint_final.pth")
    assert not is_trained_and_validated(MODEL, 0)
    summary = MODEL.fold_folder(0) / "validation" / "summary.json"
    summary.parent.mkdir()
    summary.write_text(json.dumps({"foreground_mean": {"Dice": 0.75}}))
    assert is_trained_and_validated(MODEL, 0)


def test_summary_that_was_cut_off_is_none(project: Project) -> None:
    """nnU-Net writes it in place."""
    touch("checkpoint_final.pth")
    summary = MODEL.fold_folder(0) / "validation" / "summary.json"
    summary.parent.mkdir()
    for text in ("", '{"foreground_mean": {"Di'):
        summary.write_text(text)
        assert not is_trained_and_validated(MODEL, 0)


def test_final_mode_has_no_validation(project: Project) -> None:
    folder = MODEL.fold_folder("all")
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    assert is_trained_and_validated(MODEL, "all")
