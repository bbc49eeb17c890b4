"""`nnssl_run --control from-scratch`: one supervised training with the steps of the whole run, with trainings that take no time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cross_fitted import cross_fitted
from given_labels import write_labels
from tiny_setup import DATASET, OUR_STUDENT, OUR_TEACHER, PLANS, POOL, Project, mtimes, open_tiny_run, phantom, pretend_validated_training

from nnunet_ssl.cli.prepare import main as prepare
from nnunet_ssl.cli.run import main
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run.steps import steps_until

__all__ = ["cross_fitted"]
"""A fixture."""

CALL = ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-device", "cpu"]
OF_RUN = ["--num-samples", "2", "-np", "1"]
CONTROL = [*CALL, "--control", "from-scratch"]


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | str, int | None]]:
    """Trainings of a model, fold and number of epochs; the n-th has a Dice of n tenths in every validation case."""
    asked: list[tuple[str, int | str, int | None]] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append((f"{model.dataset}/{model.name}", fold, epochs))
        pretend_validated_training(model, fold, number=len(asked))

    for module in ("pipeline", "from_scratch"):
        monkeypatch.setattr(f"nnunet_ssl.run.{module}.train", pretend)
    return asked


def finished(project: Project, *folds: str, flags: tuple[str, ...] = ()) -> None:
    assert main([*CALL, *OF_RUN, "-f", *folds, "-u", str(project.unlabelled), *flags]) == 0


def epochs_of(run: Any) -> int:
    """As many as needed for the steps of teacher and students."""
    return -(-steps_until(run, 2) // run.method.teacher.length.iterations_per_epoch)


def test_one_training_of_all_steps(fresh_project: Project, capsys: Any, trainings: list[Any]) -> None:
    finished(fresh_project, "0")
    run = open_tiny_run(fresh_project)
    models = sorted((fresh_project.results / DATASET).iterdir())
    before, epochs = mtimes(*models), epochs_of(run)
    assert epochs > run.method.teacher.length.num_epochs
    plans = f"{PLANS}_nnssl_control_from_scratch_{epochs}"
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0"]) == 0
    out = capsys.readouterr().out
    assert trainings[3:] == [(f"{DATASET}/{OUR_TEACHER}__{plans}__3d_fullres", 0, epochs)]
    assert mtimes(*models) == before
    laid = fresh_project.setup(plans)
    changed = {path for path, value in laid.method.by_path().items() if value != run.method.by_path()[path]}
    assert changed == {"teacher.length.num_epochs", "teacher.distillation_epochs"}
    assert f"train from scratch on manual labels, {epochs} epochs" in out
    assert "  fold 0, 1 validation cases: student 0.3000, control 0.4000, difference -0.1000\n" in out
    predict = "nnUNetv2_predict -d 137 -c 3d_fullres -f 0 -tr {} -p {} -i INPUT_FOLDER -o OUTPUT_FOLDER -device cpu\n"
    assert out.endswith(f"next: {predict.format(OUR_STUDENT, PLANS)}  and: {predict.format(OUR_TEACHER, plans)}")
    # again: nothing is done twice
    after = mtimes(fresh_project.preprocessed, fresh_project.results)
    assert main([*CONTROL, "-f", "0"]) == 0
    assert "done before" in capsys.readouterr().out
    assert (mtimes(fresh_project.preprocessed, fresh_project.results), len(trainings)) == (after, 4)
    # and it is no teacher that is there
    assert prepare(["-d", "137", "-c", "3d_fullres", "-u", str(fresh_project.unlabelled), "-np", "1"]) == 0
    assert "nnssl_control" not in capsys.readouterr().out


def test_every_fold(fresh_project: Project, capsys: Any, trainings: list[Any]) -> None:
    finished(fresh_project, "0", "1")
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0", "1"]) == 0
    out = capsys.readouterr().out
    assert [fold for _, fold, _ in trainings[6:]] == [0, 1]
    assert "all folds, 2 validation cases: student 0.4500, control 0.7500, difference -0.3000" in out
    assert len(re.findall(r"(next|  and): nnUNetv2_predict -d 137 -c 3d_fullres -f 0 1 ", out)) == 2


def test_every_cross_fitted_teacher_counts(cross_fitted: Project, capsys: Any, trainings: list[Any]) -> None:
    finished(cross_fitted, "all")
    run = open_tiny_run(cross_fitted, "all")
    trainings.clear()
    capsys.readouterr()
    assert main([*CONTROL, "-f", "all"]) == 0
    assert "with -f all no labelled case is unseen; compare both on test cases:" in capsys.readouterr().out
    ((_, fold, epochs),) = trainings
    assert (fold, epochs) == ("all", epochs_of(run))
    assert epochs is not None
    assert epochs > 5 * run.method.teacher.length.num_epochs


def test_accepted_labels_are_not_learned(fresh_project: Project, capsys: Any, tmp_path: Path, caplog: Any) -> None:
    finished(fresh_project, "0", flags=("--accept", str(write_labels(tmp_path, {POOL[0]: phantom(POOL[0])[1]}))))
    assert main([*CONTROL, "-f", "0"]) == 0
    assert "1 pool cases of the run have accepted labels, from which its control does not learn" in caplog.text


def test_runs_that_are_not_finished(fresh_project: Project, capsys: Any, trainings: list[Any]) -> None:
    assert main([*CONTROL, "-f", "0"]) == 2
    assert "none of fold 0 has begun" in capsys.readouterr().err
    finished(fresh_project, "0", flags=("--only", "pool"))
    for step in ("teacher", "stage-1"):
        finished(fresh_project, "0", flags=("--only", step))
    assert main([*CONTROL, "-f", "0"]) == 2
    assert "--control from-scratch repeats a finished run; finish the one in" in capsys.readouterr().err
    assert len(trainings) == 1
    assert not list((fresh_project.preprocessed / DATASET).glob("*control*"))


def test_another_teachers_length_is_not_ours(fresh_project: Project, capsys: Any) -> None:
    finished(fresh_project, "0", flags=("-tr", "nnUNetTrainer"))
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0", "-tr", "nnUNetTrainer"]) == 2
    assert "--control from-scratch: how long nnUNetTrainer trains is not ours to set" in capsys.readouterr().err


def test_a_control_of_other_settings_is_not_gone_on_with(fresh_project: Project, capsys: Any) -> None:
    finished(fresh_project, "0")
    assert main([*CONTROL, "-f", "0"]) == 0
    (path,) = (fresh_project.preprocessed / DATASET).glob("*control_from_scratch*.json")
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["nnssl"]["teacher"]["initial_lr"] = 0.5
    path.write_text(json.dumps(plans))
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0"]) == 2
    assert re.search(r"fold_0 was trained with other settings of the teacher than those of the run; remove it", capsys.readouterr().err)
