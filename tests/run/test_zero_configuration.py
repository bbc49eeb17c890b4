"""`nnssl_run` on what a user of nnU-Net has: plans, preprocessed data and trained models stay as they are, with no settings given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import CONFIGURATION, DATASET, Project, digests, mtimes, pretend_training

from nnunet_ssl.cli.run import main
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.locations import ModelLocation

STOCK = ModelLocation(dataset=DATASET, trainer="nnUNetTrainer", plans="nnUNetPlans", configuration=CONFIGURATION)
CALL = ["-d", "137", "-c", CONFIGURATION, "-tr", STOCK.trainer, "-device", "cpu", "-np", "1"]


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Datasets that were trained on; nnU-Net's planning and preprocessing of whole datasets are refused."""
    asked: list[str] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append(model.dataset)
        pretend_training(model, fold, seed=len(asked))

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("planned or preprocessed again")

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    for name in ("extract_fingerprints", "plan_experiments", "preprocess"):
        monkeypatch.setattr(f"nnunetv2.experiment_planning.plan_and_preprocess_api.{name}", refuse)
    return asked


def stock_project(project: Project, folds: Sequence[int]) -> Project:
    """What a user of nnU-Net has: no plans of ours, no pool, a trained and validated model (a narrow one, which is quick)."""
    project.plans_file.unlink()
    stock_plans = project.plans_file.with_name("nnUNetPlans.json")
    plans = json.loads(stock_plans.read_text())
    arguments = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [4] * arguments["n_stages"]
    stock_plans.write_text(json.dumps(plans))
    for fold in folds:
        pretend_training(STOCK, fold, seed=fold)
    return project


def own_files(project: Project) -> tuple[dict[str, str], dict[str, int]]:
    """Contents and modification times of every file that nnU-Net has made of the labelled dataset.

    The pool and the fingerprints beside the preprocessed data and the workspaces inside the model are ours.
    """
    times, ours = mtimes(project.raw / DATASET, project.preprocessed / DATASET, STOCK.folder), ("__pool_", "__nnssl_", "/nnssl/")
    kept = {path: time for path, time in times.items() if Path(path).is_file() and not any(part in path for part in ours)}
    return digests([Path(path) for path in kept]), kept


@pytest.mark.parametrize(("fold", "teachers"), [("0", [0]), ("all", [0, 1, 2, 3, 4])])
def test_nothing_of_nnunets_is_made_again(
    fresh_project: Project, trainings: list[str], capsys: Any, fold: str, teachers: list[int]
) -> None:
    project = stock_project(fresh_project, teachers)
    contents, times = own_files(project)
    names = {Path(path).name for path in contents}
    assert {"nnUNetPlans.json", "splits_final.json", "checkpoint_final.pth", "summary.json", "lab_0.b2nd", "lab_0_0000.nii.gz"} <= names
    assert sum(name == "checkpoint_final.pth" for name in names) == 1
    assert sum(path.endswith("checkpoint_final.pth") for path in contents) == len(teachers)

    assert main([*CALL, "-f", fold, "-u", str(project.unlabelled), "--stages", "1.0"]) == 0
    out = capsys.readouterr().out
    assert trainings == [f"Dataset601_Tiny_f{fold}s1"]
    for teacher in teachers:
        assert f"train the teacher (fold {teacher}): done before" in out
    assert own_files(project) == (contents, times)  # no file came, went or was written again


def test_settings_are_printed_and_saved(fresh_project: Project, trainings: list[str], capsys: Any) -> None:
    project = stock_project(fresh_project, [0])
    flags = [*CALL, "-f", "0", "-u", str(project.unlabelled), "--stages", "0.5", "1.0", "--set", "student.length.num_epochs=9"]
    assert main([*flags, "--targets", "hard"]) == 0
    out = capsys.readouterr().out
    manifest = STOCK.workspace(0) / "manifest.json"
    lines = out.splitlines()
    assert lines[:11] == [
        "settings in force:",
        "  student       SemiSupervisedStudentTrainer, PlainConvUNet",
        "  fractions     0.5 1 of the pool, ranked",
        "  epochs        4 5, 250 steps each",
        "  samples       8 a case",
        "  confidence    auto",
        "  tau           0.7",
        "  targets       hard",
        "  unlearning    soft",
        "  agreement     0.5",
        f"  all settings  'method' in {manifest}, once the run has begun",
    ]
    kept = MethodConfig.from_dict(json.loads(manifest.read_text())["method"])
    assert kept == MethodConfig().with_settings(
        {"curriculum.fractions": [0.5, 1.0], "student.length.num_epochs": 9, "student.targets": "hard"}
    )
    # the same command continues with them, without the flags
    assert main([*CALL, "-f", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[:11] == lines[:11]
    assert len(trainings) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-f", "0", "--student-tr", "TransASPPStudentTrainer"], "student       TransASPPStudentTrainer, TransASPPUNet"),
        (["-f", "0", "--set", "student.tau=0.9"], "tau           0.9"),
        (["-f", "all"], "confidence    auto (held-out cases decide)"),
        (["-f", "all"], "tau           from held-out cases, for a precision of 0.8; 0.7 where they give none"),
        # one teacher of all labels has no held-out cases
        (["-f", "all", "--teacher-folds", "all"], "confidence    auto"),
        (["-f", "all", "--teacher-folds", "all"], "tau           0.7"),
        (["-f", "0", "--order", "all-at-once"], "fractions     1 of the pool, all-at-once"),
        (
            ["-f", "0", "--schedule", "adaptive"],
            "fractions     0.1 0.2 0.4 0.6 0.8 1 of the pool, ranked (adaptive: fewer stages if labels settle)",
        ),
        (["-f", "0"], "epochs        100 100 100 100 100 500, 250 steps each"),
    ],
)
def test_settings_follow_what_is_asked_for(project: Project, capsys: Any, flags: list[str], said: str) -> None:
    stock_project(project, [])
    assert main([*CALL, *flags, "--only", "student-1"]) == 3  # the teacher is not trained
    assert f"  {said}\n" in capsys.readouterr().out
