"""Several folds by one command: their runs, ids, and the table that sets them beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import DATASET, OUR_STUDENT, OUR_TEACHER, PLANS, Project, pretend_training

from nnunet_ssl.cli.run import main
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.pseudolabel.run_spec import RunSpec
from nnunet_ssl.pseudolabel.start_run import open_run
from nnunet_ssl.run.cross_validation import FoldFigures, fold_figures, format_cross_validation
from nnunet_ssl.training.stage import read_stage

CALL = ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]


def summary(dice: float, fold: int | str) -> dict[str, Any]:
    figures = {"Dice": dice, "IoU": dice / 2}
    case = {"metrics": {"1": figures, "2": figures}, "prediction_file": "p", "reference_file": f"lab_{fold}.nii.gz"}
    return {"foreground_mean": figures, "mean": {"1": {"Dice": dice - 0.1, "IoU": 0.5}, "2": {"Dice": dice + 0.1, "IoU": 0.5}},
            "metric_per_case": [case]}  # fmt: skip


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | str]]:
    """Trainings that take no time: Dice 0.5 for the teacher of fold 0, 0.6 for that of fold 1, and 0.1 more for students."""
    asked: list[tuple[str, int | str]] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append((model.dataset, fold))
        folder = pretend_training(model, fold, seed=len(asked))
        dice = 0.5 + int(fold) / 10 + (0.0 if model.dataset == DATASET else 0.1)
        (folder / "validation" / "summary.json").write_text(json.dumps(summary(dice, fold)))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    return asked


def test_folds_run_one_after_another_and_are_published_as_one_model(
    fresh_project: Project, capsys: Any, trainings: list[tuple[str, int | str]]
) -> None:
    flags = [*CALL, "-f", "0", "1", "-u", str(fresh_project.unlabelled)]
    assert main([*flags, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert planned.count("[ to do]") == 14
    assert planned.count("disk for 6 pool cases") == 1
    assert main([*flags, "--first-id", "701"]) == 0
    out = capsys.readouterr().out
    stages = ["Dataset701_Tiny_f0s1", "Dataset702_Tiny_f0s2", "Dataset703_Tiny_f1s1", "Dataset704_Tiny_f1s2"]
    assert trainings == [(DATASET, 0), (stages[0], 0), (stages[1], 0), (DATASET, 1), (stages[2], 1), (stages[3], 1)]
    assert out.index("fold 0:") < out.index("fold 1:")
    published = fresh_project.results / DATASET / f"{OUR_STUDENT}__{PLANS}__3d_fullres"
    assert sorted(path.parent.name for path in published.glob("fold_*/checkpoint_final.pth")) == ["fold_0", "fold_1"]
    lines = {line.split()[0]: line.split()[1:] for line in out[out.rindex("fold  cases") :].splitlines()[1:4]}
    assert lines["0"] == ["1", "0.5000", "0.6000", "+0.1000"]
    assert lines["1"] == ["1", "0.6000", "0.7000", "+0.1000"]
    assert lines["mean"] == ["2", "0.5500", "+-", "0.0707", "0.6500", "+-", "0.0707", "+0.1000", "+-", "0.0000"]
    assert f"next: nnUNetv2_predict -d 137 -c 3d_fullres -f 0 1 -tr {OUR_STUDENT} -p {PLANS} " in out
    assert main(flags) == 0
    again = capsys.readouterr().out
    assert again.count("done before") == 14
    assert len(trainings) == 6


def test_a_stage_of_one_fold_is_refused_in_another(fresh_project: Project, capsys: Any) -> None:
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled)]) == 0
    stage = read_stage("Dataset601_Tiny_f0s1")
    with pytest.raises(StateError, match="was written for fold 0, not 1"):
        stage.split(1)


@pytest.mark.parametrize(("folds", "said"), [(["0", "0"], "a fold is given twice"), (["all", "0"], "give it alone")])
def test_folds_that_do_not_go_together(fresh_project: Project, capsys: Any, folds: list[str], said: str) -> None:
    assert main([*CALL, "-f", *folds]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_validation_is_named(fresh_project: Project, capsys: Any) -> None:
    flags = [*CALL, "-f", "0", "1", "-u", str(fresh_project.unlabelled)]
    assert main(flags) == 0
    published = fresh_project.results / DATASET / f"{OUR_STUDENT}__{PLANS}__3d_fullres" / "fold_1" / "validation" / "summary.json"
    student = next(fresh_project.results.glob("Dataset604_*/*/fold_1/validation/summary.json"))
    kept = student.read_text()
    student.write_text(json.dumps({**json.loads(kept), "metric_per_case": json.loads(kept)["metric_per_case"] * 2}))
    assert main(flags) == 2
    assert "fold 1: the teacher was validated on 1 cases, the student on 2" in capsys.readouterr().err
    published.unlink()
    student.unlink()
    assert main([*flags, "--status"]) == 0
    capsys.readouterr()
    run = open_run(RunSpec(setup=load_setup("137", "3d_fullres", PLANS), fold=1, teacher_trainer=OUR_TEACHER))
    with pytest.raises(
        StateError, match=r"is missing; run: nnUNetv2_train 604 3d_fullres 1 -tr \S+ -p \S+ --val, then the same command again"
    ):
        fold_figures(run)
    student.write_text(kept)
    assert main(flags) == 0
    assert published.is_file()


def test_table_by_hand() -> None:
    folds = [
        FoldFigures(0, 10, {"mean": 0.80, "liver": 0.9, "tumour": None}, {"mean": 0.82, "liver": 0.9, "tumour": None}),
        FoldFigures(3, 11, {"mean": 0.70, "liver": 0.8, "tumour": 0.6}, {"mean": 0.66, "liver": 0.7, "tumour": 0.62}),
    ]
    notes = ["+-: sample standard deviation over the folds, which share training cases: no standard error"]
    lines = [" ".join(line.split()) for line in format_cross_validation(folds).splitlines()]
    assert lines == [
        "fold cases teacher student gain",
        "0 10 0.8000 0.8200 +0.0200",
        "3 11 0.7000 0.6600 -0.0400",
        "mean 21 0.7500 +- 0.0707 0.7400 +- 0.1131 -0.0100 +- 0.0424",
        "liver 21 0.8500 +- 0.0707 0.8000 +- 0.1414 -0.0500 +- 0.0707",
        "tumour 11 0.6000 0.6200 +0.0200",
        *notes,
        "tumour: without fold 0, where teacher or student has no figure",
    ]


def test_a_class_that_the_teacher_alone_invents_does_not_make_the_student_better() -> None:
    """In fold 1 the truth lacks it: the teacher has 0 for what it invents; the student, which is right, has no figure, and so no mean."""
    folds = [
        FoldFigures(0, 4, {"mean": 0.90, "tumour": 0.9}, {"mean": 0.90, "tumour": 0.9}),
        FoldFigures(1, 5, {"mean": 0.50, "tumour": 0.0}, {"mean": None, "tumour": None}),
    ]
    lines = [" ".join(line.split()) for line in format_cross_validation(folds).splitlines()]
    assert lines[2:5] == ["1 5 0.5000 - -", "mean 4 0.9000 0.9000 +0.0000", "tumour 4 0.9000 0.9000 +0.0000"]
    assert lines[6:] == [f"{name}: without fold 1, where teacher or student has no figure" for name in ("mean", "tumour")]


def test_a_teacher_that_nobody_has_validated(fresh_project: Project, capsys: Any) -> None:
    """A model of the user's own is taken as it is; days of training are not to end in an error for want of its figures."""
    flags = [*CALL, "-f", "0", "1", "-u", str(fresh_project.unlabelled)]
    assert main(flags) == 0
    setup = load_setup("137", "3d_fullres", PLANS)
    run = open_run(RunSpec(setup=setup, fold=1, teacher_trainer=OUR_TEACHER))
    run.teacher.validation_summary(1).unlink()
    found = fold_figures(run)
    assert set(found.teacher.values()) == {None}
    assert list(found.student) == list(found.teacher)
    other = fold_figures(open_run(RunSpec(setup=setup, fold=0, teacher_trainer=OUR_TEACHER)))
    lines = format_cross_validation([other, found]).splitlines()
    assert lines[2].split()[:3] == ["1", "1", "-"]
    command = f"nnUNetv2_train 137 3d_fullres 1 -tr {OUR_TEACHER} -p {PLANS} --val"
    assert lines[-1] == f"fold 1: the teacher was not validated; to do it: {command}"


def test_the_figures_are_those_of_the_published_student(fresh_project: Project) -> None:
    assert main([*CALL, "-f", "1", "-u", str(fresh_project.unlabelled)]) == 0
    run = open_run(RunSpec(setup=load_setup("137", "3d_fullres", PLANS), fold=1, teacher_trainer=OUR_TEACHER))
    found = fold_figures(run)
    assert (found.fold, found.num_cases) == (1, 1)
    assert list(found.teacher.values()) == pytest.approx([0.6, 0.5, 0.7])
    assert list(found.student.values()) == pytest.approx([0.7, 0.6, 0.8])
