"""The tiny set-up with a teacher of every fold, and evidence by hand on the cases that each has not seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_setup import DATASET, LABELLED, Project, evidence_of, open_tiny_run, phantom, write_evidence

FOLDS = [0, 1, 2, 3, 4]
HELD_OUT = LABELLED[:5]
"""One validation case a fold; the sixth case is in none."""


@pytest.fixture
def cross_fitted(taught_project: Project) -> Project:
    """Teachers of all five folds; those of folds 2 to 4 are copies of fold 1, but for the fold that they name."""
    import torch

    model = next((taught_project.results / DATASET).iterdir())
    for fold in FOLDS[2:]:
        shutil.copytree(model / "fold_1", model / f"fold_{fold}")
        path = model / f"fold_{fold}" / "checkpoint_final.pth"
        checkpoint = torch.load(path, weights_only=False)
        checkpoint["init_args"]["fold"] = fold
        torch.save(checkpoint, path)
    return taught_project


def smaller(label: NDArray[np.uint8], planes: int) -> NDArray[np.uint8]:
    """The label without its first planes of foreground."""
    found = label.copy()
    first = int(np.flatnonzero(label.any(axis=(1, 2)))[0])
    found[first : first + planes] = 0
    return found


def begin(
    project: Project,
    *,
    doubt: Callable[[str], float],
    seen: Any = None,
    num_samples: int = 8,
    teacher_folds: list[int] | None = None,
    **settings: Any,
) -> Any:
    """A run of all folds; on held-out case i the teacher misses i planes, on the pool it is as doubtful as `doubt` says.

    Args:
        project: with teachers.
        doubt: of a case, by name.
        seen: label that the teacher sees in a held-out case; default: some planes are missing.
        num_samples: of every teacher.
        teacher_folds: those of the run, in place of all.
        settings: with `__` for the dot.
    """
    given = {k.replace("__", "."): v for k, v in settings.items()}
    run = open_tiny_run(project, "all", settings=given, teacher_folds=teacher_folds)
    for store in run.teacher_stores().values():
        write_evidence(store, doubt=doubt, num_samples=num_samples)
    seen = seen or (lambda case: smaller(phantom(case)[1], int(case[-1])))
    for fold, store in run.held_out_stores().items():
        for case in run.held_out_cases[fold]:
            store.write(case, evidence_of(seen(case), doubt=doubt(case), num_samples=num_samples))
    return run


def rising(case: str) -> float:
    return 0.02 + 0.03 * int(case[-1])
