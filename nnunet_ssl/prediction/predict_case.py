"""One case: labels that are nnU-Net's, with probabilities, confidence, uncertainty, case score and volumes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ssl.confidence.case_scores import Score
from nnunet_ssl.confidence.case_under_map import evidence_under, scores_of
from nnunet_ssl.confidence.evidence import MAX_VARIANCE, BoolArray, Evidence, FloatArray, LabelArray, merge
from nnunet_ssl.confidence.predicted_dice import PredictedMean
from nnunet_ssl.confidence.review import Review, review
from nnunet_ssl.confidence.voxel_confidence import calibrated_confidence, paper_confidence, variance_of_labels
from nnunet_ssl.nnunet_api.geometry import background_probabilities, to_image_grid, voxel_volume_ml
from nnunet_ssl.nnunet_api.new_case import NewCase
from nnunet_ssl.nnunet_api.region_labels import regions_of, written_regions
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.stock_logits import stock_labels
from nnunet_ssl.nnunet_api.swept_evidence import to_evidence
from nnunet_ssl.prediction.prepared_model import PreparedModel
from nnunet_ssl.prediction.volumes import volumes_ml


@dataclass(frozen=True, kw_only=True)
class CasePrediction:
    """Everything that is said of one case, images on its own grid with axes as the plans' reader gives them."""

    labels: NDArray[Any]
    """(X', Y', Z') label values, to the voxel those of `nnUNetv2_predict`."""
    confidence: FloatArray
    """How far these labels are to be trusted, in [0, 1]; (1, X', Y', Z'), for regions (R, X', Y', Z')."""
    uncertainty: FloatArray
    """Variance of the labels' probability over the samples, in [0, 1/4]; channels as of the confidence."""
    probabilities: FloatArray | None
    """(H, X', Y', Z') in [0, 1], calibrated where there is a map; where they were asked for."""
    score: Score
    """The case score in force, as the model gives it; predicted Dice and review take off what tells its folds from other teachers."""
    predicted_dice: PredictedMean | None
    """Predicted Dice of this one case with its 95 % interval; None where held-out cases give no relation."""
    review: Review
    volumes_ml: dict[str, float | None]
    """By class (region) name; None for flat images."""


def predict_case(new: NewCase, prepared: PreparedModel, *, with_probabilities: bool = False) -> CasePrediction:
    """Sweep one preprocessed case and take everything from this one sweep.

    Args:
        new: the case.
        prepared: the model, and what is known of it from held-out cases.
        with_probabilities: resample the probabilities, too.
    """
    setup, predictor, findings = prepared.setup, prepared.predictor, prepared.findings
    swept, logits = predictor.sweep_with_logits(new.image, seed=zlib.crc32(new.case.encode()))
    of_one = predictor.num_samples // predictor.num_folds
    maps = findings.maps or (None,) * len(swept)
    q, scores = np.zeros((setup.heads, *logits.shape[1:]), dtype=np.float32), list[Score]()

    def members() -> Iterator[Evidence]:
        """Evidence of the folds, each let go of once it has been taken into account."""
        for used in maps:
            member = to_evidence(swept.pop(0), heads=setup.heads, num_samples=of_one, has_regions=setup.has_regions)
            under = evidence_under(used, member)
            q[:] += under.mean / np.float32(len(maps))
            scores.append(_score(under, new, prepared))
            yield member

    merged = merge(members())
    on_grid = labels_on_grid(logits, setup)
    if findings.maps is None:
        confidence = paper_confidence(merged, on_grid)
    else:
        confidence = calibrated_confidence(q, has_regions=setup.has_regions, labels=on_grid)
    images = _on_image_grid(confidence, variance_of_labels(merged, on_grid), q if with_probabilities else None, setup, new.properties)
    score, judged = mean_score_of(scores), mean_score_of(findings.comparable(scores))
    labels = stock_labels(logits, setup, new.properties)
    return CasePrediction(
        labels=labels,
        confidence=images[0],
        uncertainty=images[1],
        probabilities=images[2],
        score=score,
        predicted_dice=findings.predicted_dice(judged),
        review=review(judged, findings.relation, findings.limit),
        volumes_ml=volumes_ml(labels, voxel_volume_ml(new.properties), setup),
    )


def _score(under: Evidence, new: NewCase, prepared: PreparedModel) -> Score:
    """The case score of one fold's evidence under its map, as held-out cases have it."""
    findings, written = prepared.findings, written_regions(under.mean, prepared.setup)
    return scores_of(under, new.nonzero, is_calibrated=findings.maps is not None, written=written)[findings.score]


def labels_on_grid(logits: Tensor, setup: NnunetSetup) -> LabelArray | BoolArray:
    """What nnU-Net makes of the mean logits on the network's grid: (X, Y, Z) class per voxel, for regions (R, X, Y, Z) bool."""
    if setup.has_regions:
        return regions_of(np.asarray(setup.label_manager.convert_logits_to_segmentation(logits.float())), setup)
    return np.asarray(logits.float().numpy().argmax(axis=0), dtype=np.int16)


def mean_score_of(scores: Sequence[Score]) -> Score:
    """Mean over the folds of a model, as far as they have one: held-out cases have the scores of single folds."""
    values = [score.value for score in scores if score.value is not None]
    return Score(float(np.mean(values))) if values else scores[0]


def _on_image_grid(
    confidence: FloatArray, uncertainty: FloatArray, q: FloatArray | None, setup: NnunetSetup, properties: dict[str, Any]
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """Resample maps, not labels, as nnU-Net does; outside the nonzero crop there is background for certain."""
    channels, heads = len(confidence), setup.heads if q is not None else 0
    background = background_probabilities(setup.heads, has_regions=setup.has_regions)[:heads]
    outside = np.concatenate([np.ones(channels), np.zeros(channels), background]).astype(np.float32)
    maps = [confidence, np.broadcast_to(uncertainty, confidence.shape), *([] if q is None else [q])]
    image = to_image_grid(np.concatenate(maps).astype(np.float32), outside, setup, properties)
    probabilities = None if q is None else np.clip(image[2 * channels :], 0, 1)
    return np.clip(image[:channels], 0, 1), np.clip(image[channels : 2 * channels], 0, MAX_VARIANCE), probabilities
