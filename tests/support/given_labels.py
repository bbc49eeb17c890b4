"""Labels and predictions that somebody gives for the tiny set-up's pool."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_setup import CONFIGURATION, DATASET, LABELS, POOL, Project, phantom, write_image

IGNORE = 3


def declare_ignore(project: Project, *, preprocess: bool = False) -> None:
    """Give the labelled dataset nnU-Net's ignore label; with `preprocess` its files get the class locations that training then needs."""
    for path in (project.raw / DATASET / "dataset.json", project.preprocessed / DATASET / "dataset.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "labels": {**LABELS, "ignore": IGNORE}}))
    if preprocess:
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        with contextlib.redirect_stdout(io.StringIO()):
            api.preprocess([137], configurations=(CONFIGURATION,), num_processes=[1], show_progress_bar=False)


def partly(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label of the first half of the slices; the rest is not annotated."""
    found = label.copy()
    found[len(found) // 2 :] = IGNORE
    return found


def write_labels(folder: Path, labels: Mapping[str, NDArray[Any]]) -> Path:
    """Label images by case."""
    for case, label in labels.items():
        write_image(label, folder / f"{case}.nii.gz")
    return folder


def probabilities_of(label: NDArray[Any], *, doubt: float, heads: int = 3) -> NDArray[np.float32]:
    """(H, Z, Y, X): 1 - doubt for the class of a voxel, the rest shared by the others."""
    one_hot = np.arange(heads)[:, None, None, None] == label
    return np.where(one_hot, 1 - doubt, doubt / (heads - 1)).astype(np.float32)


def rising(case: str) -> float:
    """More doubt the higher the number of the case."""
    return 0.05 + 0.05 * int(case[-1])


def write_predictions(folder: Path, probabilities: Mapping[str, NDArray[Any]] | None = None) -> Path:
    """`<case>.npz` as nnU-Net saves them; by default the true labels, in rising doubt."""
    folder.mkdir(parents=True, exist_ok=True)
    for case, found in (probabilities or {case: probabilities_of(phantom(case)[1], doubt=rising(case)) for case in POOL}).items():
        np.savez_compressed(folder / f"{case}.npz", probabilities=found)
    return folder
