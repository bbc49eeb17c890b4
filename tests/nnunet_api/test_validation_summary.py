"""nnU-Net's own figures on a fold's validation cases, and files that are no such figures."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.validation_summary import case_dice, has_probabilities, mean_dice, validated_cases

MODEL = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")
NAN = float("nan")


def write(content: Any, fold: int | str = 0) -> None:
    path = MODEL.validation_summary(fold)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def case(name: str, *dice: Any) -> dict[str, Any]:
    metrics = {str(label): {"Dice": value} for label, value in enumerate(dice, start=1)}
    return {"reference_file": f"/labels/{name}.nii.gz", "metrics": metrics}


def test_no_summary_has_no_figures(nnunet_environment: Any) -> None:
    assert mean_dice(MODEL, 0) is None
    assert case_dice(MODEL, 0) == {}
    assert validated_cases(MODEL, 0, ".nii.gz") == set()


def test_figures_of_a_summary(nnunet_environment: Any) -> None:
    write({"foreground_mean": {"Dice": 0.75}, "metric_per_case": [case("a", 0.5, 1.0), case("b", NAN, NAN), case("c", 0.25, NAN)]})
    assert mean_dice(MODEL, 0) == 0.75
    assert case_dice(MODEL, 0) == {"a.nii.gz": 0.75, "c.nii.gz": 0.25}
    assert case_dice(MODEL, 0, of_absent=1.0) == {"a.nii.gz": 0.75, "b.nii.gz": 1.0, "c.nii.gz": 0.625}
    assert validated_cases(MODEL, 0, ".nii.gz") == {"a", "b", "c"}


def test_probabilities_of_every_validated_case(nnunet_environment: Any) -> None:
    assert not has_probabilities(MODEL, 0, ".nii.gz")
    write({"metric_per_case": [case("a", 0.5), case("b", NAN)]})
    summary = MODEL.validation_summary(0)
    for name in ("a.npz", "b.npz", "a.pkl", "b.pkl"):
        assert not has_probabilities(MODEL, 0, ".nii.gz")
        summary.with_name(name).touch()
    os.utime(summary)
    assert has_probabilities(MODEL, 0, ".nii.gz")
    # of a later validation that was cut off before its summary
    os.utime(summary.with_name("b.npz"), ns=(0, summary.stat().st_mtime_ns + 1))
    assert not has_probabilities(MODEL, 0, ".nii.gz")


def test_final_mode_has_no_figure(nnunet_environment: Any) -> None:
    write({"foreground_mean": {"Dice": 0.99}}, "all")
    assert mean_dice(MODEL, "all") is None


@pytest.mark.parametrize(
    "content",
    [
        {"foreground_mean": 3, "metric_per_case": 3},
        {"foreground_mean": {"Dice": "high"}, "metric_per_case": [{"reference_file": 1, "metrics": {"1": {}}}]},
        {"metric_per_case": [{"metrics": {"1": {"Dice": 0.5}}}]},
        {"metric_per_case": ["lab_0"]},
    ],
)
def test_what_is_no_summary_is_one_line(nnunet_environment: Any, content: Any) -> None:
    write(content)
    for read in (lambda: mean_dice(MODEL, 0), lambda: case_dice(MODEL, 0), lambda: validated_cases(MODEL, 0, ".nii.gz")):
        with pytest.raises(StateError, match=r"summary\.json is not a summary of nnU-Net's validation; remove it and validate again"):
            read()


def test_case_without_metrics_is_one_line(nnunet_environment: Any) -> None:
    write({"metric_per_case": [{"reference_file": "/labels/a.nii.gz"}]})
    with pytest.raises(StateError, match="is not a summary of nnU-Net's validation"):
        case_dice(MODEL, 0)
