"""`nnssl_run`: the whole method by one command, with trainings that take no time."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tiny_setup import DATASET, LABELLED, OUR_STUDENT, OUR_TEACHER, PLANS, POOL, Project, mtimes, open_tiny_run, pretend_training

from nnunet_ssl.cli.pseudolabel import main as pseudolabel
from nnunet_ssl.cli.run import main
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation

CALL = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append(model.dataset)
        pretend_training(model, fold, seed=len(asked))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    return asked


def everything(project: Project) -> dict[str, int]:
    return mtimes(project.raw, project.preprocessed, project.results)


def call(capsys: Any, project: Project, *flags: str, code: int = 0) -> str:
    assert main([*CALL, "-u", str(project.unlabelled), *flags]) == code
    captured = capsys.readouterr()
    return str(captured.out if code == 0 else captured.err)


def test_run_again_and_status(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    before = everything(fresh_project)
    for flag in ("--dry-run", "--status"):
        out = call(capsys, fresh_project, flag)
        assert out.count("[ to do]") == 7
        assert everything(fresh_project) == before
    out = call(capsys, fresh_project)
    assert "[7/7] publish the last student" in out
    table = [line.split() for line in out.splitlines() if line.split()[:1] in (["teacher"], ["1"], ["2"])]
    assert [row[0] for row in table] == ["teacher", "1", "2"]
    assert [row[2] for row in table] == ["-", "3", "6"]
    predict = (
        f"next: nnUNetv2_predict -d 137 -c 3d_fullres -f 0 -tr {OUR_STUDENT} -p {PLANS} -i INPUT_FOLDER -o OUTPUT_FOLDER -device cpu\n"
    )
    report = f"  or: nnssl_report -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr TransASPPTeacherTrainer\n"
    assert out.endswith(predict + report)
    after = everything(fresh_project)
    again = call(capsys, fresh_project)
    assert again.count("done before") == 7
    assert again.endswith(predict + report)
    status = call(capsys, fresh_project, "--status")
    assert status.count("[done]") == 7
    assert [line.split()[0] for line in status.splitlines()[-3:]] == ["teacher", "1", "2"]
    assert call(capsys, fresh_project, "--dry-run").count("[done]") == 7
    assert everything(fresh_project) == after
    assert trainings == [DATASET, "Dataset601_Tiny_f0s1", "Dataset602_Tiny_f0s2"]


@pytest.mark.parametrize("flags", [[], ["--audit"]])
def test_a_run_without_a_pool_stops_before_the_teacher(fresh_project: Project, capsys: Any, trainings: list[str], flags: list[str]) -> None:
    assert main([*CALL, *flags]) == 2
    assert "no pool is prepared for Dataset137_Tiny 3d_fullres" in capsys.readouterr().err
    assert trainings == []
    assert main([*CALL, "--status"]) == 0
    assert "no pool is prepared for Dataset137_Tiny 3d_fullres (nnUNetPlans_nnssl_tiny); run: nnssl_prepare" in capsys.readouterr().out


def test_probabilities_are_for_folds(fresh_project: Project, capsys: Any) -> None:
    flags = [*CALL[:5], "all", *CALL[6:]]
    assert main([*flags, "-u", str(fresh_project.unlabelled), "--npz"]) == 2
    assert "--npz: with -f all no case is held out" in capsys.readouterr().err


def test_skipped_cases_are_listed_and_come_back(fresh_project: Project, capsys: Any) -> None:
    image = fresh_project.unlabelled / f"{POOL[3]}_0000.nii.gz"
    good = image.read_bytes()
    image.write_bytes(b"no image")
    flags = ("--skip-bad", "--only", "pool")
    assert f"skipped {POOL[3]}: case '{POOL[3]}': {image} cannot be read" in call(capsys, fresh_project, *flags)
    assert "pool (prepare the pool): done before" in call(capsys, fresh_project, *flags)
    image.write_bytes(good)
    assert "pool: 6 cases in " in call(capsys, fresh_project, *flags)


def test_dry_run_says_what_is_needed(fresh_project: Project, capsys: Any) -> None:
    out = call(capsys, fresh_project, "--dry-run")
    lines = out.splitlines()
    assert lines[0].startswith(f"  1. [ to do] pool       prepare the pool: nnssl_prepare -d 137 -c 3d_fullres -p {PLANS} -u ")
    assert lines[-1].startswith("disk for 6 pool cases: about ")
    assert re.search(r"MB \(pool \d+, evidence \d+, stages \d+, trainings \d+\)$", lines[-1])
    # without -u the pool has to be there
    assert main([*CALL, "--dry-run"]) == 2
    assert "no pool is prepared" in capsys.readouterr().err


def test_status_says_how_far_trainings_are(fresh_project: Project, capsys: Any) -> None:
    def logged(model: ModelLocation, epoch: int) -> None:
        model.fold_folder(0).mkdir(parents=True, exist_ok=True)
        (model.fold_folder(0) / "training_log_2026.txt").write_text(f"2026-11-30 20:01:27.1: Epoch {epoch} \n")

    def progress(flag: str) -> list[str]:
        pairs = itertools.pairwise(call(capsys, fresh_project, flag).splitlines())
        return [f"{step.split()[4]}: {line.strip()[:-17]}" for step, line in pairs if "epochs done" in line]

    logged(fresh_project.setup().model(OUR_TEACHER), 1)
    assert progress("--status") == ["teacher: 1 of 2 epochs done, its log last written"]
    assert progress("--dry-run") == []
    for step in ("pool", "teacher", "stage-1"):
        call(capsys, fresh_project, "--only", step)
    logged(open_tiny_run(fresh_project).student(1), 1)
    assert progress("--status") == ["student-1: 1 of 1 epochs done, its log last written"]


def test_looking_does_not_change_the_settings(fresh_project: Project, capsys: Any) -> None:
    for step in ("pool", "teacher", "stage-1"):
        call(capsys, fresh_project, "--only", step)
    before = everything(fresh_project)
    for flag in ("--status", "--dry-run"):
        call(capsys, fresh_project, flag, "--agreement", "0")
        assert everything(fresh_project) == before


def test_a_setting_that_would_act_on_nothing_is_refused(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    """All stages are written; the same table again would read as if the setting made no difference."""
    call(capsys, fresh_project, "--targets", "hard")
    run = open_tiny_run(fresh_project)
    trained = list(trainings)
    for command in (main, pseudolabel):
        flags = [word for word in CALL if word not in ("-np", "1")] if command is pseudolabel else CALL
        assert command([*flags, "--unlearning", "off"]) == 2
        wanted = (
            f'student.unlearning = "off" would change nothing: every stage .* nnssl_run -d 137 -c 3d_fullres -f 0 -p {PLANS} .*--control'
        )
        err = capsys.readouterr().err
        assert re.search(wanted, err)
        assert "nnssl_pseudolabel with --stage T" in err
        assert command([*flags, "--set", "agreement.weight=0"]) == 2  # which no stage that is there can be written with
        err = capsys.readouterr().err
        assert "agreement.weight = 0 would change nothing" in err
        assert "--stage" not in err
        assert command([*flags, "--targets", "hard"]) == 0
        capsys.readouterr()
    assert trainings == trained
    assert open_tiny_run(fresh_project).manifest == run.manifest
    # a stage that is written again is written with it
    assert pseudolabel([*[word for word in CALL if word not in ("-np", "1")], "--unlearning", "off", "--stage", "2"]) == 0
    out = capsys.readouterr().out
    assert f"next: nnUNetv2_train 602 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu\n" in out
    assert f"nnssl_run keeps it, unless {run.student(2).fold_folder(0)} is removed\n" in out
    # the audit acts on what is given
    assert main([*CALL, "--case-score", "foreground", "--audit"]) == 0


def test_preset_is_laid_over_the_plans_when_a_run_begins(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    flags = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-device", "cpu", "--preset", "demo", "-u", str(fresh_project.unlabelled)]
    before = everything(fresh_project)
    for look in ("--dry-run", "--status"):
        assert main([*flags, look]) == 0
        out = capsys.readouterr().out
        assert "-p nnUNetPlans_nnssl_demo" in out
        assert "not laid yet; before a step that is typed alone: nnssl_prepare -d 137 -c 3d_fullres --preset demo\n" in out
        assert everything(fresh_project) == before
    assert main([*flags, "--first-id", "999"]) == 2  # more stages than ids
    assert "leaves the range" in capsys.readouterr().err
    assert trainings == []
    assert main([*flags, "--only", "pool"]) == 0
    assert main([*flags, "--only", "teacher"]) == 0
    capsys.readouterr()
    assert main([*flags, "--dry-run"]) == 0
    assert "not laid yet" not in capsys.readouterr().out
    plans = fresh_project.preprocessed / DATASET / "nnUNetPlans_nnssl_demo.json"
    laid = plans.stat().st_mtime_ns
    assert main([*flags, "--status"]) == 0
    assert plans.stat().st_mtime_ns == laid
    assert trainings == [DATASET]


def test_ids_in_use_are_refused_before_anything_is_trained(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    (fresh_project.raw / "Dataset704_Heart").mkdir()
    before = everything(fresh_project)
    err = call(capsys, fresh_project, "--first-id", "703", code=2)
    assert re.search(r"nnssl_run: error: the dataset id 704 is already in use by \S+Dataset704_Heart; choose another --first-id\.\n$", err)
    assert everything(fresh_project) == before
    assert trainings == []
    for step in ("pool", "teacher", "stage-1"):
        call(capsys, fresh_project, "--only", step)
    err = call(capsys, fresh_project, "--first-id", "703", code=2)  # the student of stage 1 would be trained first
    assert "the dataset id 704 is already in use" in err
    assert trainings == [DATASET]
    begun = everything(fresh_project)
    assert "nnUNetv2_train 712 " in call(capsys, fresh_project, "--first-id", "711", "--dry-run")
    assert everything(fresh_project) == begun
    call(capsys, fresh_project, "--first-id", "711")
    assert trainings == [DATASET, "Dataset601_Tiny_f0s1", "Dataset712_Tiny_f0s2"]


def test_folder_that_is_read_only_is_said_before_anything_is_trained(
    fresh_project: Project, capsys: Any, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(fresh_project)
    ways = {
        "nnUNet_raw": "in which {0} is a link (ln -s {1}/{0} FOLDER)",
        "nnUNet_preprocessed": "with a copy of {0} (cp -r {1}/{0} FOLDER)",
        "nnUNet_results": "with a copy of {0} if it has models that you need",
    }
    for variable, way in ways.items():
        root = Path(os.environ[variable])
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda path, mode, root=root: Path(path) != root)
            err = call(capsys, fresh_project, code=2)
            assert err.startswith(f"nnssl_run: error: {root} cannot be written to, and the run writes there; ")
            assert err.endswith(f"or let {variable} name a folder of your own {way.format(DATASET, root)}.\n")
            call(capsys, fresh_project, "--dry-run")
    assert everything(fresh_project) == before
    assert trainings == []


def test_raw_dataset_may_be_a_link(fresh_project: Project, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For nnU-Net as well, whose own functions find it and list its files."""
    before = mtimes(fresh_project.raw)
    own = tmp_path / "own"
    own.mkdir()
    (own / DATASET).symlink_to(fresh_project.raw / DATASET)
    monkeypatch.setenv("nnUNet_raw", str(own))
    assert len(get_filenames_of_train_images_and_targets(str(own / convert_id_to_dataset_name(137)))) == len(LABELLED)
    for step in ("pool", "teacher", "stage-1"):
        call(capsys, fresh_project, "--only", step)
    assert sorted(folder.name for folder in own.iterdir()) == [DATASET, "Dataset601_Tiny_f0s1"]
    labels = (own / "Dataset601_Tiny_f0s1" / "labelsTr", fresh_project.raw / DATASET / "labelsTr")
    assert (labels[0] / "lab_1.nii.gz").samefile(labels[1] / "lab_1.nii.gz")
    assert mtimes(fresh_project.raw) == before


