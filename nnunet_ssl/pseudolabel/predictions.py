"""Predictions from elsewhere as the teacher of a run: which they are, and what evidence they leave."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_ssl.confidence.evidence import MAX_VARIANCE, Evidence
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.manifest import Manifest, PredictionsRecord
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.prediction_folders import check_predictions, content_fingerprint, find_predictions, stamp
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import MANIFEST_FILE, start_over
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.nnunet_api.geometry import to_network_grid
from nnunet_ssl.nnunet_api.preprocessed_case import open_image
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.probability_file import read_probabilities
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.evidence_room import require_evidence_room
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)


def identify_predictions(
    setup: NnunetSetup, pool: PoolIndex, manifest: Manifest | None, folders: Sequence[Path], start_trainer: str
) -> tuple[PredictionsRecord, str]:
    """Which predictions a run has, or begins with; those of a run that begins are all read and checked.

    Args:
        setup: the labelled dataset and its plans.
        pool: whose cases they are.
        manifest: of the run; None where it begins.
        folders: one per sample; empty takes those of the manifest.
        start_trainer: trainer of the model whose weights stage 1 of a run that begins may start from.

    Returns:
        The manifest's entry, with the folders as they are now, and the fingerprint of the files' content.

    Raises:
        ConfigError: if a folder is named twice.
        InputError: if a file is missing, surplus or, where the run begins, unusable.
        StateError: if the manifest does not say which predictions the run began with.
    """
    if manifest is None:
        files = find_predictions(folders, pool.case_ids)
        check_predictions(files, setup, pool)
        return PredictionsRecord(_absolute(folders), stamp(files), start_trainer), content_fingerprint(files)
    if manifest.predictions is None:
        raise StateError("the manifest of a run from predictions names none; restore it, or remove it to start over.")
    if not folders:
        return manifest.predictions, manifest.teacher_fingerprint
    files = find_predictions(folders, manifest.pool, pool.skipped)
    record = replace(manifest.predictions, folders=_absolute(folders), stamp=stamp(files))
    return record, manifest.teacher_fingerprint if record.stamp == manifest.predictions.stamp else content_fingerprint(files)


def _absolute(folders: Sequence[Path]) -> list[str]:
    return [str(folder.absolute()) for folder in folders]


def take_predictions(run: Run, cases: Sequence[str], engine: Engine | None = None) -> None:
    """Make evidence of the predictions of cases that have none yet.

    Args:
        run: a run whose teacher is predictions.
        cases: of the pool.
        engine: whose workers do it; None: this process.

    Raises:
        InputError: if a file is missing, surplus or unusable.
        StateError: if the files are others than those that the run began with, or an image was replaced, whose prediction is the old one's.
    """
    (store,) = run.teacher_stores().values()
    todo = [case for case in cases if not store.has(case)]
    if run.manifest.predictions is None or not todo:
        return
    if replaced := [case for case in todo if store.is_of_replaced_image(case)]:
        raise StateError(
            f"the image of case '{replaced[0]}' was replaced since its prediction was taken; predict it again, and start over with that "
            f"prediction: remove {run.workspace / MANIFEST_FILE}."
        )
    require_evidence_room(run, store, len(todo), "predictions")
    store.remove_leftovers()
    folders = [Path(folder) for folder in run.manifest.predictions.folders]
    files = find_predictions(folders, run.manifest.pool, run.pool.skipped)
    if stamp(files) != run.manifest.predictions.stamp and content_fingerprint(files) != run.manifest.teacher_fingerprint:
        raise StateError(
            f"the predictions in {', '.join(run.manifest.predictions.folders)} are not those that the run in {run.workspace} began with; "
            f"put them back, or {start_over(run.workspace)}."
        )
    jobs = {case: _job(run, store, case, [of_folder[case] for of_folder in files]) for case in todo}
    with closing(_each(jobs) if engine is None else engine.run(_take_case, jobs)) as done:
        for _ in tqdm(done, total=len(todo), desc="evidence of the predictions"):
            pass
    store.remove_leftovers()  # of workers that have died
    logger.info("evidence of the predictions: %d cases taken, %d were there", len(todo), len(cases) - len(todo))


_Job = tuple[NnunetSetup, PoolIndex, EvidenceStore, str, list[Path]]


def _job(run: Run, store: EvidenceStore, case: str, paths: list[Path]) -> _Job:
    """What one case needs and no more, for it may be sent to another machine."""
    of_case = replace(run.pool, images={case: run.pool.images[case]}, skipped={})
    return replace(run.setup), of_case, store, case, paths


def _take_case(job: _Job) -> None:
    setup, pool, store, case, paths = job
    store.write(case, predicted_evidence(setup, pool, case, paths))


def _each(jobs: Mapping[str, _Job]) -> Generator[tuple[str, None], None, None]:
    """In this process."""
    for case, job in jobs.items():
        _take_case(job)
        yield case, None


def predicted_evidence(setup: NnunetSetup, pool: PoolIndex, case: str, paths: Sequence[Path]) -> Evidence:
    """Evidence of one case from its predictions, each of which is a sample.

    Args:
        setup: the labelled dataset and its plans.
        pool: gives the geometry of the case.
        case: case id.
        paths: `.npz` files, K of them.

    Returns:
        Evidence on the network's grid; with one prediction the variance is 0 and the votes are its labels.
    """
    properties = load_properties(pool.folder, case)
    shape = open_image(pool.folder, case).shape[1:]
    mean, second, votes = (np.zeros((setup.heads, *shape), dtype=np.float32) for _ in range(3))
    for path in paths:
        probabilities = to_network_grid(read_probabilities(case, path, setup, properties), shape, setup, properties)
        np.clip(probabilities, 0, 1, out=probabilities)
        mean += probabilities
        second += np.square(probabilities)
        votes += _votes(probabilities, has_regions=setup.has_regions)
    for total in (mean, second, votes):
        total /= np.float32(len(paths))
    variance = np.clip(second - np.square(mean), np.float32(0), np.float32(MAX_VARIANCE))
    return Evidence(mean=mean, variance=variance, votes=votes, num_samples=len(paths), has_regions=setup.has_regions)


def _votes(probabilities: NDArray[np.float32], *, has_regions: bool) -> NDArray[np.bool_]:
    """(H, X, Y, Z): the class of each voxel, or the regions that it is in."""
    if has_regions:
        return probabilities > 0.5
    return np.asarray(np.arange(len(probabilities))[:, None, None, None] == probabilities.argmax(axis=0))
