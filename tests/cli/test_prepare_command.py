"""`nnssl_prepare`: what it makes, what it says, and how it fails."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tiny_setup import DATASET, PLANS, POOL, Project, digests

from nnunet_ssl.cli.prepare import main

SET_UP = ["-d", "137", "-c", "3d_fullres"]


def errors(capsys: Any) -> str:
    """What stands on stderr without progress bars: one line."""
    lines = [
        line
        for line in re.split(r"[\r\n]+", capsys.readouterr().err)
        if line and "it/s" not in line and "?it" not in line and "s/it" not in line
    ]
    assert len(lines) == 1, lines
    return lines[0]


def test_pool_and_next_command(fresh_project: Project, capsys: Any) -> None:
    before = digests(fresh_project.labelled_files())
    assert main([*SET_UP, "-p", PLANS, "-u", str(fresh_project.unlabelled), "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert f"6 unlabelled cases are ready in {fresh_project.preprocessed / DATASET}" in out
    size = r"3d_fullres with TransASPPUNet: patch 16 x 16 x 16, batch 2; on a GPU about \d+\.\d GB to train, \d+\.\d GB for evidence"
    assert re.search(size, out)
    assert f"next: nnUNetv2_train 137 3d_fullres FOLD -tr TransASPPTeacherTrainer -p {PLANS}\n" in out
    assert f"  or: nnssl_run -d 137 -c 3d_fullres -f FOLD -p {PLANS}\n" in out
    assert digests(fresh_project.labelled_files()) == before


def test_a_model_that_is_there_is_offered_as_the_teacher(fresh_project: Project, capsys: Any) -> None:
    checkpoint = fresh_project.results / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_2" / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert main([*SET_UP, "-u", str(fresh_project.unlabelled), "-np", "1"]) == 0
    assert capsys.readouterr().out.endswith(
        "  or: nnssl_run -d 137 -c 3d_fullres -f FOLD -tr nnUNetTrainer  # its teacher is trained already, fold 2\n"
    )


def test_skipped_cases_are_listed(fresh_project: Project, capsys: Any) -> None:
    (fresh_project.unlabelled / f"{POOL[3]}_0000.nii.gz").write_bytes(b"no image")
    call = [*SET_UP, "-u", str(fresh_project.unlabelled), "-np", "1"]
    assert main(call) == 2
    assert errors(capsys).startswith(f"nnssl_prepare: error: case '{POOL[3]}': ")
    assert main([*call, "--skip-bad"]) == 0
    out = capsys.readouterr().out
    assert f"skipped {POOL[3]}: case '{POOL[3]}': " in out
    assert "5 unlabelled cases are ready" in out


def test_preset(fresh_project: Project, capsys: Any) -> None:
    assert main([*SET_UP, "--preset", "cpu"]) == 0
    out = capsys.readouterr().out
    assert (fresh_project.preprocessed / DATASET / "nnUNetPlans_nnssl_cpu.json").is_file()
    assert "plans: " in out
    assert "next: nnssl_prepare -d 137 -c 3d_fullres -p nnUNetPlans_nnssl_cpu -u FOLDER" in out
    assert main([*SET_UP, "--preset", "cpu", "-u", str(fresh_project.unlabelled), "-np", "1"]) == 0
    assert "-tr TransASPPTeacherTrainer -p nnUNetPlans_nnssl_cpu" in capsys.readouterr().out


def test_edited_plans_of_a_preset_stay(fresh_project: Project, capsys: Any) -> None:
    plans = fresh_project.preprocessed / DATASET / "nnUNetPlans_nnssl_default.json"
    assert main([*SET_UP, "--preset", "default"]) == 0
    assert "warning" not in capsys.readouterr().err
    content = json.loads(plans.read_text())
    content["configurations"]["3d_fullres"]["nnssl"]["student"]["cutmix"] = 0.25
    plans.write_text(json.dumps(content))
    edited = plans.read_bytes()
    assert main([*SET_UP, "--preset", "default"]) == 0
    assert plans.read_bytes() == edited
    said = "is used as it is; the preset 'default' would now make other plans: remove the file to lay it again"
    assert errors(capsys) == f"nnssl_prepare: warning: {plans} {said}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to do"),
        (["--preset", "fast"], "no preset 'fast'"),
        (["-u", "/nowhere"], "/nowhere is not a folder"),
        (["-p", "noPlans", "-u", "/nowhere"], f"noPlans.json is missing; correct -p, there are the plans: nnUNetPlans, {PLANS}."),
        (["-c", "3d_huge", "-u", "/nowhere"], "has no configuration '3d_huge'"),
        (["-d", "9", "-u", "/nowhere"], "no dataset with id 9"),
    ],
)
def test_errors_are_one_line_and_code_2(project: Project, capsys: Any, flags: list[str], message: str) -> None:
    assert main([*SET_UP, *flags]) == 2
    found = errors(capsys)
    assert found.startswith("nnssl_prepare: error: ")
    assert message in found


def test_unset_variable(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("nnUNet_results")
    assert main([*SET_UP, "-u", str(project.unlabelled)]) == 2
    assert "nnUNet_results is not set" in errors(capsys)
