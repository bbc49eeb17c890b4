"""Slices of cases: which, and with what in them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.locations import preprocessed_root
from nnunet_ssl.report.case_panels import case_panels, central_slice, deviation_of_prediction, label_names
from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.slice_images import colour_map, data_uri, grey_image, overlay

TEACHER = "TransASPPTeacherTrainer"


def test_best_median_and_worst_case(complete_run: Any) -> None:
    panels = case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER))
    shown = [(p.place, p.case, p.rank) for p in panels]
    assert shown == [("best", "p_2", 1), ("median", complete_run.hostile, 3), ("worst", "p_3", 5)]
    assert [p.score for p in panels] == [pytest.approx(0.9), pytest.approx(0.7), None]


@pytest.mark.parametrize(("order", "names"), [("random", ["first", "middle", "last"]), ("reverse", ["first", "middle", "last"])])
def test_what_is_not_ranked_has_no_best(complete_run: Any, order: str, names: list[str]) -> None:
    path = complete_run.workspace / "manifest.json"
    content = json.loads(path.read_text())
    content["stages"][-1]["order"] = order
    path.write_text(json.dumps(content))
    assert [p.place for p in case_panels(complete_run.setup, collect(complete_run.setup, 0, TEACHER))] == names


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


def test_a_constant_image_is_black() -> None:
    assert grey_image(np.full((3, 3), 7, dtype=np.float32)).max() == 0
