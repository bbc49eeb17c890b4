"""A model that is ready to predict, with what is known of it from held-out cases."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nnunet_ssl.errors import ConfigError, SetupError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.networks.sampling import has_uncertainty_head
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.model_folder import model_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.prediction.findings import DEFAULT_SCORE, SINGLE_PASS_SCORE, Findings, findings_of, no_findings
from nnunet_ssl.prediction.origin import Origin, find_origin

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """What every case is predicted with."""

    model: ModelLocation
    folds: list[int | str]
    setup: NnunetSetup
    origins: list[Origin | str]
    """Run of every fold, or why none is known."""
    predictor: EvidencePredictor
    findings: Findings
    is_fast: bool

    def settings(self) -> dict[str, Any]:
        """What two predictions must share to stand in one table, in JSON's types."""
        found = self.findings
        maps = None if found.maps is None else [used.to_dict() for used in found.maps]
        relation = None if found.relation is None else [found.relation.scores, found.relation.dice]
        held_out = json.dumps([maps, relation, found.limit, found.is_borrowed, found.teacher_effects])
        return {
            "model": f"{self.model.dataset}/{self.model.name}",
            "folds": self.folds,
            "checkpoints": [fingerprint(self.model.checkpoint(fold)) for fold in self.folds],
            "mode": "fast" if self.is_fast else "samples",
            "samples": self.predictor.num_samples,
            "case_score": found.score,
            "held_out": hashlib.sha256(held_out.encode()).hexdigest()[:12],
        }


def prepare_model(
    model: ModelLocation, folds: Sequence[int | str], *, device: str, num_samples: int | None = None, is_fast: bool = False
) -> PreparedModel:
    """Load a model and find out what is known of it.

    Args:
        model: any trained model.
        folds: one or more of its folds.
        device: where the network runs.
        num_samples: K per fold; None: that of the run which the model comes from, else that of its plans.
        is_fast: one pass of the image as it is, with the uncertainty head in place of samples.

    Raises:
        ConfigError: if the arguments contradict each other.
        SetupError: if the model is missing, or `is_fast` asks for a head that it has not, or that has not learnt.
        StateError: if a checkpoint or a study of held-out cases is damaged.
    """
    _check(folds, num_samples, is_fast)
    setup, origins = model_setup(model), [find_origin(model, fold) for fold in folds]
    k = 1 if is_fast else num_samples or _usual_samples(setup, origins)
    predictor = EvidencePredictor(num_samples=k, device=torch.device(device), use_mirroring=not is_fast)
    predictor.load_model(model.folder, list(folds))
    if is_fast:
        _check_head(predictor, model)
        findings = no_findings("what held-out cases say is of several samples, not of a single pass", SINGLE_PASS_SCORE)
    elif predictor.num_samples == predictor.num_folds:
        findings = no_findings("the network gives a single sample, since it has neither mirrored views nor dropout", SINGLE_PASS_SCORE)
    else:
        wanted = setup.method.evidence.case_score
        # expected Dice needs calibrated probabilities
        findings = findings_of(origins, folds, k, wanted if wanted != "expected_dice" else DEFAULT_SCORE)
    return PreparedModel(
        model=model, folds=list(folds), setup=setup, origins=origins, predictor=predictor, findings=findings, is_fast=is_fast
    )


def log_findings(findings: Findings) -> None:
    """Say what confidence and review rest on."""
    if findings.maps is None:
        logger.warning("not calibrated, confidence is the paper's: %s", findings.calibration)
    else:
        logger.info("calibrated by the %s%s", findings.calibration, ", borrowed from the teacher" if findings.is_borrowed else "")
    if findings.limit is not None and findings.relation is not None:
        lowest = min(findings.relation.scores)
        text = "review: cases with a predicted Dice below %.3f or a score below %.3f, the lowest of held-out cases (%s)"
        logger.info(text, findings.limit, lowest, findings.ranking)


def _check(folds: Sequence[int | str], num_samples: int | None, is_fast: bool) -> None:
    if num_samples is not None and num_samples < 1:
        raise ConfigError(f"--num-samples {num_samples}: at least one sample is needed.")
    if is_fast and num_samples is not None:
        raise ConfigError("--fast is a single pass; leave --num-samples out.")
    if is_fast and len(folds) > 1:
        raise ConfigError("--fast is a single pass of one network; give one fold to -f.")


def _usual_samples(setup: NnunetSetup, origins: Sequence[Origin | str]) -> int:
    of_runs = {origin.num_samples for origin in origins if isinstance(origin, Origin)}
    return of_runs.pop() if len(of_runs) == 1 else setup.method.evidence.num_samples


def _check_head(predictor: EvidencePredictor, model: ModelLocation) -> None:
    if not has_uncertainty_head(predictor.network):
        raise SetupError(f"--fast needs a network with an uncertainty head, and that of {model.name} has none; leave --fast out.")
    if not predictor.head_is_trained:
        raise SetupError(f"the uncertainty head of {model.name} has never learnt (distillation_epochs was 0); leave --fast out.")
