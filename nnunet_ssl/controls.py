"""What the controls of a run change; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CONTROLS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # without agreement nothing is predicted on the pool between the stages, of which this one learns nothing
        "supervised": {"student.labelled_share": 1.0, "agreement.weight": 0.0},
        "random-order": {"curriculum.order": "random"},
        "all-at-once": {"curriculum.order": "all-at-once"},
        "no-agreement": {"agreement.weight": 0.0},
        "no-unlearning": {"student.unlearning": "off"},
        "no-calibration": {"evidence.confidence": "paper"},
    }
)
"""By name, what a control changes. `supervised` is the one that says whether the pool helps: manual labels alone, with the same start,
stages, steps and moving average."""

FROM_SCRATCH = "from-scratch"
"""The control that repeats nothing of the run: one supervised training with as many steps as teachers and students together."""
CONTROL_NAMES = (*CONTROLS, FROM_SCRATCH)


def control_overlay(name: str) -> str:
    """The name under which a control's settings are laid over the plans, as those of a preset are."""
    return f"control_{name.replace('-', '_')}"
