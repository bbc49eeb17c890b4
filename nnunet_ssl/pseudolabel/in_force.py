"""The settings that are in force in a run: as given, with what held-out cases decide put in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from nnunet_ssl.confidence.case_scores import STAND_INS
from nnunet_ssl.config import CaseScore, MethodConfig
from nnunet_ssl.data.files import write_json
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.locations import STUDY_FILE
from nnunet_ssl.nnunet_api.external_trainers import student_uses
from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy, study_held_out
from nnunet_ssl.pseudolabel.label_source import gates
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SettingsInForce:
    """What decides about the labels of the pool."""

    method: MethodConfig
    """Settings, with the thresholds, the case score and the order in force."""
    study: HeldOutStudy | None
    """What held-out cases say; None where they do not decide."""

    @property
    def tau(self) -> float | list[float]:
        """The threshold, or one per class (region)."""
        tau = self.method.student.fixed_tau
        return list(tau) if isinstance(tau, tuple) else tau

    @property
    def calibration(self) -> str | None:
        """Kind of the common calibration map; None for the paper's confidence."""
        return None if self.study is None or self.study.calibration.map is None else self.study.calibration.map.kind

    @property
    def blind_heads(self) -> list[int]:
        """Heads of which the pool teaches nothing."""
        return [] if self.study is None else list(self.study.blind)


def in_force(run: Run) -> SettingsInForce:
    """Study the held-out cases, if they are to decide, and say in the log what follows from them."""
    study = study_held_out(run) if uses_held_out(run.method, run.fold) else None
    if study is not None:
        write_json(run.workspace / STUDY_FILE, study.to_dict())
    elif run.method.evidence.confidence != "paper":
        # in fold mode this is as it should be
        logger.log(
            logging.WARNING if run.fold == "all" else logging.INFO,
            "confidence is not calibrated, and the ranking is not proven: %s",
            _why_not(run),
        )
    if (study is None or study.gate is None) and _pushes_labels_down(run):
        logger.warning("unlearning '%s' pushes every doubtful label down: nothing gates it", run.method.student.unlearning)
    return SettingsInForce(run.method.with_settings(_decided(run, study)), study)


def _pushes_labels_down(run: Run) -> bool:
    """Whether the student unlearns in a form that a gate should hold back, and pool samples teach it anything."""
    student = run.method.student
    teaches = student.lambda_low > 0 and student.labelled_share < 1 and student_uses(run.manifest.student_trainer, "unlearning")
    return gates(student) and teaches


def _decided(run: Run, study: HeldOutStudy | None) -> dict[str, Any]:
    """Settings by dotted path that held-out cases, or the lack of them, decide."""
    method = run.method
    tau = method.student.fixed_tau
    decided: dict[str, Any] = {"student.tau": list(tau) if isinstance(tau, tuple) else tau}
    if study is None:
        return decided | {"evidence.case_score": possible_score(run, method.evidence.case_score)}
    logger.info("%s", study.calibration.reason)
    if study.maps is None:
        logger.warning("confidence is not calibrated, the paper's is used: %s", study.calibration.reason)
    if method.student.tau is None and study.tau is not None:
        decided["student.tau"] = list(study.tau)
        logger.info("thresholds for a marginal precision of %g: %s", method.student.precision, ", ".join(f"{t:.2f}" for t in study.tau))
    for fold, names in study.untaught.items():
        logger.warning("no training case of fold %s has %s: its teacher cannot know it", fold, ", ".join(names))
    for head in study.blind:
        name = run.setup.class_names[head]
        logger.warning(
            "the teacher hardly ever finds the class '%s' in held-out cases: the student learns it from manual labels alone", name
        )
    return decided | _decided_ranking(method, study)


def possible_score(run: Run, asked: CaseScore) -> CaseScore:
    """The case score that is asked for, or what stands in for it without calibration or with a single sample of the teacher.

    The teacher's evidence has to be there. At later stages a student adds samples, but all stages are ranked by one score.
    """
    score = asked
    if score == "expected_dice":
        score = STAND_INS[score]
        logger.warning("expected_dice needs calibrated confidence: the pool is ranked by %s", score)
    samples = sum(store.num_samples(run.pseudo_cases[0]) for store in run.teacher_stores().values())
    if score == "pairwise_dice" and samples == 1:
        score = STAND_INS[score]
        logger.warning("pairwise_dice needs two samples of the teacher, there is one: the pool is ranked by %s", score)
    return score


def _decided_ranking(method: MethodConfig, study: HeldOutStudy) -> dict[str, Any]:
    ranking = study.ranking
    proof = ranking.proofs[ranking.chosen]
    logger.info("%s", ranking.reason)
    logger.info("ranking: %s", proof.reason)
    decided: dict[str, Any] = {"evidence.case_score": ranking.chosen}
    if proof.verdict == "refuted" and method.curriculum.order == "ranked":
        logger.warning("held-out cases refute the ranking: cases enter in random order")
        decided["curriculum.order"] = "random"
    return decided


def _why_not(run: Run) -> str:
    if run.manifest.predictions is not None:
        return "nobody can know which labels the predictions' model has seen."
    if not run.held_out_cases:
        return "every teacher has seen every label (cross-fitted teachers would leave held-out cases: --teacher-folds 0 1 2 3 4)."
    return (
        "the only held-out cases are the validation cases that the figures of this fold stand on (to use them all the same: "
        "--confidence calibrated)."
    )
