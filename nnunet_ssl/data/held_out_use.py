"""Whether held-out cases decide about labels."""

from __future__ import annotations

from nnunet_ssl.config import MethodConfig


def uses_held_out(method: MethodConfig, fold: int | str) -> bool:
    """Whether held-out cases decide about labels: not in fold mode, where the figures stand on these very cases, unless asked for."""
    return method.evidence.confidence == "calibrated" or (method.evidence.confidence == "auto" and fold == "all")
