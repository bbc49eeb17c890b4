"""What the validation cases of a run served for, so that no figure on them is taken for more than it is."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ValidationUse:
    """The validation cases of a fold; there are none where every label trains."""

    num_cases: int
    has_predictions: bool
    """Whether the teacher is predictions, whose model may have seen any label."""
    calibrated: bool
    """Whether they calibrated the labels of the pool, set thresholds and chose the score, too."""
    kept_stages: tuple[int, ...]
    """Stages whose labels were kept from the stage before, which the rollback test on these cases may have decided."""

    @property
    def mode(self) -> str:
        """Their number and what is to be known of them, in a clause."""
        if self.has_predictions:
            known = "cases, which the predictions' model may have seen"
        else:
            known = "cases, which also calibrated the labels" if self.calibrated else "cases unseen"
        kept = f"; a test on them may have kept the labels of {self._stages}" if self.kept_stages else ""
        return f"{self.num_cases} validation {known}{kept}"

    @property
    def seen_by(self) -> str:
        """Who has seen them, after `cases that`."""
        if self.has_predictions:
            return "the student did not see (the predictions' model may have)"
        return "no network trained on, but which also calibrated the labels" if self.calibrated else "neither teacher nor student saw"

    @property
    def note(self) -> str:
        """A sentence on the labels that were kept; empty where none were."""
        if not self.kept_stages:
            return ""
        return f" The labels of {self._stages} were kept from the stage before, which a test on these cases may have decided."

    @property
    def _stages(self) -> str:
        return f"stage{'s' if len(self.kept_stages) > 1 else ''} {', '.join(map(str, self.kept_stages))}"


def validation_use(manifest: Manifest | None, method: MethodConfig, fold: int | str, num_cases: int) -> ValidationUse:
    """What the validation cases of a fold served for.

    Args:
        manifest: of the run; None where it has not begun.
        method: settings as given.
        fold: of the run.
        num_cases: number of validation cases.
    """
    stages, has_predictions = (manifest.stages, manifest.predictions is not None) if manifest else ([], False)
    is_asked = manifest is not None and method.evidence.confidence == "calibrated"
    can_keep = fold != "all" and method.agreement.rollback_level > 0
    return ValidationUse(
        num_cases=num_cases,
        has_predictions=has_predictions,
        calibrated=fold != "all" and not has_predictions and (is_asked or any(stage.calibration is not None for stage in stages)),
        kept_stages=tuple(stage.stage for stage in stages if stage.kept_previous) if can_keep else (),
    )
