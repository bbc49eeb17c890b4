"""One slice of a few cases, best to worst by score: image, pseudo-label, confidence, uncertainty."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import Evidence, fuse, merge
from nnunet_ssl.confidence.quantise import share_from_int16
from nnunet_ssl.data.evidence_store import student_store, teacher_stores
from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.data.pseudo_case import CODE_IGNORED
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import WRITE_AGAIN, NnsslError, StateError
from nnunet_ssl.locations import STAGE_SIDECAR, preprocessed_root, targets_folder
from nnunet_ssl.nnunet_api.array_file import open_array
from nnunet_ssl.nnunet_api.setup import NnunetSetup, label_value
from nnunet_ssl.report.collect import RunFacts
from nnunet_ssl.report.learned_cases import learned_pool_cases

logger = logging.getLogger(__name__)

FloatImage = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CasePanel:
    """A slice of one case, (Y, X) on the network's grid."""

    case: str
    place: str
    """`best`, `median` or `worst` of the stage by score; `first`, `middle` or `last` where no case has one; `only` case."""
    rank: int
    """Position within the stage, from 1."""
    score: float | None
    image: FloatImage
    """Channel 0, as nnU-Net normalised it."""
    labels: NDArray[np.int16]
    """The pseudo-label; -1 outside the nonzero mask."""
    confidence: FloatImage
    """In [0, 1]; for regions the lowest over them."""
    ignored: NDArray[np.bool_]
    """Where nothing is learned: teacher and student disagree, or a doubtful label must not be unlearned."""
    deviation: FloatImage | None
    """Standard deviation of the predicted class's probability over the samples, in [0, 1/2]; for regions the highest over them. None where
    the evidence is no longer there."""
    aspect: float
    """Width over height, in millimetres."""


def case_panels(setup: NnunetSetup, facts: RunFacts) -> tuple[CasePanel, ...]:
    """Best, median and worst case of the newest stage by score.

    Empty before the first stage, where its student learns from manual labels alone, or where its files are gone or damaged (which is
    warned of).
    """
    workspace = facts.teacher.workspace(facts.fold)
    manifest = Manifest.load(workspace)
    if manifest is None or not manifest.stages or not learned_pool_cases(manifest, manifest.stages[-1]):
        return ()
    record = manifest.stages[-1]
    scores = {case.case: case.score for case in facts.ranking}
    try:
        reader = _StageReader(setup, manifest, record, workspace)
        return tuple(reader.panel(case, place, scores.get(case)) for case, place in _places(record.cases, scores))
    except NnsslError as error:
        logger.warning("the report shows no images: %s", error)
        return ()


