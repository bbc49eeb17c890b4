"""Labels of the pool in force at a stage: the teacher's evidence, fused with a student's where one takes part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.agreement import agreement_confidence
from nnunet_ssl.confidence.calibration import calibrated
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.evidence import Evidence, fuse, merge
from nnunet_ssl.confidence.thresholds import UnlearningGate, gate_at
from nnunet_ssl.confidence.voxel_confidence import calibrated_confidence, confidence_of_written, paper_confidence, variance_of_labels
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.pseudo_case import PseudoCase
from nnunet_ssl.nnunet_api.geometry import background_probabilities, to_image_grid
from nnunet_ssl.nnunet_api.preprocessed_case import open_segmentation
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.region_labels import regions_of
from nnunet_ssl.nnunet_api.setup import NnunetSetup


@dataclass(frozen=True)
class CaseLabels:
    """Labels of one case on the network's grid."""

    evidence: Evidence
    labels: NDArray[np.int16]
    """(X, Y, Z) label map of the set-up's label values, -1 where `empty`."""
    confidence: NDArray[np.float32]
    """(C, X, Y, Z)."""
    valid: NDArray[np.bool_]
    """(X, Y, Z): where something is learned."""
    nonzero: NDArray[np.bool_]
    """(X, Y, Z): inside nnU-Net's nonzero mask."""
    empty: NDArray[np.bool_]
    """(X, Y, Z): outside that mask, and background by what is predicted: background for certain."""


