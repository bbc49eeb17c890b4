"""The README's commands, in its order and as it shows them, on a tiny dataset and the CPU."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import CONFIGURATION, DATASET, OVERLAY, PATCH, POOL, phantom, write_image, write_raw, write_unlabelled

NEW = "new_0"
ON_DEVICE = ("nnUNetv2_train", "nnUNetv2_predict", "nnssl_pseudolabel", "nnssl_run")


def readme_lines(readme: Path) -> list[str]:
    """The lines of the block under 'Use it', comments taken off."""
    block = re.search(r"^## Use it$.*?^```bash\n(.*?)^```$", readme.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert block, "the README has no block of commands under 'Use it'"
    lines = [re.sub(r"\s+# .*$", "", line).strip() for line in block[1].splitlines()]
    return [line for line in lines if line]


def on_this_machine(line: str, places: dict[str, Path]) -> str:
    """A line with folders of this test, on the CPU, and with one worker process."""
    for shown, real in places.items():
        line = line.replace(shown, shlex.quote(str(real)))
    program = line.split()[0]
    if program in ON_DEVICE:
        line += " -device cpu"
    if program == "nnUNetv2_plan_and_preprocess":
        line += " -np 1 -npfp 1"
    return line


def shrink_plans(preprocessed: Path) -> None:
    """A network and lengths of seconds, and two stages, in the plans that nnU-Net made; flags and plans name stay the README's."""
    path = preprocessed / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    configuration = plans["configurations"][CONFIGURATION]
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [min(4 * 2**stage, 8) for stage in range(kwargs["n_stages"])]
    configuration |= {"patch_size": PATCH, "batch_size": 2, "nnssl": OVERLAY["nnssl"]}
    path.write_text(json.dumps(plans))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_readme_commands_run_in_order(project: Path, nnunet_environment: Any, tmp_path: Path) -> None:
    unlabelled, new, segmented = tmp_path / "unlabelled", tmp_path / "new", tmp_path / "segmented"
    write_raw(nnunet_environment.raw)
    write_unlabelled(unlabelled)
    write_image(phantom(NEW)[0], new / f"{NEW}_0000.nii.gz")
    lines = readme_lines(project / "README.md")
    assert lines[0] == 'export nnUNet_extTrainer="$(nnssl_trainers)"'
    places = {"/data/unlabelled": unlabelled, "/data/new": new, "/data/segmented": segmented}
    # the README's first line must be what makes the trainers known, so nothing else may
    environment = {k: v for k, v in os.environ.items() if k != "nnUNet_extTrainer"}
    # nnU-Net starts a thread per core; on a busy machine such threads spin for minutes unless they are told to sleep
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_WAIT_POLICY": "PASSIVE"}
    outputs: dict[str, str] = {}
    for line in lines[1:]:
        script = f"set -euo pipefail\n{lines[0]}\n{on_this_machine(line, places)}\n"
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        outputs[line] = done.stdout
        if line.startswith("nnUNetv2_plan_and_preprocess"):
            shrink_plans(nnunet_environment.preprocessed)
            environment["nnUNet_n_proc_DA"] = "0"  # no augmentation workers; nnU-Net's planner needs 1

    check_results(nnunet_environment, segmented, outputs)


def check_results(environment: Any, segmented: Path, outputs: dict[str, str]) -> None:
    """What the README says one gets."""
    teacher = environment.results / DATASET / f"TransASPPTeacherTrainer__nnUNetPlans__{CONFIGURATION}" / "fold_0"
    manifest = json.loads((teacher / "nnssl" / "manifest.json").read_text())
    assert [stage["dataset"] for stage in manifest["stages"]] == ["Dataset601_Tiny_f0s1", "Dataset602_Tiny_f0s2"]
    assert sorted(manifest["stages"][-1]["cases"]) == POOL
    assert manifest["published"]
    published = environment.results / DATASET / f"TransASPPStudentTrainer__nnUNetPlans__{CONFIGURATION}"
    assert (published / "fold_0" / "checkpoint_final.pth").is_file()
    assert (teacher / "nnssl" / "ranking_2.csv").is_file()
    assert (teacher / "nnssl" / "report" / "report.html").is_file()
    assert [path.name for path in sorted(segmented.glob("*.nii.gz"))] == [f"{NEW}.nii.gz"]
    steps = next(text for line, text in outputs.items() if line.startswith("nnssl_run"))
    done_before = [line for line in steps.splitlines() if line.endswith("done before")]
    # pool, teacher, stage 1, student 1, stage 2 were done by the lines above it
    assert len(done_before) == 5
    next_lines = {
        line: re.findall(r"^next: (.*)$", text, flags=re.MULTILINE) for line, text in outputs.items() if line.startswith("nnssl_")
    }
    assert all(len(found) == 1 for found in next_lines.values()), next_lines


def test_what_is_taken_from_the_readme(project: Path) -> None:
    lines = readme_lines(project / "README.md")
    programs = [line.split()[0] for line in lines]
    assert programs[0] == "export"
    assert {"nnssl_prepare", "nnssl_pseudolabel", "nnssl_run", "nnssl_report", *ON_DEVICE} <= set(programs)
    assert not any("#" in line for line in lines)
