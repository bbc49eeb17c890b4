"""Pseudo-labels against the truth, on a line of voxels counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from label_quality import boundary_distance, case_quality, stage_quality, summarise

TRUTH = np.array([[[0, 0, 0, 1, 1, 1, 2, 2, 0, 0]]])
LABELS = np.array([[[0, 0, 1, 1, 1, 1, 2, 0, 0, 0]]])
"""Wrong at index 2, one voxel before the true boundary's far side, and at index 7."""
SPACING_MM = (1.0, 1.0, 2.0)


def test_boundary_distance() -> None:
    # boundary voxels: 2, 3, 5, 6, 7, 8
    assert boundary_distance(TRUTH, SPACING_MM).ravel().tolist() == [4, 2, 0, 0, 2, 0, 0, 0, 0, 2]


def test_without_a_boundary_nothing_is_near() -> None:
    assert np.isinf(boundary_distance(np.zeros((2, 2)), (1.0, 1.0))).all()


def test_case_quality() -> None:
    confidence = np.array([[[0.99, 0.99, 0.55, 0.9, 0.99, 0.99, 0.5, 0.2, 0.99, 0.99]]])
    found = case_quality(LABELS, TRUTH, confidence, classes=(1, 2), spacing_mm=SPACING_MM)
    assert found.dice == pytest.approx((100 * 6 / 7, 100 * 2 / 3))
    # six boundary voxels with both errors, three at 2 mm, index 0 at 4 mm from the true boundary, 2 mm from the labels'
    assert found.by_distance.tolist() == [[6, 2], [3, 0], [0, 0], [1, 0]]
    assert found.by_confidence.tolist() == [[1, 1], [2, 1], [0, 0], [0, 0], [0, 0], [1, 0], [6, 0]]


def test_summary_is_over_voxels_for_counts_and_over_cases_for_dice() -> None:
    confidence = np.ones(TRUTH.shape)
    good = case_quality(TRUTH, TRUTH, confidence, classes=(1, 2), spacing_mm=SPACING_MM)
    bad = case_quality(LABELS, TRUTH, confidence, classes=(1, 2), spacing_mm=SPACING_MM)
    found = summarise({"a": good, "b": bad}, ["a", "b"])
    assert found["dice"] == pytest.approx([50 + 300 / 7, 50 + 100 / 3])
    assert found["dice_by_quarter"] == pytest.approx([100, 100 * (6 / 7 + 2 / 3) / 2])
    assert found["by_confidence"]["0.95"] == {"share": 1.0, "wrong": 2 / 20}
    assert np.isnan(found["by_confidence"]["0.5"]["wrong"])


def test_a_stage_on_disk(tmp_path: Path) -> None:
    stage, truth = tmp_path / "Dataset601_X_f0s1", tmp_path / "truth"
    (stage / "nnssl.json").parent.mkdir()
    (stage / "nnssl.json").write_text(json.dumps({"pool_cases": ["p"]}))
    (stage / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}))
    for folder, array in ((stage / "labelsTr", LABELS), (truth, TRUTH), (stage / "confidenceTr", np.ones(TRUTH.shape))):
        folder.mkdir()
        image = sitk.GetImageFromArray(array.astype(np.float32))
        image.SetSpacing(SPACING_MM[::-1])
        sitk.WriteImage(image, folder / "p.nii.gz")
    found = stage_quality(stage, truth)
    assert found["cases"] == 1
    assert found["by_distance"]["<= 1 mm"]["wrong"] == pytest.approx(2 / 6)
