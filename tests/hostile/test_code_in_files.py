"""Checkpoints, pickles and arrays that carry code: no command runs it, and each names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from given_labels import write_labels, write_predictions
from payload import PLAIN, Payload, arm_checkpoint, arm_pickle, unpickled
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    IDENTIFIER,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    open_tiny_run,
    phantom,
    pretend_training,
    teacher_store,
    write_evidence,
    write_image,
    write_student,
)

from nnunet_ssl.cli import predict, pseudolabel, report, run
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.array_file import open_array

SET_UP = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS]
FOLD = [*SET_UP, "-f", "0"]
GROW = [*FOLD, "-device", "cpu"]
Command = Callable[[list[str]], int]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a payload would make."""
    return tmp_path / "boom"


def refused(capsys: Any, command: Command, arguments: list[str], path: Path) -> str:
    """The one line of a command that stops."""
    capsys.readouterr()
    assert command(arguments) == 2
    err = str(capsys.readouterr().err)
    lines = [line for line in err.replace("\r", "\n").splitlines() if ": error: " in line]
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert "Traceback" not in err
    return lines[0]


def teacher_checkpoint(project: Project) -> Path:
    return project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / "fold_0" / "checkpoint_final.pth"


def pretend_validation(checkpoint: Path) -> None:
    """Without it `nnssl_run` would have nnU-Net validate the model."""
    summary = checkpoint.parent / "validation" / "summary.json"
    summary.parent.mkdir(exist_ok=True)
    figures = {"Dice": 0.5, "IoU": 0.4}
    cases = [{"reference_file": "lab_0.nii.gz"}]
    summary.write_text(json.dumps({"foreground_mean": figures, "mean": {"1": figures, "2": figures}, "metric_per_case": cases}))


# ---- checkpoints


def test_teacher(taught_project: Project, marker: Path, tmp_path: Path, capsys: Any) -> None:
    path = teacher_checkpoint(taught_project)
    arm_checkpoint(path, marker)
    for command, arguments in ((pseudolabel.main, GROW), (run.main, GROW)):
        line = refused(capsys, command, arguments, path)
        assert "holds objects other than weights and numbers and was not opened (posix.mkdir)" in line
    write_image(phantom("lab_0")[0], tmp_path / "in" / "new_0000.nii.gz")
    refused(capsys, predict.main, [*GROW, "-tr", OUR_TEACHER, "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")], path)
    assert not (tmp_path / "out").exists()
    assert report.main(FOLD) == 2
    said = capsys.readouterr().err
    assert "wrote down is not shown" in said
    assert "holds no checkpoint that can be read" in said
    assert not list(taught_project.raw.glob("Dataset6*"))
    assert not marker.exists()


def test_teacher_of_nnunet_whose_training_would_be_continued(project: Project, marker: Path, capsys: Any) -> None:
    """nnU-Net's own trainer would run the code; it is not started."""
    folder = pretend_training(ModelLocation(dataset=DATASET, trainer="nnUNetTrainer", plans=PLANS, configuration=CONFIGURATION))
    path = folder / "checkpoint_latest.pth"
    (folder / "checkpoint_final.pth").rename(path)
    arm_checkpoint(path, marker)
    refused(capsys, run.main, [*GROW, "-tr", "nnUNetTrainer"], path)
    assert not marker.exists()


def test_student(taught_project: Project, marker: Path, capsys: Any) -> None:
    started = open_tiny_run(taught_project)
    write_evidence(teacher_store(started))
    assert pseudolabel.main(GROW) == 0
    path = write_student(started, 1) / "checkpoint_final.pth"
    arm_checkpoint(path, marker)
    refused(capsys, pseudolabel.main, GROW, path)
    write_evidence(started.student_store(1))  # with its predictions there, it is the start of the next student alone
    assert pseudolabel.main(GROW) == 0
    with pytest.raises(StateError, match=r"Dataset601.*was not opened \(posix\.mkdir\)"):
        write_student(started, 2)
    shutil.copyfile(teacher_checkpoint(taught_project), path)
    path = write_student(started, 2) / "checkpoint_final.pth"
    arm_checkpoint(path, marker)
    refused(capsys, pseudolabel.main, GROW, path)
    assert not (taught_project.results / DATASET / path.parent.parent.name).exists()
    for stage in (1, 2):
        pretend_validation(started.student(stage).checkpoint(0))
    assert report.main(FOLD) == 0
    assert "wrote down is not shown" in capsys.readouterr().err
    assert run.main([*FOLD, "--status"]) == 0
    assert not marker.exists()


# ---- pickles


