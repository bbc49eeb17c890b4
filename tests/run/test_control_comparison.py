"""A student against its control, case by case."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_setup import DATASET

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run.control_comparison import Comparison, compare, comparison_lines


def test_comparison_by_hand() -> None:
    first = Comparison("fold 0", (0.8, 0.6), (0.7, 0.7))
    assert first.describe() == (
        "fold 0, 2 validation cases: student 0.7000, control 0.7000, difference +0.0000, standard error over the cases 0.1000"
    )
    lines = comparison_lines("supervised", [first, Comparison("fold 1", (0.9,), (0.5,))])
    assert lines[2] == "  fold 1, 1 validation cases: student 0.9000, control 0.5000, difference +0.4000"
    assert lines[3].startswith("  all folds, 3 validation cases: student 0.7667, control 0.6333, difference +0.1333")


@pytest.mark.parametrize(("invents", "difference"), [("student", "-0.5000"), ("control", "+0.5000")])
def test_what_one_of_the_two_invents_counts(nnunet_environment: Any, invents: str, difference: str) -> None:
    """In the second case there is nothing to find, for which nnU-Net has no Dice; one of the two finds something."""
    models = {}
    for name in ("student", "control"):
        model = ModelLocation(dataset=DATASET, trainer=name, plans="P", configuration="3d_fullres")
        dice = {"lab_0": 0.8, "lab_1": 0.0 if name == invents else float("nan")}
        cases = [
            {"prediction_file": f"{case}.nii.gz", "reference_file": f"{case}.nii.gz", "metrics": {"1": {"Dice": value}}}
            for case, value in dice.items()
        ]
        model.validation_summary(0).parent.mkdir(parents=True)
        model.validation_summary(0).write_text(json.dumps({"metric_per_case": cases}))
        models[name] = model
    manifest = SimpleNamespace(stages=[SimpleNamespace(stage=1)])
    run: Any = SimpleNamespace(fold=0, manifest=manifest, student=lambda _: models["student"])
    found = compare(run, models["control"])
    assert "fold 0, 2 validation cases: " in found.describe()
    assert f"difference {difference}," in found.describe()