AUDITED = ["-d", "137", "-c", "3d_fullres", "-f", "all", "-p", PLANS, "-device", "cpu", "--num-samples", "2", "-np", "1"]


def test_place_of_another_student_is_said_before_anything_is_trained(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    call(capsys, fresh_project)
    run, trained = open_tiny_run(fresh_project), list(trainings)
    err = call(capsys, fresh_project, "-f", "1", "0", "-tr", "nnUNetTrainer", "--student-tr", OUR_STUDENT, code=2)
    assert f"holds the published student of the run in {run.workspace}; to publish that of the run in " in err
    assert trainings == trained
    # one that stands nowhere yet is free, and the audit publishes nothing
    call(capsys, fresh_project, "-f", "1", "-tr", "nnUNetTrainer", "--student-tr", OUR_STUDENT, "--dry-run")


@pytest.mark.parametrize(
    ("folds", "flags", "said"),
    [
        (["2", "7"], (), "fold 7 is not in the 5 splits"),
        (["1", "0"], ("--stages", "0.3", "1.0"), "is fixed since its first stage"),
    ],
)
def test_what_stops_a_later_fold_is_said_before_the_first_is_trained(
    fresh_project: Project, capsys: Any, trainings: list[str], folds: list[str], flags: tuple[str, ...], said: str
) -> None:
    call(capsys, fresh_project)
    trained = list(trainings)
    assert said in call(capsys, fresh_project, "-f", *folds, *flags, code=2)
    assert trainings == trained


def test_audit_stops_before_the_first_stage(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    pool = ["-u", str(fresh_project.unlabelled)]
    assert main([*AUDITED, *pool, "--audit"]) == 0
    out = capsys.readouterr().out
    assert trainings == [DATASET] * 5
    steps = ["prepare the pool", *(f"train the teacher (fold {fold})" for fold in range(5))]
    assert [line for line in out.splitlines() if line.startswith("[")] == [f"[{i}/6] {name}" for i, name in enumerate(steps, 1)]
    assert f"audit of {DATASET}, fold all: 6 pool cases" in out
    assert "held-out cases: 5" in out
    assert out.count("advice: ") == 1
    assert out.splitlines()[-1] == f"{'next' if 'advice: go on' in out else 'to go on all the same'}: the same command without --audit"
    (workspace,) = (fresh_project.results / DATASET).glob("*/fold_all/nnssl")
    audit = json.loads((workspace / "audit.json").read_text())
    assert f"advice: {audit['advice']}: {audit['reason']}" in out
    assert json.loads((workspace / "manifest.json").read_text())["stages"] == []
    assert not list(fresh_project.raw.glob("Dataset6*"))
    # once more: nothing is trained, predicted or written but the audit itself
    before = {path: time for path, time in everything(fresh_project).items() if not path.endswith(("audit.json", "nnssl"))}
    assert main([*AUDITED, *pool, "--audit"]) == 0
    again = capsys.readouterr().out
    assert again.count("done before") == 6
    assert again[again.index("audit of") :] == out[out.index("audit of") :]
    assert {path: time for path, time in everything(fresh_project).items() if path in before} == before
    assert len(trainings) == 5
    # the same command without --audit
    assert main([*AUDITED, *pool]) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 6
    assert "[11/11] publish the last student" in out
    assert trainings[5:] == ["Dataset601_Tiny_falls1", "Dataset602_Tiny_falls2"]
    evidence = [path for path in before if "/evidence/" in path and path.endswith(".b2nd")]
    assert len(evidence) == 5 * 6 + 5
    after = everything(fresh_project)
    assert all(after[path] == before[path] for path in evidence)  # what the audit has predicted is not predicted again


def test_audit_of_one_fold_decides_nothing(fresh_project: Project, capsys: Any, trainings: list[str]) -> None:
    out = call(capsys, fresh_project, "--audit")
    assert "held-out cases: 1 (looked at here, they decide nothing)" in out
    assert trainings == [DATASET]
    assert out.endswith(": the same command without --audit\n")
    assert "[7/7] publish the last student" in call(capsys, fresh_project)
    (workspace,) = (fresh_project.results / DATASET).glob("*/fold_0/nnssl")
    assert not (workspace / "held_out.json").exists()
    assert json.loads((workspace / "manifest.json").read_text())["stages"][0]["calibration"] is None


def test_failed_training_stops_the_run_in_one_line(fresh_project: Project, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise StateError("nnUNetv2_train 137 failed: no memory (whole output: /x)")

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", fails)
    err = call(capsys, fresh_project, code=2)
    assert err.endswith("nnssl_run: error: nnUNetv2_train 137 failed: no memory (whole output: /x)\n")
    assert call(capsys, fresh_project, "--status").count("[done]") == 1


def test_settings_of_the_first_call_stay_in_force(fresh_project: Project, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call(capsys, fresh_project, "--stages", "1.0", "--targets", "hard")
    assert main([*CALL[:10], "-u", str(fresh_project.unlabelled)]) == 0  # without --num-samples, --stages and --targets
    out = capsys.readouterr().out
    assert out.count("done before") == 5
