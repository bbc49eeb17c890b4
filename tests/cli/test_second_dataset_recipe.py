"""The page on scanners: how to get folds of groups where there are folds already, as the page shows it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_setup import DATASET, IDENTIFIER, LABELLED, POOL, Project, mtimes

COPY = "Dataset138_Tiny"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "another-scanner.md"
    part = page.read_text(encoding="utf-8").partition("\n## If there are folds already")[2]
    block = re.search(r"^```bash\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
    assert block, "the page shows no commands for a second dataset"
    return block[1].splitlines()


def copy_by_hand(project: Project) -> None:
    """What the page asks for before its commands."""
    shutil.copytree(project.raw / DATASET, project.raw / COPY)
    (project.preprocessed / COPY).mkdir()
    shutil.copy(project.raw / DATASET / "dataset.json", project.preprocessed / COPY)


@pytest.mark.slow
def test_second_dataset_with_folds_of_groups(project: Project, lines: list[str], tmp_path: Path) -> None:
    groups = {case: "north" if int(case[-1]) < 4 else "south" for case in (*POOL, *LABELLED)}
    table = tmp_path / "groups.csv"
    table.write_text("case,group\n" + "".join(f"{case},{group}\n" for case, group in groups.items()))
    copy_by_hand(project)
    before = mtimes(project.raw / DATASET, project.preprocessed / DATASET)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_WAIT_POLICY": "PASSIVE"}
    *to_run, training = lines  # what the last line does with such folds is tested with the runs
    assert training.startswith("nnssl_run -d 138 ")
    for line in to_run:
        real = line.replace("/data/unlabelled", shlex.quote(str(project.unlabelled))).replace("groups.csv", shlex.quote(str(table)))
        if "move_plans" not in line:
            real += " -np 1"
        done = subprocess.run(["bash", "-c", real], env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    splits = json.loads((project.preprocessed / COPY / "splits_final.json").read_text())
    assert [fold["val"] for fold in splits] == [LABELLED[:4], LABELLED[4:]]
    assert {path.name.split(".")[0] for path in (project.preprocessed / COPY / IDENTIFIER).iterdir()} >= set(LABELLED)
    plans, original = (json.loads((project.preprocessed / name / "nnUNetPlans.json").read_text()) for name in (COPY, DATASET))
    assert plans == original | {"dataset_name": COPY}
    assert mtimes(project.raw / DATASET, project.preprocessed / DATASET) == before
