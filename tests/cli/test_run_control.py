"""`nnssl_run --control`: a finished run again with one thing changed, with trainings that take no time."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cross_fitted import cross_fitted
from given_labels import write_labels
from tiny_setup import (
    DATASET,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    digests,
    mtimes,
    open_tiny_run,
    phantom,
    pretend_validated_training,
)

from nnunet_ssl.cli.prepare import main as prepare
from nnunet_ssl.cli.run import main
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.controls import CONTROLS
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.pseudolabel.control_run import control_method
from nnunet_ssl.pseudolabel.run_spec import RunSpec
from nnunet_ssl.pseudolabel.start_run import open_run

__all__ = ["cross_fitted"]
"""A fixture."""

CALL = ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]
"""A run's; its control takes no `--num-samples`, which the run keeps."""
CONTROL = [word for word in CALL if word not in ("--num-samples", "2")]
PLANS_OF_CONTROL = f"{PLANS}_nnssl_control_supervised"


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings that leave a validation in which the n-th model has a Dice of n tenths in every case."""
    asked: list[str] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append(f"{model.dataset} {model.plans.removeprefix(PLANS)}".strip())
        pretend_validated_training(model, fold, number=len(asked))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    return asked


def run_and_control(project: Project, capsys: Any, *flags: str, name: str = "supervised", fold: str = "0") -> str:
    assert main([*CALL, "-f", fold, "-u", str(project.unlabelled), *flags]) == 0
    capsys.readouterr()
    assert main([*CONTROL, "-f", fold, "--control", name]) == 0
    return str(capsys.readouterr().out)


def control_of(project: Project, name: str = "supervised", fold: int | str = 0) -> Any:
    setup = project.setup(f"{PLANS}_nnssl_control_{name.replace('-', '_')}")
    return open_run(RunSpec(setup=setup, fold=fold, teacher_trainer=OUR_TEACHER))


def test_control_of_manual_labels_alone(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled)]) == 0
    run = open_tiny_run(fresh_project)
    models = sorted((fresh_project.results / DATASET).iterdir())
    before = mtimes(*models)
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 0
    out = capsys.readouterr().out
    assert mtimes(*models) == before
    # the teacher was not trained again, and nothing predicted on the pool
    assert trainings[3:] == ["Dataset603_Tiny_f0s1 _nnssl_control_supervised", "Dataset604_Tiny_f0s2 _nnssl_control_supervised"]
    assert "train the teacher (fold 0): done before" in out
    assert "evidence of" not in out
    control = control_of(fresh_project)
    assert (control.method.student.labelled_share, control.method.agreement.weight) == (1.0, 0.0)
    changed = {path for path, value in control.method.by_path().items() if value != run.method.by_path()[path]}
    assert changed == {"student.labelled_share", "agreement.weight"}
    assert [(s.fraction, s.num_epochs, s.cases) for s in control.manifest.stages] == [
        (s.fraction, s.num_epochs, s.cases) for s in run.manifest.stages
    ]
    assert control.manifest.published
    assert "  fold 0, 1 validation cases: student 0.3000, control 0.5000, difference -0.2000\n" in out
    assert "one training each: two trainings of one kind differ as well" in out
    predict = "nnUNetv2_predict -d 137 -c 3d_fullres -f 0 -tr TransASPPStudentTrainer -p {} -i INPUT_FOLDER -o OUTPUT_FOLDER -device cpu\n"
    assert out.endswith(f"next: {predict.format(PLANS)}  and: {predict.format(PLANS_OF_CONTROL)}")
    # again: nothing is done twice, and plans, teacher and evidence stay as they are
    after, trained = mtimes(fresh_project.preprocessed, fresh_project.results), list(trainings)
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 0
    assert (mtimes(fresh_project.preprocessed, fresh_project.results), trainings) == (after, trained)


def test_control_is_a_run_like_any_other(fresh_project: Project, capsys: Any) -> None:
    run_and_control(fresh_project, capsys)
    flags = [PLANS_OF_CONTROL if word == PLANS else word for word in CONTROL]
    assert main([*flags, "-f", "0", "--status"]) == 0
    assert capsys.readouterr().out.count("[done]") == 6


def test_control_of_every_fold(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    assert main([*CALL, "-f", "0", "1", "-u", str(fresh_project.unlabelled)]) == 0
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0", "1", "--control", "random-order"]) == 0
    out = capsys.readouterr().out
    for line in (
        "fold 0, 1 validation cases: student 0.3000, control 0.8000, difference -0.5000",
        "fold 1, 1 validation cases: student 0.6000, control 1.0000, difference -0.4000",
        "all folds, 2 validation cases: student 0.4500, control 0.9000, difference -0.4500, standard error over the cases 0.0500",
    ):
        assert line in out
    assert [control_of(fresh_project, "random-order", fold).method.curriculum.order for fold in (0, 1)] == ["random", "random"]


def test_control_of_cross_fitted_teachers(cross_fitted: Project, capsys: Any, trainings: list[str]) -> None:
    out = run_and_control(cross_fitted, capsys, fold="all", name="no-agreement")
    assert "with -f all no labelled case is unseen; compare both on test cases:" in out
    control, run = control_of(cross_fitted, "no-agreement", "all"), open_tiny_run(cross_fitted, "all")
    assert control.manifest.teacher_folds == run.manifest.teacher_folds == [0, 1, 2, 3, 4]
    for ours, theirs in ((control, run), (run, control)):
        stores = [*ours.teacher_stores().values(), *ours.held_out_stores().values()]
        others = [*theirs.teacher_stores().values(), *theirs.held_out_stores().values()]
        assert [digests(sorted(s.folder.iterdir())).values() for s in stores] != []
        assert [sorted(p.name for p in s.folder.iterdir()) for s in stores] == [sorted(p.name for p in s.folder.iterdir()) for s in others]


def test_accepted_labels_are_the_controls_as_well(fresh_project: Project, capsys: Any, tmp_path: Path, caplog: Any) -> None:
    for step in ("pool", "teacher", "stage-1", "student-1"):
        assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled), "--only", step]) == 0
    write_labels(tmp_path / "given", {POOL[0]: phantom(POOL[0])[1]})
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        run_and_control(fresh_project, capsys, "--accept", str(tmp_path / "given"))
    assert "its control has those of the end from the first stage on" in caplog.text
    assert [list(stage.accepted) for stage in control_of(fresh_project).manifest.stages] == [[POOL[0]], [POOL[0]]]
    assert [list(stage.accepted) for stage in open_tiny_run(fresh_project).manifest.stages] == [[], [POOL[0]]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-u", "."], "leave out -u"),
        (["--preset", "cpu"], "leave out --preset"),
        (["--dry-run"], "leave out --dry-run"),
        (["--set", "student.cutmix=0"], "leave out the setting student.cutmix"),
    ],
)
def test_what_would_change_more_than_one_thing(fresh_project: Project, capsys: Any, flags: list[str], said: str) -> None:
    assert main([*CONTROL, "-f", "0", "--control", "supervised", *flags]) == 2
    assert f"--control repeats a finished run with one thing changed; {said}" in capsys.readouterr().err


def test_a_run_that_is_not_finished(fresh_project: Project, capsys: Any) -> None:
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 2
    assert "and none of fold 0 has begun; leave --control out first" in capsys.readouterr().err
    for step in ("pool", "teacher", "stage-1"):
        assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled), "--only", step]) == 0
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 2
    assert re.search(r"--control supervised repeats a finished run; finish the one in \S+nnssl first", capsys.readouterr().err)


def test_all_folds_are_looked_at_before_any_is_trained(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled)]) == 0
    trained = list(trainings)
    assert main([*CONTROL, "-f", "0", "1", "--control", "supervised"]) == 2
    assert "none of fold 1 has begun" in capsys.readouterr().err
    assert trainings == trained


def test_a_last_student_that_is_not_validated(fresh_project: Project, capsys: Any) -> None:
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled)]) == 0
    open_tiny_run(fresh_project).student(2).validation_summary(0).unlink()
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 2
    assert f"its last student is not: nnUNetv2_train 602 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} --val" in capsys.readouterr().err


def test_groups_are_those_of_the_run(fresh_project: Project, capsys: Any, tmp_path: Path) -> None:
    """Groups that were kept beside the pool since would rank the control's cases in another way."""
    table = tmp_path / "groups.csv"
    table.write_text("case,group\n" + "".join(f"{case},{'north' if number < 3 else 'south'}\n" for number, case in enumerate(POOL)))
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled)]) == 0
    assert prepare(["-d", "137", "-c", "3d_fullres", "-p", PLANS, "--groups", str(table)]) == 0
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 0
    assert control_of(fresh_project).manifest.groups == open_tiny_run(fresh_project).manifest.groups == {}


