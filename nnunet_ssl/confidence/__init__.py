"""From the samples of a case to voxel confidence, case scores and the order of the pool; pure numpy, one case in memory."""

from nnunet_ssl.confidence.agreement import Agreement, Change, agreement_confidence, changed_foreground, overall_change, pooled_changes
from nnunet_ssl.confidence.calibration import BrierScore, Calibration, calibrated, fit_calibration
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.case_scores import Score, all_scores, foreground_score, mean_score, pairwise_dice, score_case
from nnunet_ssl.confidence.curriculum import RankedCase, rank_cases, select, stage_size
from nnunet_ssl.confidence.evidence import Evidence, fuse, merge
from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.confidence.held_out import HeldOutCounts, count_held_out
from nnunet_ssl.confidence.prediction_counts import PredictionCounts, count_predictions
from nnunet_ssl.confidence.quantise import (
    log_variance_from_uint16,
    log_variance_to_uint16,
    probability_from_uint16,
    probability_to_uint16,
    share_from_int16,
    share_to_int16,
    variance_from_uint16,
    variance_to_uint16,
)
from nnunet_ssl.confidence.reliability import expected_calibration_error
from nnunet_ssl.confidence.thresholds import UnlearningGate, blind_classes, class_thresholds, gate_at, unlearning_gate
from nnunet_ssl.confidence.voxel_confidence import paper_confidence

__all__ = [
    "Agreement",
    "BrierScore",
    "Calibration",
    "CalibrationMap",
    "Change",
    "Evidence",
    "HeldOutCounts",
    "PredictionCounts",
    "RankedCase",
    "Score",
    "UnlearningGate",
    "agreement_confidence",
    "all_scores",
    "blind_classes",
    "calibrated",
    "changed_foreground",
    "class_thresholds",
    "count_held_out",
    "count_predictions",
    "expected_calibration_error",
    "fit_calibration",
    "foreground_band",
    "foreground_score",
    "fuse",
    "gate_at",
    "log_variance_from_uint16",
    "log_variance_to_uint16",
    "mean_score",
    "merge",
    "overall_change",
    "pairwise_dice",
    "paper_confidence",
    "pooled_changes",
    "probability_from_uint16",
    "probability_to_uint16",
    "rank_cases",
    "score_case",
    "select",
    "share_from_int16",
    "share_to_int16",
    "stage_size",
    "unlearning_gate",
    "variance_from_uint16",
    "variance_to_uint16",
]
