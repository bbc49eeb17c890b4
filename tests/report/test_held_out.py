"""What the report says of held-out cases: the figures of a real study, and nothing where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cross_fitted import begin, rising
from tiny_setup import Project

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.errors import StateError
from nnunet_ssl.pseudolabel.in_force import in_force
from nnunet_ssl.report import tables
from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.held_out import read_held_out
from nnunet_ssl.report.page import page
from nnunet_ssl.report.table import MISSING


def test_figures_of_a_study(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    study = in_force(run).study
    assert study is not None
    found = read_held_out(run.workspace)
    assert found is not None
    entries = found.entries(["rim", "core"])
    assert entries["Held-out cases"] == "5"
    mean = sum(case.mean_dice or 0 for case in study.cases) / 5
    assert entries["Held-out Dice"].startswith(f"{mean:.4f}, ")
    assert study.calibration.map is not None
    assert entries["Voxel confidence"].startswith(f"{study.calibration.map.kind} map, calibration error {study.calibration.ece_before:.3f}")
    assert study.tau is not None
    names = ("background", "rim", "core")
    assert entries["Thresholds measured, by class"] == ", ".join(f"{name} {tau:.2f}" for name, tau in zip(names, study.tau, strict=True))
    assert entries["Ranking"].startswith("pairwise_dice is proven")
    cells = {row[0]: row[1:] for row in tables.ranking_table(found).cells()}
    proofs = study.ranking.proofs
    assert {name.partition(" (")[0] for name in cells} == {*proofs, "random order"}
    chosen, baseline = proofs["pairwise_dice"], proofs["softmax"]
    assert cells["pairwise_dice (chosen)"] == [f"{chosen.spearman:.2f}", f"{chosen.aurc:.4f}", f"{chosen.augrc:.4f}"]
    assert cells["softmax (baseline)"][1:] == [f"{baseline.aurc:.4f}", f"{baseline.augrc:.4f}"]
    assert cells["random order"] == [MISSING, f"{chosen.random_aurc:.4f}", f"{chosen.random_augrc:.4f}"]


RANKING = {
    "chosen": "mean",
    "proofs": {
        "softmax": {"spearman": None, "aurc": 0.5, "augrc": 0.25, "random_aurc": 0.425, "random_augrc": 0.265625, "reason": "."},
        "mean": {"spearman": 0.8, "aurc": 0.22708, "augrc": 0.175, "random_aurc": 0.425, "random_augrc": 0.265625, "reason": "."},
    },
}


def write_study(run: Any, ranking: dict[str, Any]) -> None:
    """A study of a fold whose validation cases decide."""
    run.change(method=MethodConfig().with_settings({"evidence.confidence": "calibrated"}).to_dict())
    calibration = {"map": None, "ece_before": None, "ece_after": None}
    content = {"schema": 2, "cases": [{"mean_dice": 0.8}], "calibration": calibration, "ranking": ranking, "tau": None}
    (run.workspace / "held_out.json").write_text(json.dumps(content))


def test_page_holds_the_scores_against_the_baseline_and_chance(complete_run: Any) -> None:
    write_study(complete_run, RANKING)
    text = page(collect(complete_run.setup, complete_run.fold, "TransASPPTeacherTrainer"), [], {})
    section = text.partition("<h2>Held-out cases</h2>")[2].partition("<h2>")[0]
    rows = [row.split("</td>")[:-1] for row in section.partition("<tbody>")[2].partition("</tbody>")[0].split("</tr>")[:-1]]
    assert [[cell.rpartition(">")[2] for cell in row] for row in rows] == [
        ["mean (chosen)", "0.80", "0.2271", "0.1750"],
        ["softmax (baseline)", MISSING, "0.5000", "0.2500"],
        ["random order", MISSING, "0.4250", "0.2656"],
    ]
    assert "those without the score in last place" in section


def test_a_figure_that_is_no_number_is_an_error(complete_run: Any) -> None:
    write_study(complete_run, {"chosen": "mean", "proofs": {"mean": {"reason": ".", "aurc": "low"}}})
    with pytest.raises(StateError, match=r"held_out\.json is no study of held-out cases"):
        read_held_out(complete_run.workspace)


def test_no_study(tmp_path: Path) -> None:
    assert read_held_out(tmp_path) is None


def test_another_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "held_out.json").write_text('{"cases": 3}')
    with pytest.raises(StateError, match=r"held_out\.json is no study of held-out cases"):
        read_held_out(tmp_path)
