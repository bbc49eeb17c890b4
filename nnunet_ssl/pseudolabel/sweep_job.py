"""The evidence of one case as a job for an engine's worker."""

from __future__ import annotations

import functools
import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.errors import SetupError
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.pseudolabel.sweep import sweep_case

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""A predictor is not made for several threads, which a worker may have."""


@dataclass(frozen=True)
class Sweep:
    """What sweeps the cases of a store."""

    model_folder: Path
    fold: int | str
    num_samples: int
    device: str
    images: Path
    """Folder of preprocessed images."""
    evidence: Path
    """Folder of the store."""
    source: str
    """Of the store; another one is another model, also where its checkpoint has the same name."""
    label: str
    """For messages and the progress bar, for instance `teacher`."""


def sweep_elsewhere(engine: Engine, sweep: Sweep, cases: Sequence[str]) -> None:
    """Sweep every case that has no evidence of this source yet, on an engine's workers.

    Args:
        engine: whose workers share this machine's folders.
        sweep: what sweeps.
        cases: which of the images.
    """
    store = EvidenceStore(sweep.evidence, source=sweep.source, images=sweep.images)
    todo = [case for case in cases if not store.has(case)]
    with closing(engine.run(sweep_job, {case: (sweep, case) for case in todo})) as done:
        for _ in tqdm(done, total=len(todo), desc=f"evidence of the {sweep.label}", disable=not todo):
            pass
    store.remove_leftovers()  # of workers that have died
    logger.info("evidence of the %s: %d cases swept, %d were there", sweep.label, len(todo), len(cases) - len(todo))


def sweep_job(job: tuple[Sweep, str]) -> None:
    """Sweep one case, unless a worker that seemed dead has done it.

    Raises:
        SetupError: if the worker lacks the device.
    """
    sweep, case = job
    if sweep.device == "cuda" and not torch.cuda.is_available():
        raise SetupError(f"-device cuda: PyTorch finds no CUDA device on the worker {socket.gethostname()}; use -device cpu.")
    store = EvidenceStore(sweep.evidence, source=sweep.source, images=sweep.images)
    with _ONE_AT_A_TIME:
        if not store.has(case):
            sweep_case(_predictor(sweep), sweep.images, case, store, sweep.label)


@functools.lru_cache(maxsize=1)
def _predictor(sweep: Sweep) -> EvidencePredictor:
    """The predictor, kept for the worker's next case."""
    predictor = EvidencePredictor(num_samples=sweep.num_samples, device=torch.device(sweep.device))
    predictor.load_model(sweep.model_folder, [sweep.fold])
    return predictor