@pytest.mark.parametrize("kind", ["pool", "labelled"])
def test_properties(taught_project: Project, marker: Path, capsys: Any, kind: str) -> None:
    started = open_tiny_run(taught_project)
    write_evidence(teacher_store(started))
    folder, case = (started.pool.folder, "pool_0") if kind == "pool" else (taught_project.preprocessed / DATASET / IDENTIFIER, "lab_0")
    path = folder / f"{case}.pkl"
    arm_pickle(path, marker)
    if kind == "pool":
        line = refused(capsys, pseudolabel.main, GROW, path)
        assert "(it holds posix.mkdir) and was not opened" in line
    else:  # no command of ours reads a labelled case's properties
        pretend_validation(teacher_checkpoint(taught_project))
        assert pseudolabel.main(GROW) == 0
        assert run.main([*GROW, "--audit"]) == 0
    assert not marker.exists()


def test_properties_of_an_accepted_label(taught_project: Project, marker: Path, tmp_path: Path, capsys: Any) -> None:
    started = open_tiny_run(taught_project)
    write_evidence(teacher_store(started))
    assert pseudolabel.main([*GROW, "--accept", str(write_labels(tmp_path / "c", {"pool_1": phantom("pool_1")[1]}))]) == 0
    (path,) = (started.workspace / "accepted").rglob("pool_1.pkl")
    arm_pickle(path, marker)
    refused(capsys, pseudolabel.main, [*GROW, "--stage", "1"], path)
    assert not marker.exists()


def test_pickle_and_objects_beside_predictions(taught_project: Project, marker: Path, tmp_path: Path, capsys: Any) -> None:
    folder = write_predictions(tmp_path / "p")
    arguments = [*GROW, "--from-predictions", str(folder)]
    arm_pickle(folder / "pool_0.pkl", marker)
    refused(capsys, pseudolabel.main, arguments, folder / "pool_0.pkl")
    (folder / "pool_0.pkl").unlink()
    np.savez(folder / "pool_0.npz", probabilities=np.array([Payload(marker)], dtype=object))
    refused(capsys, pseudolabel.main, arguments, folder / "pool_0.npz")
    assert not marker.exists()


# ---- arrays


def write_function(path: Path) -> None:
    """A file that blosc2 takes for an array whose values a function computes; the function is in the file."""
    operand = blosc2.asarray(np.ones((1, 4, 4, 4), np.float32), urlpath=str(path.with_name("operand.b2nd")), mode="w")

    def function(inputs: Any, output: Any, offset: Any) -> None:
        output[:] = inputs[0] + 1

    blosc2.lazyudf(function, (operand,), dtype=np.float32).save(urlpath=str(path))


def test_a_function_in_an_arrays_place(tmp_path: Path) -> None:
    write_function(tmp_path / "a.b2nd")
    with pytest.raises(ValueError, match="it holds an expression, a function or a reference, not an array"):
        open_array(tmp_path / "a.b2nd")
    blosc2.SChunk(data=b"1234", urlpath=str(tmp_path / "b.b2nd"), mode="w")
    with pytest.raises(ValueError, match="it holds a SChunk, not an array"):
        open_array(tmp_path / "b.b2nd")


@pytest.mark.parametrize("kind", ["image", "evidence"])
def test_a_function_in_a_cases_place(taught_project: Project, tmp_path: Path, capsys: Any, kind: str) -> None:
    started = open_tiny_run(taught_project)
    store = teacher_store(started)
    path = started.pool.folder / "pool_0.b2nd"
    if kind == "evidence":
        write_evidence(store)
        path = store.path("pool_0")
    write_function(tmp_path / "a.b2nd")
    path.unlink()
    (tmp_path / "a.b2nd").rename(path)
    line = refused(capsys, pseudolabel.main, [*GROW, "--rescore"] if kind == "evidence" else GROW, path)
    assert "it holds an expression, a function or a reference, not an array" in line


# ---- proof by audit


def test_commands_unpickle_nothing_but_plain_data(taught_project: Project, tmp_path: Path) -> None:
    pretend_validation(teacher_checkpoint(taught_project))
    write_image(phantom("lab_0")[0], tmp_path / "in" / "new_0000.nii.gz")
    images = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    settings = ["--num-samples", "1"]
    started = open_tiny_run(taught_project, settings={"evidence.num_samples": 1})
    write_evidence(teacher_store(started), POOL[1:])  # one case to be swept is enough
    with unpickled() as seen:
        assert pseudolabel.main([*GROW, *settings]) == 0
        assert predict.main([*GROW, "-tr", OUR_TEACHER, *images]) == 0
        assert run.main([*GROW, "--audit", *settings]) == 0
        assert report.main(FOLD) == 0
        assert run.main([*FOLD, "--status"]) == 0
    assert seen
    assert seen <= PLAIN
    assert teacher_store(started).has("pool_0")


def test_control_the_hook_and_the_payload_work(tmp_path: Path, marker: Path) -> None:
    arm_checkpoint(tmp_path / "a.pth", marker)
    with unpickled() as seen:
        torch.load(tmp_path / "a.pth", weights_only=False)
    assert ("posix", "mkdir") in seen
    assert marker.is_dir()
