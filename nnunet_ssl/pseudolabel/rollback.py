"""Whether a student is worse than the model whose labels are in force, by a test on labelled validation cases, not by two means."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test, rankdata

from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.nnunet_api.validation_summary import case_dice
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)

NUM_SIGNS = 2**16
"""Most assignments of signs to try: all of them up to 16 cases that differ, else so many at random."""


def worse_than_in_force(run: Run, stage: int, *, in_force: int | None) -> str | None:
    """Compare the student of a stage with the model whose labels are in force, case by case.

    One-sided Wilcoxon signed-rank test of the paired differences in mean foreground Dice, a class that truth and prediction both lack
    having a Dice of 1: a structure that a student invents is as bad as one that it misses. Four cases that differ, or fewer, can never
    reach a level of 0.05. With `-f all` no model has validation cases, and another fold's teacher has others: then nothing is compared.

    Args:
        run: the run.
        stage: of the student.
        in_force: stage of the student that takes part in the labels so far; None: they are the teacher's alone.

    Returns:
        What was found, for the log, if the student is worse at `agreement.rollback_level`; else None.

    Raises:
        StateError: if a summary of nnU-Net's validation is damaged.
    """
    level = run.method.agreement.rollback_level
    if run.fold == "all" or level == 0:
        return None
    if in_force is None and run.manifest.predictions is not None:
        logger.info("student %d is not compared with the predictions: these have no figures on validation cases", stage)
        return None
    models = (run.teacher if in_force is None else run.student(in_force), run.student(stage))
    for model in models:
        if not model.validation_summary(run.fold).is_file():
            logger.warning(
                "whether student %d is worse than the model whose labels are in force was not tested, for %s is missing; to validate: %s",
                stage,
                model.validation_summary(run.fold),
                training_command(model, run.fold),
            )
            return None
    before, after = (case_dice(model, run.fold, of_absent=1.0) for model in models)
    cases = sorted(set(before) & set(after))
    old, new = (np.array([dice[case] for case in cases]) for dice in (before, after))
    if not (new != old).any():
        return None
    p = _chance_of_lower(new - old)
    if p >= level:
        return None
    name = "the teacher" if in_force is None else f"student {in_force}"
    return (
        f"student {stage} is worse than {name} on {len(cases)} validation cases "
        f"(mean Dice {new.mean():.4f} after {old.mean():.4f}, Wilcoxon p = {p:.3f})"
    )


def _chance_of_lower(differences: NDArray[np.float64]) -> float:
    """P of the signed-rank test against differences that are as often positive as negative; exact also where some are equal or zero."""
    changed = differences[differences != 0]
    if len(changed) == 1:  # which scipy refuses
        return 0.5 if changed[0] < 0 else 1.0
    ranks = rankdata(np.abs(changed))

    def signed_ranks(values: NDArray[np.float64], axis: int) -> Any:
        return (np.sign(values) * ranks).sum(axis=axis)

    found = permutation_test(
        (changed,),
        signed_ranks,
        permutation_type="samples",
        alternative="less",
        vectorized=True,
        n_resamples=NUM_SIGNS,
        batch=1024,  # all at once take 80 bytes per assignment and case
        random_state=0,
    )
    return float(found.pvalue)
