"""Predict a folder of new cases with a trained model."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ssl.data.image_files import channels_by_case, complete_cases, file_stamp
from nnunet_ssl.errors import ConfigError, InputError
from nnunet_ssl.nnunet_api.new_case import files_per_case, preprocess_new_case
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.prediction.output_folder import OutputFolder, row_of
from nnunet_ssl.prediction.predict_case import predict_case
from nnunet_ssl.prediction.prepared_model import PreparedModel, log_findings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What came of it."""

    predicted: int
    """Cases predicted now; the others were there."""
    rows: list[dict[str, Any]]
    """Of the table, with all cases of the output folder."""
    failed: dict[str, str]
    """Cases that could not be predicted now, and why."""
    failed_before: dict[str, str]
    """Cases of other folders that could not be predicted before, and why."""


def predict_folder(prepared: PreparedModel, images: Path, output: Path, *, with_probabilities: bool = False) -> PredictSummary:
    """Predict every case that is not finished yet; bad cases are left out, named in a warning each and remembered.

    A bad case is in the table until it is predicted, or is no longer in the folder that it failed in. What was predicted of it before goes.

    Args:
        prepared: the model.
        images: folder of image files named as nnU-Net wants them.
        output: where everything is written; the same call again continues.
        with_probabilities: write the probabilities, too.

    Raises:
        InputError: if there is no image.
        ConfigError: if both folders are the same.
        StateError: if the output folder holds cases that were predicted otherwise.
    """
    if output.resolve() == images.resolve():
        raise ConfigError(f"-i and -o are both {images}; choose another folder for the output.")
    cases, failed = find_cases(images, prepared.setup)
    log_findings(prepared.findings)
    folder = OutputFolder(output, prepared.setup)
    folder.open(prepared.settings())
    stamps = {case: file_stamp(files) for case, files in cases.items()}
    todo = [case for case in cases if not folder.is_done(case, stamps[case], with_probabilities=with_probabilities)]
    try:
        folder.failures.forget_absent(images, {*cases, *failed})
        for case, reason in failed.items():
            folder.write_failure(case, reason, images)
        for case in tqdm(todo, desc="predicting", unit="case", disable=not todo):
            begun = time.perf_counter()
            try:
                new = preprocess_new_case(case, cases[case], prepared.setup)
            except InputError as error:
                failed[case] = str(error)
                folder.write_failure(case, failed[case], images)
                continue
            found = predict_case(new, prepared, with_probabilities=with_probabilities)
            row = row_of(case, found, prepared, time.perf_counter() - begun)
            folder.write_case(case, found, new.properties, row, stamps[case])
    finally:
        rows = folder.write_table()
    for reason in failed.values():  # not before the progress bar has ended
        logger.warning("%s", reason)
    before = {case: reason for case, reason in folder.failures.reasons().items() if case not in failed}
    predicted = len(todo) - sum(case in failed for case in todo)
    return PredictSummary(predicted=predicted, rows=rows, failed=failed, failed_before=before)


def find_cases(folder: Path, setup: NnunetSetup) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Image files of every whole case, and the reason for every other.

    Args:
        folder: the folder of `-i`.
        setup: the model's.

    Raises:
        InputError: if the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; -i takes the folder of the images.")
    channels, misnamed = channels_by_case(folder, setup.file_ending)
    if not channels and not misnamed:
        raise InputError(f"{folder} holds no image named <case>_0000{setup.file_ending}, as nnU-Net names images.")
    num_files = files_per_case((next(iter(files.values())) for files in channels.values()), setup)
    complete, incomplete = complete_cases(channels, folder, setup.file_ending, num_files)
    return complete, {**misnamed, **incomplete}
