"""What the report says of held-out cases: the figures of a real study, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from cross_fitted import begin, rising
from tiny_setup import Project

from nnunet_ssl.errors import StateError
from nnunet_ssl.pseudolabel.in_force import in_force
from nnunet_ssl.report.held_out import read_held_out


def test_figures_of_a_study(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    study = in_force(run).study
    assert study is not None
    found = read_held_out(run.workspace)
    assert found is not None
    entries = found.entries()
    assert entries["Held-out cases"] == "5"
    mean = sum(case.mean_dice or 0 for case in study.cases) / 5
    assert entries["Held-out Dice"].startswith(f"{mean:.4f}, ")
    assert study.calibration.map is not None
    assert entries["Voxel confidence"].startswith(f"{study.calibration.map.kind} map, calibration error {study.calibration.ece_before:.3f}")
    assert study.tau is not None
    assert entries["Thresholds measured, by class"] == ", ".join(f"{tau:.2f}" for tau in study.tau)
    assert entries["Ranking"].startswith("pairwise_dice is proven")


def test_no_study(tmp_path: Path) -> None:
    assert read_held_out(tmp_path) is None


def test_another_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "held_out.json").write_text('{"cases": 3}')
    with pytest.raises(StateError, match=r"held_out\.json is no study of held-out cases"):
        read_held_out(tmp_path)
