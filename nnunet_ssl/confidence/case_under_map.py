"""A case under a teacher's calibration map, or without one: probabilities and case scores, the same on held-out and on new cases."""

from __future__ import annotations

from dataclasses import replace

from nnunet_ssl.confidence.calibration import calibrated
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.case_scores import Score, score_case
from nnunet_ssl.confidence.evidence import BoolArray, Evidence
from nnunet_ssl.confidence.voxel_confidence import calibrated_confidence, confidence_of_written, paper_confidence


def evidence_under(calibration: CalibrationMap | None, evidence: Evidence) -> Evidence:
    """The evidence with q for its mean; as it is without a map."""
    return evidence if calibration is None else replace(evidence, mean=calibrated(evidence, calibration))


def scores_of(under: Evidence, nonzero_mask: BoolArray, *, is_calibrated: bool, written: BoolArray | None = None) -> dict[str, Score]:
    """All case scores; without a map by the paper's confidence, and without `expected_dice`.

    Args:
        under: evidence of the case, as `evidence_under` gives it.
        nonzero_mask: (*spatial) bool, where the image is not empty.
        is_calibrated: whether there is a map.
        written: regions as a label map of that evidence has them, (R, *spatial), where it contradicts single regions; else as predicted.
    """
    confidence = calibrated_confidence(under.mean, has_regions=under.has_regions) if is_calibrated else paper_confidence(under)
    if written is not None:
        confidence = confidence_of_written(confidence, under.mean > 0.5, written)
    return score_case(under, confidence, nonzero_mask, under.mean if is_calibrated else None)
