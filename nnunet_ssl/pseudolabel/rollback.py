"""Whether a student is worse than the model before it, by a test on labelled validation cases and not by a comparison of two means."""

from __future__ import annotations

import numpy as np
from scipy.stats import wilcoxon

from nnunet_ssl.nnunet_api.validation_summary import case_dice
from nnunet_ssl.pseudolabel.run import Run


def worse_than_before(run: Run, stage: int) -> str | None:
    """Compare the student of a stage with the one before it (at stage 1: with the teacher), case by case.

    One-sided Wilcoxon signed-rank test of the paired differences in mean foreground Dice. Four cases or fewer can never reach a level of
    0.05. With `-f all` no model has validation cases, and another fold's teacher has others: then nothing is compared.

    Returns:
        What was found, for the log, if the student is worse at `agreement.rollback_level`; else None.

    Raises:
        StateError: if a summary of nnU-Net's validation is damaged.
    """
    level = run.method.agreement.rollback_level
    if run.fold == "all" or level == 0:
        return None
    before, after = (case_dice(m, run.fold) for m in (run.student(stage - 1) if stage > 1 else run.teacher, run.student(stage)))
    cases = sorted(set(before) & set(after))
    differences = np.array([after[case] - before[case] for case in cases])
    if not len(cases) or not differences.any():
        return None
    p = float(wilcoxon(differences, alternative="less").pvalue)
    if p >= level:
        return None
    name = f"student {stage - 1}" if stage > 1 else "the teacher"
    return (
        f"student {stage} is worse than {name} on {len(cases)} validation cases "
        f"(mean Dice {np.mean(list(after.values())):.4f} after {np.mean(list(before.values())):.4f}, Wilcoxon p = {p:.3f})"
    )
