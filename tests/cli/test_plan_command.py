"""`nnssl_plan`: what it makes, what it says, and how it fails."""

from __future__ import annotations

import re
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from tiny_setup import DATASET, Project

from nnunet_ssl.cli.plan import main
from nnunet_ssl.cli.prepare import main as prepare

NAME = "nnUNetTransASPPPlans_24G"


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's planner forks twelve of them to list a folder."""
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)


def test_plans_and_next_commands(project: Project, capsys: Any) -> None:
    folder = project.preprocessed / DATASET
    assert main(["-d", "137", "-gpu_memory_target", "24"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"plans: {folder / NAME}.json"
    size = r"on a GPU about \d+\.\d GB to train, \d+\.\d GB for evidence with any number of samples"
    assert re.fullmatch(rf"2d: patch 24 x 20, batch \d+; {size}", lines[1])
    assert lines[2] == f"    data: {folder / 'nnUNetPlans_2d'} (to be preprocessed)"
    assert re.fullmatch(rf"3d_fullres: patch 20 x 24 x 20, batch 5; {size}", lines[3])
    assert lines[4] == f"    data: {folder / 'nnUNetPlans_3d_fullres'}"
    assert lines[5:] == [
        f"next: nnUNetv2_preprocess -d 137 -plans_name {NAME} -c 2d",
        f"then: nnssl_prepare -d 137 -c CONFIGURATION -p {NAME} -u FOLDER",
    ]
    assert main(["-d", "137", "-gpu_memory_target", "24"]) == 0
    assert capsys.readouterr().out.startswith(f"plans: {folder / NAME}.json (there already, the same)\n")


def test_the_command_that_is_named_next_takes_the_plans(fresh_project: Project, capsys: Any) -> None:
    assert main(["-d", "137", "-gpu_memory_target", "24"]) == 0
    assert prepare(["-d", "137", "-c", "3d_fullres", "-p", NAME, "-u", str(fresh_project.unlabelled), "-np", "1"]) == 0
    assert f"next: nnUNetv2_train 137 3d_fullres FOLD -tr TransASPPTeacherTrainer -p {NAME}\n" in capsys.readouterr().out


def test_flags_of_nnunet(project: Project, capsys: Any) -> None:
    call = ["-d", DATASET, "-gpu_memory_target", "8", "-overwrite_target_spacing", "2", "2", "2", "-overwrite_plans_name", "coarse"]
    assert main([*call, "--torch-resampling", "cpu"]) == 0
    out = capsys.readouterr().out
    assert (project.preprocessed / DATASET / "coarse.json").is_file()
    assert "next: nnUNetv2_preprocess -d 137 -plans_name coarse -c 2d 3d_fullres\n" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-d", "9", "-gpu_memory_target", "24"], "no dataset with id 9"),
        (["-d", "137", "-gpu_memory_target", "2"], "gpu_memory_target is 2.0; expected at least 4 (GB)"),
        (["-d", "137", "-gpu_memory_target", "24", "-overwrite_plans_name", "nnUNetPlans"], "nnUNetPlans.json holds other plans"),
    ],
)
def test_errors_are_one_line_and_code_2(project: Project, capsys: Any, flags: list[str], message: str) -> None:
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("nnssl_plan: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_fingerprint_is_nnunets_affair(project: Project, capsys: Any) -> None:
    (project.preprocessed / DATASET / "dataset_fingerprint.json").unlink()
    assert main(["-d", "137", "-gpu_memory_target", "24"]) == 2
    assert "dataset_fingerprint.json is missing; run: nnUNetv2_extract_fingerprint -d 137\n" in capsys.readouterr().err


def test_preset_of_a_gpu_says_what_it_takes(project: Project, capsys: Any) -> None:
    assert prepare(["-d", "137", "-c", "3d_fullres", "--preset", "24G"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^3d_fullres with TransASPPUNet: patch 20 x 24 x 20, batch 5; on a GPU about \d+\.\d GB to train", out, re.MULTILINE)
    assert "next: nnssl_prepare -d 137 -c 3d_fullres -p nnUNetPlans_nnssl_24G -u FOLDER" in out


def test_plans_of_ours_that_are_missing(project: Project, capsys: Any) -> None:
    assert prepare(["-d", "137", "-c", "3d_fullres", "-p", NAME, "-u", "x"]) == 2
    assert f"{NAME}.json is missing; run: nnssl_plan -d 137 -gpu_memory_target GB\n" in capsys.readouterr().err