def _places(cases: Sequence[str], scores: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Three cases of a stage, each once, and what they are by score; those without one come last.

    Args:
        cases: of the stage, first in the curriculum first. Strata and groups are interleaved in it, so that the first need not be the best.
        scores: by case; one that is missing has none.
    """
    known = {case: score for case in cases if (score := scores.get(case)) is not None}
    by_score = sorted(cases, key=lambda case: known.get(case, -math.inf), reverse=True)
    first, middle, last = ("best", "median", "worst") if known else ("first", "middle", "last")
    if len(cases) < 2:
        return [(case, "only") for case in cases]
    between = [(by_score[(len(cases) - 1) // 2], middle)] if len(cases) > 2 else []
    return [(by_score[0], first), *between, (by_score[-1], last)]


def _num_confidence_channels(record: StageRecord) -> int:
    """Confidence channels in a stage's target files: one, or one per region.

    Raises:
        StateError: if the stage's sidecar is gone or does not say.
    """
    folder = preprocessed_root() / record.dataset
    sidecar = read_sidecar(folder)
    if sidecar is None:
        raise StateError(f"{folder} of stage {record.stage} is no longer there, or its {STAGE_SIDECAR} is damaged; {WRITE_AGAIN}")
    count = sidecar.get("num_confidence_channels")
    if type(count) is not int or count < 1:
        raise StateError(f"{folder / STAGE_SIDECAR} is damaged (num_confidence_channels is {count!r}, not a whole number); {WRITE_AGAIN}")
    return count


class _StageReader:
    """Reads what the student of a stage learns from."""

    def __init__(self, setup: NnunetSetup, manifest: Manifest, record: StageRecord, workspace: Path) -> None:
        identifier = str(setup.configuration_manager.data_identifier)
        self.data = preprocessed_root() / record.dataset / identifier
        self.targets = targets_folder(record.dataset, identifier)
        self.pool = load_pool(setup).folder
        self.confidence_channels = _num_confidence_channels(record)
        self.spacing_mm = [float(s) for s in setup.configuration_manager.spacing][-2:]
        self.manifest, self.record, self.workspace = manifest, record, workspace

    def panel(self, case: str, place: str, score: float | None) -> CasePanel:
        labels = _load(self.data / f"{case}_seg.b2nd")[0].astype(np.int16)
        at = central_slice(labels)
        targets = _load(self.targets / f"{case}.b2nd", (slice(0, 1 + self.confidence_channels), at))
        height, width = labels.shape[1:]
        return CasePanel(
            case=case,
            place=place,
            rank=self.record.cases.index(case) + 1,
            score=score,
            image=_load(self.pool / f"{case}.b2nd", (0, at)).astype(np.float32),
            labels=labels[at],
            confidence=share_from_int16(targets[1:]).min(axis=0),
            ignored=targets[0] == CODE_IGNORED,
            deviation=self._deviation(case, at),
            aspect=width * self.spacing_mm[1] / (height * self.spacing_mm[0]),
        )

    def _deviation(self, case: str, at: int) -> FloatImage | None:
        try:
            return deviation_of_prediction(self._evidence(case), at)
        except NnsslError as error:
            logger.warning("the report shows no uncertainty of case '%s': %s", case, error)
            return None

    def _evidence(self, case: str) -> Evidence:
        """The evidence that the stage's labels were made from."""
        record = self.record
        stores = teacher_stores(self.workspace, self.manifest.teacher_fingerprint, self.manifest.teacher_folds)
        teacher = merge(store.read(case) for store in stores.values())
        if record.label_stage is None or record.agreement_weight == 0:
            return teacher
        manifest, stage = self.manifest, record.label_stage
        model = manifest.student_on(manifest.stages[stage - 1].dataset)
        student = student_store(self.workspace, stage, model, manifest.fold, manifest.method.evidence.num_samples)
        return fuse(teacher, student.read(case), weight=record.agreement_weight)


def central_slice(labels: NDArray[np.int16]) -> int:
    """Index along the first axis that has as much predicted foreground before it as after it; the middle where there is none.

    Args:
        labels: (X, Y, Z).
    """
    per_slice = (labels > 0).sum(axis=(1, 2))
    total = int(per_slice.sum())
    return int(np.searchsorted(per_slice.cumsum(), (total + 1) // 2)) if total else len(labels) // 2


def deviation_of_prediction(evidence: Evidence, at: int) -> FloatImage:
    """Standard deviation of the predicted class's probability in one slice.

    Args:
        evidence: of one case, (H, X, Y, Z).
        at: index along X.

    Returns:
        (Y, Z) in [0, 1/2]; for regions the highest over them.
    """
    if evidence.num_samples == 1 and evidence.log_variance is not None:
        variance = np.exp(evidence.log_variance[:, at])
    elif evidence.has_regions:
        variance = evidence.variance[:, at]
    else:
        predicted = evidence.mean[:, at].argmax(axis=0)[None]
        variance = np.take_along_axis(evidence.variance[:, at], predicted, axis=0)
    deviation: FloatImage = np.sqrt(variance).max(axis=0).astype(np.float32)
    return deviation


def _load(path: Path, key: Any = slice(None)) -> NDArray[Any]:
    if not path.is_file():
        raise StateError(f"{path} is no longer there.")
    try:
        return np.asarray(open_array(path)[key])
    except (RuntimeError, OSError, ValueError) as error:
        raise StateError(f"{path} is damaged ({error}).") from error


def label_names(setup: NnunetSetup, present: Sequence[int]) -> dict[int, str]:
    """A name for every label value in pseudo-labels; a value that regions are written with has the region's name."""
    if setup.has_regions:
        order = [int(value) for value in setup.dataset_json["regions_class_order"]]
        return dict(zip(order, setup.class_names, strict=False))
    values = {label_value(value): name for name, value in setup.dataset_json["labels"].items() if name != "ignore"}
    return {value: values.get(value, str(value)) for value in present}
