"""Slices of cases: which, and with what in them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

from nnunet_ssl.confidence.curriculum import rank_cases
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.locations import STAGE_SIDECAR, preprocessed_root
from nnunet_ssl.report.case_panels import _places, case_panels, central_slice, deviation_of_prediction, label_names
from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.slice_images import colour_map, data_uri, grey_image, label_colour, overlay

TEACHER = "TransASPPTeacherTrainer"


def test_best_median_and_worst_case(complete_run: Any) -> None:
    panels = case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER))
    shown = [(p.place, p.case, p.rank) for p in panels]
    assert shown == [("best", "p_2", 1), ("median", complete_run.hostile, 3), ("worst", "p_3", 5)]
    assert [p.score for p in panels] == [pytest.approx(0.9), pytest.approx(0.7), None]


def test_best_and_worst_are_by_score_in_any_order(complete_run: Any) -> None:
    """In a random or reverse order, and with interleaved strata, the first case of a stage is not its best."""
    hostile = complete_run.hostile
    complete_run.change(order="random", cases=["p_3", "p_1", hostile, "p_2", "p_0"])
    panels = case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER))
    assert [(p.place, p.case, p.rank) for p in panels] == [("best", "p_2", 4), ("median", hostile, 3), ("worst", "p_3", 1)]


def test_the_best_case_of_interleaved_strata() -> None:
    scores = {f"x{i}": 0.5 + 0.01 * i for i in range(8)} | {f"y{i}": 0.9 + [0, 0.01, 0.02, 0.07][i] for i in range(4)}
    ranking = rank_cases(scores, {case: case[0] for case in scores})
    cases = [ranked.case for ranked in ranking]
    assert cases[0] == "x7"
    # from the best: y3 y2 y1 y0 x7 x6 x5 ... x0
    assert _places(cases, scores) == [("y3", "best"), ("x6", "median"), ("x0", "worst")]


def test_without_a_score_no_case_is_best(complete_run: Any) -> None:
    assert _places(["a", "b", "c"], {"a": None}) == [("a", "first"), ("b", "middle"), ("c", "last")]
    assert _places(["a", "b"], {"b": 0.1}) == [("b", "best"), ("a", "worst")]
    assert _places(["a"], {"a": 0.1}) == [("a", "only")]
    assert _places([], {}) == []


def test_what_a_panel_shows(complete_run: Any) -> None:
    best = case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER))[0]
    assert best.image.shape == best.labels.shape == (8, 10)
    assert np.unique(best.labels).tolist() == [-1, 0, 1, 2]
    np.testing.assert_allclose(best.confidence[3, 3], 0.9, atol=1e-4)
    assert np.argwhere(best.ignored).tolist() == [[7, 9]]
    # teacher and student agree on the mean, so the mixture has the mean variance of 0.01 and 0.03
    assert best.deviation is not None
    np.testing.assert_allclose(best.deviation, np.sqrt(0.02), atol=1e-4)
    assert best.aspect == pytest.approx(10 * 0.5 / (8 * 1.0))


def test_missing_evidence_leaves_the_other_images(complete_run: Any, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(complete_run.workspace / "evidence")
    panels = case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER))
    assert [p.deviation for p in panels] == [None, None, None]
    assert "no uncertainty of case 'p_2'" in caplog.text


def test_missing_stage_data_leave_no_images(complete_run: Any, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(preprocessed_root() / complete_run.student(2).dataset)
    assert case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER)) == ()
    assert "no longer there" in caplog.text


@pytest.mark.parametrize("sidecar", ["{}", '{"num_confidence_channels": "one"}', '{"num_confidence_channels": 0}'])
def test_a_damaged_sidecar_leaves_no_images(complete_run: Any, caplog: pytest.LogCaptureFixture, sidecar: str) -> None:
    path = preprocessed_root() / complete_run.student(2).dataset / STAGE_SIDECAR
    path.write_text(sidecar)
    assert case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER)) == ()
    assert f"{path} is damaged" in caplog.text


@pytest.mark.parametrize(("per_slice", "expected"), [([0, 1, 0, 0], 1), ([2, 2, 2, 0], 1), ([1, 0, 0, 5], 3), ([0, 0, 0, 0], 2)])
def test_central_slice(per_slice: list[int], expected: int) -> None:
    labels = np.zeros((4, 2, 3), dtype=np.int16)
    for index, count in enumerate(per_slice):
        labels[index].ravel()[:count] = 1
    assert central_slice(labels) == expected


def test_deviation_is_that_of_the_predicted_class() -> None:
    mean = np.array([[0.9, 0.2], [0.1, 0.8]], dtype=np.float32).reshape(2, 1, 1, 2)
    variance = np.array([[0.04, 0.2], [0.2, 0.09]], dtype=np.float32).reshape(2, 1, 1, 2)
    evidence = Evidence(mean=mean, variance=variance, votes=mean, num_samples=8, has_regions=False)
    np.testing.assert_allclose(deviation_of_prediction(evidence, 0), [[0.2, 0.3]], rtol=1e-6)
    regions = Evidence(mean=mean, variance=variance, votes=mean, num_samples=8, has_regions=True)
    np.testing.assert_allclose(deviation_of_prediction(regions, 0), np.sqrt([[0.2, 0.2]]), rtol=1e-6)


def test_names_of_label_values(toy_run: Any) -> None:
    assert label_names(toy_run.setup, [1, 2]) == {1: "rim", 2: "core"}


def test_a_value_that_regions_are_written_with_has_the_regions_name(toy_run: Any) -> None:
    path = toy_run.setup.preprocessed_folder / "dataset.json"
    content = {**json.loads(path.read_text()), "labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    path.write_text(json.dumps(content))
    assert label_names(toy_run.setup, [1, 2]) == {1: "whole", 2: "core"}


def test_images() -> None:
    grey = grey_image(np.array([[0.0, 1.0], [0.5, 1.0]], dtype=np.float32))
    assert grey.shape == (2, 2, 3)
    assert grey.min() >= 0
    labelled = overlay(grey, np.array([[0, 1], [-1, 0]], dtype=np.int16))
    np.testing.assert_array_equal(labelled[0, 0], grey[0, 0])
    np.testing.assert_allclose(labelled[0, 1], np.array([0xFF, 0x5A, 0x52]) / 255, atol=1e-9)  # an outline is opaque
    ignored = np.array([[True, False]])
    colours = colour_map(np.zeros((1, 2), dtype=np.float32), "viridis", 1, ignored=ignored)
    assert colours[0, 0].tolist() == [0.55, 0.55, 0.55]
    assert data_uri(grey) == data_uri(grey.copy())
    assert data_uri(grey).startswith("data:image/png;base64,iVBOR")


def test_every_label_has_a_hue_of_its_own() -> None:
    colours = [rgb_to_hsv(to_rgb(label_colour(value))) for value in range(1, 14)]
    hues = sorted(float(colour[0]) for colour in colours)
    gaps = np.diff([*hues, hues[0] + 1])
    assert gaps.min() > 12 / 360
    assert len({label_colour(value) for value in range(1, 200)}) == 199


def test_a_constant_image_is_black() -> None:
    assert grey_image(np.full((3, 3), 7, dtype=np.float32)).max() == 0
