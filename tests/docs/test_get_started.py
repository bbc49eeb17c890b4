"""The tutorial's part by hand and the README's control, as they are shown, on the tiny set-up; trainings take no time."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kind_commands import kind_environment, stock
from real_trainings import copy_project
from tiny_setup import CONFIGURATION, DATASET, LABELLED, OUR_STUDENT, OUR_TEACHER, PLANS, Project, phantom, pretend_training, write_image

from nnunet_ssl.locations import ModelLocation

NEW = "test_0"


def train(model: ModelLocation, fold: int | str, **_: Any) -> None:
    """A training of which the weights and the figures of the fold's validation case are left."""
    folder = pretend_training(model, fold, seed=int(model.dataset[7:10]))
    figures = {"Dice": 0.5, "IoU": 0.4}
    case = {"reference_file": f"x/{LABELLED[int(fold)]}.nii.gz", "metrics": {"1": figures, "2": figures}}
    content = {"foreground_mean": figures, "mean": {"1": figures, "2": figures}, "metric_per_case": [case]}
    (folder / "validation" / "summary.json").write_text(json.dumps(content))


def by_hand(text: str) -> list[str]:
    """The command lines of the sections 3 and 4."""
    part = text.partition("## 3. Do it by hand")[2].partition("## Next")[0]
    return [line for body in re.findall(r"^```bash\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL) for line in body.splitlines()]


def control(text: str) -> str:
    """The line of the README that asks whether the pool helps, for the plans of this test."""
    (line,) = re.findall(r"^nnssl_run .* --control supervised$", text, flags=re.MULTILINE)
    return f"{line} -p {PLANS} -device cpu"


def on_tiny_setup(line: str, places: dict[str, Path]) -> list[str]:
    """The words of a line, with this set-up in the place of the demo's."""
    for shown, real in places.items():
        line = line.replace(shown, shlex.quote(str(real)))
    return shlex.split(line.replace(" 990 ", f" {int(DATASET[7:10])} ").replace("nnUNetPlans_nnssl_demo", PLANS))


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / "docs" / "get-started.md").read_text(encoding="utf-8")


@pytest.fixture
def tiny(built_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The tiny set-up with its pool, named by nnU-Net's variables."""
    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", train)
    found = copy_project(built_project, tmp_path / "nnunet", with_pool=True)
    with kind_environment(found):
        yield found


def type_words(words: list[str], parser_of: Callable[[str], argparse.ArgumentParser]) -> None:
    program, *arguments = words
    if program == "nnUNetv2_train":
        asked = parser_of(program).parse_args(arguments)
        assert int(asked.dataset_name_or_id) == int(DATASET[7:10])
        train(ModelLocation(dataset=DATASET, trainer=asked.tr, plans=asked.p, configuration=asked.configuration), int(asked.fold))
    elif program == "nnUNetv2_predict":
        stock(program, *arguments, "-npp", "0", "-nps", "0")
    else:
        assert importlib.import_module(f"nnunet_ssl.cli.{program.removeprefix('nnssl_')}").main(arguments) == 0


@pytest.mark.slow
def test_by_hand_to_segmented_images_and_the_control(
    text: str, project: Path, tiny: Project, tmp_path: Path, parser_of: Callable[[str], argparse.ArgumentParser], capsys: Any
) -> None:
    write_image(phantom(NEW)[0], tmp_path / "images" / f"{NEW}_0000.nii.gz")
    places = {"demo/test/images": tmp_path / "images", "demo/segmented": tmp_path / "segmented"}
    said: list[str] = []
    for line in [*by_hand(text), control((project / "README.md").read_text(encoding="utf-8"))]:
        if not line.startswith("export "):
            type_words(on_tiny_setup(line, places), parser_of)
            said.append(capsys.readouterr().out)
    _, first_stage, status, run, report, _, compared = said
    assert f"next: nnUNetv2_train 601 {CONFIGURATION} 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu\n" in first_stage
    assert re.findall(r"\[done\] (\S+)", status) == ["teacher", "stage-1"]
    assert re.findall(r"\[ to do\] (\S+)", status) == ["student-1", "stage-2", "student-2", "publish"]
    assert run.count("done before") == 2
    assert "val. Dice" in run
    workspace = tiny.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / "fold_0" / "nnssl"
    assert f"report: {workspace / 'report' / 'report.html'}\n" in report
    assert [path.name for path in (tmp_path / "segmented").glob("*.nii.gz")] == [f"{NEW}.nii.gz"]
    assert "fold 0, 1 validation cases: student 0.5000, control 0.5000, difference +0.0000\n" in compared


def test_what_is_taken_from_the_page(text: str) -> None:
    programs = [line.split()[0] for line in by_hand(text)]
    expected = ["nnUNetv2_train", "nnssl_pseudolabel", "nnssl_run", "nnssl_run", "nnssl_report", "nnUNetv2_predict"]
    assert programs == [*["export"] * 4, *expected]
