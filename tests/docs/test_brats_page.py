"""The page on BraTS: its commands in its order, with its preset, on tiny cases; trainings last two steps and run in this process."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from brats_folder import SHAPE, write_brats_folder
from kind_commands import kind_environment, seed_everything, stock
from tiny_setup import Project, folders

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import ModelLocation

PAGE = "docs/how-to/brats.md"
DATASET, PLANS = "Dataset137_BraTS2021", "nnUNetPlans_4mm_nnssl_coarse"
REGIONS = ("whole tumor", "tumor core", "enhancing tumor")


def commands(text: str) -> list[str]:
    """The lines of the blocks that take the nine cases from the download to the table."""
    part = text.partition("## 1. Make the dataset")[2].partition("## What nine cases gave")[0]
    return [line for body in re.findall(r"^```bash\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL) for line in body.splitlines()]


def preset(text: str) -> dict[str, Any]:
    """The page's `coarse.json`."""
    (body,) = re.findall(r"^```json\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return dict(json.loads(body))


def shortened(overlay: dict[str, Any]) -> dict[str, Any]:
    """The preset with trainings of seconds."""
    for part, epochs in (("teacher", 1), ("student", 2)):
        overlay["nnssl"][part]["length"] = {"num_epochs": epochs, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}
    return overlay | {"features": {"base": 4, "max": 8}}


def one_worker(program: str) -> list[str]:
    """Flags that keep nnU-Net from starting a process per core."""
    return {"nnUNetv2_plan_and_preprocess": ["-np", "1", "-npfp", "1"], "nnUNetv2_predict": ["-npp", "0", "-nps", "0"]}.get(program, [])


def train_here(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
    """A training of `nnssl_run` in this process."""
    stock("nnUNetv2_train", model.dataset, model.configuration, fold, "-tr", model.trainer, "-p", model.plans, "-device", device)


def type_line(line: str, places: dict[str, Path], load_example: Callable[[str], ModuleType]) -> None:
    for shown, real in places.items():
        line = line.replace(shown, shlex.quote(str(real)))
    program, *arguments = shlex.split(line)
    if program == "python":
        assert load_example(arguments[0]).main(arguments[1:]) == 0
    elif program.startswith("nnUNetv2_"):
        stock(program, *arguments, *one_worker(program))
    elif program != "export":
        assert importlib.import_module(f"nnunet_ssl.cli.{program.removeprefix('nnssl_')}").main([*arguments, "-np", "1"]) == 0


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / PAGE).read_text(encoding="utf-8")


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Empty nnU-Net folders, the directory that the commands are typed in, and no training in a process of its own."""
    project = folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", train_here)
    with kind_environment(project):
        yield project


@pytest.mark.slow
def test_commands_lead_from_the_download_to_the_table(
    text: str, nnunet: Project, tmp_path: Path, load_example: Callable[[str], ModuleType], capsys: Any
) -> None:
    write_brats_folder(tmp_path / "BraTS2021", range(9))
    (tmp_path / "coarse.json").write_text(json.dumps(shortened(preset(text))))
    seed_everything(0)
    for line in commands(text):
        type_line(line, {"/data/BraTS2021": tmp_path / "BraTS2021", "/data/brats": tmp_path / "brats"}, load_example)
    header, *rows = capsys.readouterr().out.splitlines()[-3:]
    assert re.split(r"\s{2,}", header.strip()) == ["predictions", "cases", *REGIONS, "mean"]
    assert [re.split(r"\s{2,}", row.strip())[:2] for row in rows] == [["teacher", "1"], ["student", "1"]]
    teacher = nnunet.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres"
    manifest = Manifest.load(teacher / "fold_0" / "nnssl")
    assert manifest is not None
    assert manifest.published
    assert [len(stage.cases) for stage in manifest.stages] == [1, 3]
    (student,) = (tmp_path / "brats" / "student").glob("*.nii.gz")
    assert np.shape(sitk.GetArrayFromImage(sitk.ReadImage(str(student)))) == SHAPE


def test_commands_that_are_taken_from_the_page(text: str) -> None:
    programs = [line.split()[0] for line in commands(text)]
    assert programs[:4] == ["python", "export", "nnUNetv2_plan_and_preprocess", "nnssl_run"]
    assert programs.count("nnUNetv2_predict") == 2
    assert programs[-1] == "python"


def test_preset_is_one_and_as_long_as_the_page_says(text: str) -> None:
    method = MethodConfig.from_dict(preset(text)["nnssl"])
    steps = [part.length.num_epochs * part.length.iterations_per_epoch for part in (method.teacher, method.student)]
    assert f"{steps[0]} steps of the teacher and {steps[1]} of the students" in text
    assert method.curriculum.fractions == (0.4, 1.0)


# ---- the table of regions


def evaluated(folder: Path, dice: dict[str, float], labels: dict[str, Any]) -> Path:
    folder.mkdir()
    order = list(range(1, len(labels) + 1))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}, "regions_class_order": order}))
    figures = {key: {"Dice": value, "IoU": value / 2} for key, value in dice.items()}
    content = {"mean": figures, "foreground_mean": {"Dice": 0.5, "IoU": 0.25}, "metric_per_case": [{}, {}]}
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def test_table_of_regions(tmp_path: Path, load_example: Callable[[str], ModuleType], capsys: Any) -> None:
    script = load_example("docs/examples/region_dice.py")
    labels = {"whole tumor": [1, 2, 3], "enhancing tumor": [3]}
    one = evaluated(tmp_path / "one", {"(1, 2, 3)": 0.875, "(3,)": 0.125}, labels)
    two = evaluated(tmp_path / "two", {"(1, 2, 3)": 0.75, "(3,)": float("nan")}, labels)
    assert script.main([str(one), str(two)]) == 0
    assert [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()] == [
        ["predictions", "cases", "whole tumor", "enhancing tumor", "mean"],
        ["one", "2", "0.8750", "0.1250", "0.5000"],
        ["two", "2", "0.7500", "-", "0.5000"],
    ]


def test_table_of_regions_refuses_what_cannot_stand_beside_each_other(
    tmp_path: Path, load_example: Callable[[str], ModuleType], capsys: Any
) -> None:
    script = load_example("docs/examples/region_dice.py")
    one = evaluated(tmp_path / "one", {"(1, 2, 3)": 1}, {"whole tumor": [1, 2, 3]})
    two = evaluated(tmp_path / "two", {"(1, 3)": 1}, {"core": [1, 3]})
    assert script.main([str(one), str(two)]) == 2
    assert f"region_dice.py: error: {two} has other classes than {one}; give folders of one dataset." in capsys.readouterr().err
    (two / "summary.json").unlink()
    assert script.main([str(two)]) == 2
    assert f"{two / 'summary.json'} cannot be read as JSON" in capsys.readouterr().err