def test_what_a_control_links_is_no_teacher_that_is_there(fresh_project: Project, capsys: Any) -> None:
    run_and_control(fresh_project, capsys)
    assert prepare(["-d", "137", "-c", "3d_fullres", "-u", str(fresh_project.unlabelled), "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert f"-tr {OUR_TEACHER} -p {PLANS}  # its teacher is trained already, fold 0\n" in out
    assert "nnssl_control" not in out


def test_a_run_that_is_its_own_control(fresh_project: Project, capsys: Any) -> None:
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled), "--agreement", "0"]) == 0
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0", "--control", "no-agreement"]) == 2
    assert "--control no-agreement: there is nothing to compare, since the run has these settings itself (agreement.weight)" in (
        capsys.readouterr().err
    )


def test_control_of_a_run_that_was_started_over(fresh_project: Project, capsys: Any) -> None:
    run_and_control(fresh_project, capsys)
    shutil.rmtree(open_tiny_run(fresh_project).workspace)
    assert main([*CALL, "-f", "0", "-u", str(fresh_project.unlabelled), "--targets", "hard"]) == 0
    capsys.readouterr()
    assert main([*CONTROL, "-f", "0", "--control", "supervised"]) == 2
    assert re.search(r"the control in \S+ is of a run that had another method; remove \S+ to begin it anew", capsys.readouterr().err)


