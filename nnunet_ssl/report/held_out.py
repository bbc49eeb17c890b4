"""What held-out labelled cases decided in a run, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.confidence.ranking_table import RankingRow, ranking_rows
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import STUDY_FILE
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.schemas import STUDY, schema_of


@dataclass(frozen=True, kw_only=True)
class HeldOutFacts:
    """Figures of labelled cases that their teacher has not seen."""

    num_cases: int
    mean_dice: float | None
    """Of single teachers; None where no case has a Dice."""
    kind: str | None
    """Of the calibration map; None: not calibrated."""
    error_before: float | None
    """Expected calibration error, leave-one-case-out."""
    error_after: float | None
    tau: tuple[float, ...] | None
    ranking: str
    """The verdict on the ranking, in a sentence."""
    ranking_rows: tuple[RankingRow, ...]
    """How well each score orders the held-out cases, beside the baseline and a random order."""

    def entries(self, class_names: Sequence[str]) -> dict[str, str]:
        """Names and texts for a list of definitions.

        Args:
            class_names: of the foreground classes, or regions; a threshold of background comes before theirs.
        """
        dice = "unknown" if self.mean_dice is None else f"{self.mean_dice:.4f}, by teachers trained without the case"
        if self.kind is None or self.error_before is None or self.error_after is None:
            confidence = "not calibrated: too few cases"
        else:
            confidence = f"{self.kind} map, calibration error {self.error_before:.3f} before and {self.error_after:.3f} after"
        tau = "as given"
        if self.tau is not None:
            names = [*["background"] * (len(self.tau) - len(class_names)), *class_names]
            tau = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, self.tau, strict=True))
        return {
            "Held-out cases": str(self.num_cases),
            "Held-out Dice": dice,
            "Voxel confidence": confidence,
            "Thresholds measured, by class": tau,
            "Ranking": self.ranking,
        }


def read_held_out(workspace: Path) -> HeldOutFacts | None:
    """The study of held-out cases of a run, or None where there is none.

    Raises:
        StateError: if the file is something else.
    """
    path = workspace / STUDY_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    schema_of(content, STUDY, path, first_has_none=True)
    try:
        return _facts(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is no study of held-out cases ({error!r}); remove it and run nnssl_pseudolabel again.") from error


def _facts(content: Mapping[str, Any]) -> HeldOutFacts:
    dice = [float(case["mean_dice"]) for case in content["cases"] if case["mean_dice"] is not None]
    calibration, ranking = content["calibration"], content["ranking"]
    return HeldOutFacts(
        num_cases=len(content["cases"]),
        mean_dice=float(np.mean(dice)) if dice else None,
        kind=None if calibration["map"] is None else str(calibration["map"]["kind"]),
        error_before=calibration["ece_before"],
        error_after=calibration["ece_after"],
        tau=None if content["tau"] is None else tuple(map(float, content["tau"])),
        ranking=str(ranking["proofs"][ranking["chosen"]]["reason"]),
        ranking_rows=ranking_rows(ranking),
    )
