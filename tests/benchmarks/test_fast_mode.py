"""The measurement of the single-pass mode: what it reports, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

from fast_mode import main
from prediction_kinds import make_lively, pretend_distillation
from tiny_setup import CONFIGURATION, DATASET, LABELLED, OUR_TEACHER, PLANS, Project, mtimes


def test_both_modes_beside_nnunet(taught_project: Project, tmp_path: Path) -> None:
    model = taught_project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}"
    make_lively(model)
    pretend_distillation(model)
    before = mtimes(model)
    raw = taught_project.raw / DATASET
    flags = ["--model", model, "--fold", "0", "--images", raw / "imagesTr", "--labels", raw / "labelsTr", "--out", tmp_path, "--cases", "4"]
    assert main([*map(str, flags), "--num-samples", "8"]) == 0
    found = json.loads((tmp_path / "fast_mode.json").read_text())
    assert found["cases"] == 4 < len(LABELLED)
    samples, fast = found["K = 8"], found["fast"]
    # the labels are the same, so the Dice is
    assert samples["mean Dice"] == found["stock"]["mean Dice"]
    assert fast["mean Dice"] == found["stock, no mirroring"]["mean Dice"]
    assert 0 < fast["seconds per case"] < samples["seconds per case"]
    assert (samples["score"], fast["score"]) == ("pairwise_dice", "foreground")
    assert samples["Spearman of pairwise_dice"]["cases"] == 4
    assert "Spearman of pairwise_dice" not in fast
    assert all(-1 <= entry["rho"] <= 1 for name, entry in fast.items() if name.startswith("Spearman"))
    assert mtimes(model) == before