# ---- settings


def finished(
    method: MethodConfig,
    stages: list[tuple[float, int]],
    *,
    student: str = OUR_STUDENT,
    held_out: bool = True,
    order: str = "ranked",
    weight: float = 0.5,
) -> Any:
    """What `control_method` looks at of a run of all folds; stages are fractions and epochs."""
    records = [
        SimpleNamespace(fraction=fraction, num_epochs=epochs, order=order, agreement_weight=weight if number else 0.0)
        for number, (fraction, epochs) in enumerate(stages)
    ]
    of_run = SimpleNamespace(stages=records, student_trainer=student)
    return SimpleNamespace(manifest=of_run, method=method, fold="all", held_out_cases={0: ["lab_0"]} if held_out else {})


SIX = [(0.1, 100), (0.2, 100), (0.4, 100), (0.6, 100), (0.8, 100), (1.0, 500)]
"""Stages of the defaults."""


@pytest.mark.parametrize(
    "stages", [[(0.2, 10), (0.7, 10), (1.0, 80)], [(0.2, 7), (1.0, 93)], [(1.0, 100)], [(0.1, 1), (0.9, 1), (1.0, 98)]]
)
def test_control_of_an_adaptive_run_has_the_stages_that_it_had(stages: list[tuple[float, int]]) -> None:
    method = MethodConfig().with_settings({"curriculum.schedule": "adaptive", "student.length.num_epochs": 100})
    curriculum = control_method(finished(method, stages), "supervised").curriculum
    assert curriculum.schedule == "fixed"
    assert curriculum.stage_fractions == tuple(fraction for fraction, _ in stages)
    assert curriculum.stage_epochs(100) == tuple(epochs for _, epochs in stages)


def test_control_of_a_run_without_a_curriculum_has_one_stage() -> None:
    method = MethodConfig().with_settings({"curriculum.order": "all-at-once", "curriculum.fractions": [0.2, 0.8]})
    changed = control_method(finished(method, [(0.8, 1000)]), "random-order")
    assert (changed.curriculum.order, changed.curriculum.stage_fractions, changed.student.length.num_epochs) == ("random", (0.8,), 1000)


def test_epochs_that_changed_on_the_way() -> None:
    """The first stages were shorter: that can be repeated where they were equally long."""
    method = MethodConfig().with_settings({"curriculum.fractions": [0.2, 0.6, 1.0]})
    changed = control_method(finished(method, [(0.2, 50), (0.6, 50), (1.0, 500)]), "supervised")
    assert changed.curriculum.stage_epochs(changed.student.length.num_epochs) == (50, 50, 500)
    with pytest.raises(ConfigError, match="the number of epochs changed on the way of the run, which a control cannot repeat"):
        control_method(finished(method, [(0.2, 50), (0.6, 250), (1.0, 500)]), "supervised")


def test_one_stage_has_the_epochs_of_all() -> None:
    changed = control_method(finished(MethodConfig(), [(0.2, 50), (0.6, 250), (1.0, 500)]), "all-at-once")
    assert (changed.curriculum.stage_fractions, changed.student.length.num_epochs) == ((1.0,), 800)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_changes_what_it_says(name: str) -> None:
    method = MethodConfig()
    changed = control_method(finished(method, SIX), name).by_path()
    assert {path: changed[path] for path, value in method.by_path().items() if value != changed[path]} == dict(CONTROLS[name])
    with pytest.raises(ConfigError, match="the run has these settings itself"):
        control_method(finished(method.with_settings(CONTROLS[name]), SIX), name)


@pytest.mark.parametrize(
    ("name", "settings", "options", "why"),
    [
        ("no-calibration", {}, {"held_out": False}, "no held-out cases calibrate"),
        ("no-calibration", {"evidence.confidence": "paper"}, {}, "the run has these settings itself"),
        ("no-agreement", {}, {"stages": [(1.0, 1000)]}, "labels of every stage of the run are the teacher's alone"),
        # whose refined labels were all refused
        ("no-agreement", {}, {"weight": 0.0}, "labels of every stage of the run are the teacher's alone"),
        ("random-order", {}, {"order": "random"}, "held-out cases refute its ranking"),
        ("random-order", {}, {"stages": [(1.0, 1000)]}, "one stage with the whole pool"),
        ("all-at-once", {}, {"stages": [(0.5, 1000)]}, "the run has one stage itself"),
        ("no-unlearning", {}, {"student": "NaiveSelfTrainingTrainer"}, "NaiveSelfTrainingTrainer does not use"),
    ],
)
def test_controls_that_would_be_the_run_again(name: str, settings: dict[str, Any], options: dict[str, Any], why: str) -> None:
    run = finished(MethodConfig().with_settings(settings), **{"stages": SIX, **options})
    with pytest.raises(ConfigError, match=f"--control {name}: there is nothing to compare, since .*{why}"):
        control_method(run, name)
