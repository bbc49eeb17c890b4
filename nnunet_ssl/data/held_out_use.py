"""Whether held-out cases decide about labels."""

from __future__ import annotations

from collections.abc import Iterable

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def uses_held_out(method: MethodConfig, fold: int | str) -> bool:
    """Whether held-out cases decide about labels: not in fold mode, where the figures stand on these very cases, unless asked for."""
    return method.evidence.confidence == "calibrated" or (method.evidence.confidence == "auto" and fold == "all")


def held_out_decide(setup: NnunetSetup, method: MethodConfig, fold: int | str, teacher_folds: Iterable[int | str]) -> bool:
    """Whether held-out cases decide about labels in a run: they must be there, too.

    Args:
        setup: the labelled dataset.
        method: settings.
        fold: of the run.
        teacher_folds: of its teacher; none where predictions are the teacher, for nobody knows which labels these have seen.
    """
    return uses_held_out(method, fold) and any(setup.fold_cases(each)[1] for each in teacher_folds)
