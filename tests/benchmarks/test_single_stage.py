"""True labels in place of pseudo-labels: the labels, and whose confidence they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import single_stage

from nnunet_ssl.pseudolabel.pool_labels import PoolLabels

TRUTH = np.array([[[0, 1, 2]]], dtype=np.uint8)
CONFIDENCE = np.array([[[0.9, 0.4, 0.6]]])


@dataclass(frozen=True)
class Evidence:
    mean: Any


@pytest.mark.parametrize(("teacher_confidence", "expected"), [(False, np.ones_like(CONFIDENCE)), (True, CONFIDENCE)])
def test_true_labels_take_the_place_of_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_confidence: bool, expected: Any
) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(TRUTH), tmp_path / "case.nii.gz")
    valid = np.ones(TRUTH.shape, bool)
    monkeypatch.setattr(PoolLabels, "evidence", lambda _self, _case: (Evidence(np.full((3, *TRUTH.shape), 1 / 3)), CONFIDENCE, valid))
    single_stage.use_true_labels(tmp_path, teacher_confidence=teacher_confidence)
    found, confidence, still_valid = PoolLabels.evidence(object.__new__(PoolLabels), "case")
    np.testing.assert_array_equal(found.mean.argmax(0), TRUTH)
    assert set(np.unique(found.mean)) == {0, 1}
    np.testing.assert_array_equal(confidence, expected)
    assert still_valid is valid


def test_the_teachers_confidence_needs_true_labels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["single_stage.py", "--data", "data", "--out", "out", "--name", "variant", "--teacher-confidence"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        single_stage.parse()
    assert "--teacher-confidence is of --perfect-labels" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*words, "--perfect-labels"])
    assert single_stage.parse().teacher_confidence
