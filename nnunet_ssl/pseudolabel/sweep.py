"""Evidence on every pool case, one sliding-window sweep each, kept on disk."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.preprocessed_case import open_image
from nnunet_ssl.nnunet_api.swept_evidence import to_evidence

logger = logging.getLogger(__name__)


def gather_evidence(predictor: EvidencePredictor, folder: Path, cases: Sequence[str], store: EvidenceStore, *, label: str) -> int:
    """Sweep every case that has no evidence of this source yet.

    Args:
        predictor: with its model loaded.
        folder: preprocessed images, of the pool or of the labelled dataset.
        cases: which of them.
        store: where evidence goes; each case is written whole before the next begins.
        label: for the progress bar, for instance `teacher`.

    Returns:
        How many cases were swept now.

    Raises:
        StateError: if a prediction is NaN or infinite.
    """
    store.remove_leftovers()
    todo = [case for case in cases if not store.has(case)]
    for case in tqdm(todo, desc=f"evidence of the {label}", disable=not todo):
        sweep_case(predictor, folder, case, store, label)
    logger.info("evidence of the %s: %d cases swept, %d were there", label, len(todo), len(cases) - len(todo))
    return len(todo)


def sweep_case(predictor: EvidencePredictor, folder: Path, case: str, store: EvidenceStore, label: str) -> None:
    """Sweep one case and store its evidence.

    Args:
        predictor: with its model loaded.
        folder: preprocessed images.
        case: one of them.
        store: where evidence goes, whole or not at all.
        label: for the message, for instance `teacher`.

    Raises:
        StateError: if the model predicts NaN or infinity.
    """
    image = open_image(folder, case)
    swept = predictor.sweep(torch.from_numpy(image[:]), seed=zlib.crc32(case.encode()))
    if not bool(swept.isfinite().all()):
        raise StateError(
            f"the {label} predicts NaN or infinite probabilities for case '{case}'; look at the image {folder / case}.b2nd, and "
            "whether the training of that model has diverged (its loss in progress.png)."
        )
    evidence = to_evidence(swept, heads=predictor.heads, num_samples=predictor.num_samples, has_regions=predictor.label_manager.has_regions)
    store.write(case, evidence)