@dataclass(frozen=True)
class PoolLabels:
    """Where labels come from: qbar = (1 - a) q_T + a q_S (a = 0: the teacher alone)."""

    setup: NnunetSetup
    pool: PoolIndex
    teacher: Mapping[int | str, EvidenceStore]
    """Evidence of every fold of the teacher."""
    student: EvidenceStore | None
    weight: float
    """a, the student's share."""
    maps: Mapping[int | str, CalibrationMap] | None = None
    """Calibration of every fold of the teacher; None: the paper's confidence."""
    student_map: CalibrationMap | None = None
    """Calibration of the student; there where the teacher's is."""
    gate: UnlearningGate | None = None
    """Classes and confidences, (H, bins), whose doubtful labels may be unlearned; None: all."""

    @property
    def is_calibrated(self) -> bool:
        """Whether the mean of the evidence it gives is calibrated."""
        return self.maps is not None

    def evidence(self, case: str) -> tuple[Evidence, NDArray[np.float32], NDArray[np.bool_]]:
        """Fused evidence of a case, its voxel confidence (C, X, Y, Z), and where something is learned (X, Y, Z).

        With calibration the mean of the evidence is q: every fold's own, averaged, then mixed with the student's.
        """
        if self.maps is None or self.student_map is None:
            return self._uncalibrated(case, merge(self._members(case)))
        q = np.zeros((self.setup.heads, *self._nonzero(case).shape), dtype=np.float32)
        teacher = merge(self._calibrated_into(q, case, self.maps))
        evidence = teacher
        if self.student is not None and self.weight > 0:
            student = self.student.read(case)
            evidence = fuse(teacher, student, weight=self.weight)
            q = (1 - self.weight) * q + self.weight * calibrated(student, self.student_map)
        evidence = replace(evidence, mean=q)
        confidence = calibrated_confidence(evidence.mean, has_regions=evidence.has_regions)
        return evidence, confidence, np.ones(evidence.spatial_shape, dtype=bool)

    def _members(self, case: str) -> Iterator[Evidence]:
        """Evidence of every fold of the teacher, one in memory at a time."""
        shape = (self.setup.heads, *self._nonzero(case).shape)
        for store in self.teacher.values():
            yield store.read(case, shape)

    def _calibrated_into(self, q: NDArray[np.float32], case: str, maps: Mapping[int | str, CalibrationMap]) -> Iterator[Evidence]:
        """The same, each added to their mean q, (H, X, Y, Z), under its own map."""
        for fold, member in zip(self.teacher, self._members(case), strict=True):
            q += calibrated(member, maps[fold]) / np.float32(len(self.teacher))
            yield member

    def _uncalibrated(self, case: str, teacher: Evidence) -> tuple[Evidence, NDArray[np.float32], NDArray[np.bool_]]:
        confidence = paper_confidence(teacher)
        if self.student is None or self.weight == 0:
            return teacher, confidence, np.ones(teacher.mean.shape[1:], dtype=bool)
        student = self.student.read(case)
        if self.weight == 1:
            return student, paper_confidence(student), np.ones(student.mean.shape[1:], dtype=bool)
        agreed, ignored = agreement_confidence(
            teacher.predicted_labels(), student.predicted_labels(), confidence, paper_confidence(student)
        )
        return fuse(teacher, student, weight=self.weight), agreed, np.asarray(~ignored.any(axis=0))

    def labels(self, case: str) -> CaseLabels:
        """Labels of a case on the network's grid."""
        evidence, confidence, valid = self.evidence(case)
        nonzero = self._nonzero(case)
        labels = np.asarray(self.setup.label_manager.convert_probabilities_to_segmentation(evidence.mean)).astype(np.int16)
        if evidence.has_regions:
            confidence = confidence_of_written(confidence, evidence.mean > 0.5, regions_of(labels, self.setup))
        # as in nnU-Net's own training data: foreground may well be empty in every channel (a cyst, air), and stays foreground
        empty = ~nonzero & (labels == 0) & valid
        labels[empty] = -1
        return CaseLabels(evidence, labels, confidence, valid, nonzero, empty)

    def pseudo_case(self, case: str, tau: float | tuple[float, ...], *, with_probabilities: bool) -> PseudoCase:
        """Everything a stage dataset stores of a case; probabilities are resampled, not labels, as nnU-Net does."""
        found, properties = self.labels(case), load_properties(self.pool.folder, case)
        evidence, (heads, channels) = found.evidence, (len(found.evidence.mean), len(found.confidence))
        confidence = np.where(found.empty, np.float32(1), found.confidence)
        background = background_probabilities(heads, has_regions=evidence.has_regions)
        probabilities = np.where(found.empty, background[:, None, None, None], evidence.mean)
        uncertainty = variance_of_labels(evidence)
        confident = confident_channels(confidence, evidence.predicted_labels(), tau)
        outside = np.concatenate([background, np.ones(channels), np.zeros(len(uncertainty))])
        maps = np.concatenate([evidence.mean, confidence, uncertainty]).astype(np.float32)
        image = to_image_grid(maps, outside.astype(np.float32), self.setup, properties)
        labels_image = np.asarray(self.setup.label_manager.convert_probabilities_to_segmentation(image[:heads]))
        confidence_image, uncertainty_image = image[heads : heads + channels], image[heads + channels :]
        return PseudoCase(
            case=case,
            labels=found.labels,
            confidence=confidence,
            valid=found.valid & (confident | self._may_unlearn(evidence, confidence)).all(axis=0),
            probabilities=probabilities.astype(np.float32) if with_probabilities else None,
            confident=np.asarray(confident.all(axis=0)),
            labels_image=labels_image,
            confidence_image=np.clip(_squeeze(confidence_image), 0, 1),
            uncertainty_image=np.clip(_squeeze(uncertainty_image), 0, 0.25),
        )

    def _may_unlearn(self, evidence: Evidence, confidence: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where a doubtful label may be unlearned, (C, X, Y, Z)."""
        if self.gate is None:
            return np.ones(confidence.shape, dtype=bool)
        return gate_at(self.gate, evidence.predicted_labels(), confidence)

    def _nonzero(self, case: str) -> NDArray[np.bool_]:
        return np.asarray(open_segmentation(self.pool.folder, case)[0]) >= 0


def confident_channels(confidence: NDArray[np.float32], predicted: NDArray[Any], tau: float | tuple[float, ...]) -> NDArray[np.bool_]:
    """Where the confidence reaches tau: of the predicted class, or of each region.

    Args:
        confidence: (C, X, Y, Z).
        predicted: (X, Y, Z) class per voxel, or (R, X, Y, Z) for regions.
        tau: one threshold, or one per class (region).

    Returns:
        (C, X, Y, Z) boolean.
    """
    thresholds = np.asarray(tau, dtype=np.float32)
    if predicted.ndim == confidence.ndim:
        return np.asarray(confidence >= np.broadcast_to(thresholds, (len(confidence),))[:, None, None, None])
    return np.asarray(confidence >= (thresholds[predicted] if thresholds.ndim else thresholds))


def confident_voxels(confidence: NDArray[np.float32], predicted: NDArray[Any], tau: float | tuple[float, ...]) -> NDArray[np.bool_]:
    """Where the confidence reaches tau: of the predicted class, or of every region; (X, Y, Z) boolean, see `confident_channels`."""
    return np.asarray(confident_channels(confidence, predicted, tau).all(axis=0))


def _squeeze(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return maps[0] if len(maps) == 1 else maps
