"""`nnssl_pseudolabel`: stage after stage, each time with the command to type next."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_setup import OUR_STUDENT, PLANS, POOL, Project, open_tiny_run, teacher_store, write_evidence, write_student

from nnunet_ssl.cli.pseudolabel import main

CALL = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-p", PLANS, "-device", "cpu"]
PREDICT = f"nnUNetv2_predict -d 137 -c 3d_fullres -f 0 -tr {OUR_STUDENT} -p {PLANS} -i INPUT_FOLDER -o OUTPUT_FOLDER -device cpu"


def call(capsys: Any, *flags: str, code: int = 0) -> str:
    assert main([*CALL, *flags]) == code
    captured = capsys.readouterr()
    return str(captured.out if code == 0 else captured.err)


def test_from_the_first_stage_to_the_published_model(taught_project: Project, capsys: Any) -> None:
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    out = call(capsys)
    assert "stage 1: 3 of 6 pool cases in Dataset601_Tiny_f0s1" in out
    assert "ranking_1.csv" in out
    train = f"next: nnUNetv2_train 601 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu\n"
    assert train in out
    out = call(capsys)
    assert "stage 1 is written (Dataset601_Tiny_f0s1); its student is not trained yet" in out
    assert train in out
    run = open_tiny_run(taught_project)
    write_student(run, 1)
    write_evidence(run.student_store(1))
    out = call(capsys)
    assert "stage 2: 6 of 6 pool cases in Dataset602_Tiny_f0s2" in out
    assert f"next: nnUNetv2_train 602 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu\n" in out
    write_student(run, 2)
    for _ in range(2):
        out = call(capsys)
        assert "the curriculum is complete; the last student is published as " in out
        assert out.endswith(f"next: {PREDICT}\n")


def test_evidence_is_gathered_by_the_network(taught_project: Project, capsys: Any) -> None:
    out = call(capsys, "--stages", "0.2", "--num-samples", "1")
    assert "stage 1: 1 of 6 pool cases" in out
    assert "evidence of the teacher: 6 cases swept, 0 were there" in out
    store = teacher_store(open_tiny_run(taught_project))
    assert all(store.has(case) for case in POOL)


def test_rescore_predicts_nothing(taught_project: Project, capsys: Any) -> None:
    assert "evidence of case 'pool_0' is missing" in call(capsys, "--rescore", code=2)
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    assert "stage 1: 3 of 6" in call(capsys, "--rescore", "--order", "reverse")
    assert open_tiny_run(taught_project).manifest.stages[0].cases == POOL[:2:-1]


def test_stage_again(taught_project: Project, capsys: Any) -> None:
    assert "--stage 1: none is written" in call(capsys, "--stage", "1", code=2)
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    call(capsys)
    label = taught_project.raw / "Dataset601_Tiny_f0s1" / "labelsTr" / "pool_0.nii.gz"
    label.unlink()
    out = call(capsys, "--stage", "1")
    assert "stage 1: 3 pool cases written again in Dataset601_Tiny_f0s1" in out
    assert f"next: nnUNetv2_train 601 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu\n" in out
    assert label.is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stages", "0.5", "0.2"], "curriculum.fractions"),
        (["--set", "student.cut_mix=0"], "no setting 'student.cut_mix'"),
        (["--set", "student.ema=False"], "expected true or false"),
        (["-f", "3"], f"run: nnUNetv2_train 137 3d_fullres 3 -tr TransASPPTeacherTrainer -p {PLANS}"),
        (["-f", "9"], "fold 9"),
        (["--teacher-folds", "0", "1"], "fold 0 may only use the teacher of fold 0"),
        (["-tr", "nnUNetTrainer"], f"run: nnUNetv2_train 137 3d_fullres 0 -tr nnUNetTrainer -p {PLANS}"),
        (["--first-id", "999"], "leaves the range 1 to 999"),
        (["--student-tr", "NobodysTrainer"], "no trainer class 'NobodysTrainer'"),
        (["-p", "nnUNetPlans"], "run: nnUNetv2_train 137 3d_fullres 0 -tr TransASPPTeacherTrainer\n"),
    ],
)
def test_errors_are_one_line_and_code_2(taught_project: Project, capsys: Any, flags: list[str], message: str) -> None:
    err = call(capsys, *flags, code=2)
    line = [part for part in err.replace("\r", "\n").splitlines(keepends=True) if part.startswith("nnssl_pseudolabel: error: ")]
    assert len(line) == 1
    assert message in line[0]
    assert "Traceback" not in err
    assert not list(taught_project.raw.glob("Dataset6*"))


def test_missing_device(taught_project: Project, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch finds no CUDA device; use -device cpu" in call(capsys, "-device", "cuda", code=2)
