"""The page on the audit shows what the command prints, and lists the advice that there is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from nnunet_ssl.confidence.calibration import Calibration
from nnunet_ssl.confidence.predicted_dice import fit_dice_prediction
from nnunet_ssl.confidence.ranking_proof import prove_ranking
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.pseudolabel import audit, domain_shift
from nnunet_ssl.pseudolabel.audit import Advice, Audit, advise
from nnunet_ssl.pseudolabel.domain_shift import Shift
from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy
from nnunet_ssl.run.audit_text import audit_lines

SCORES = [0.93, 0.90, 0.91, 0.84, 0.88, 0.79, 0.86, 0.81, 0.72, 0.76, 0.69, 0.77]
DICE = [0.89, 0.84, 0.88, 0.80, 0.82, 0.74, 0.71, 0.78, 0.60, 0.73, 0.66, 0.62]
OTHERS = {
    "expected_dice": [0.90, 0.85, 0.86, 0.83, 0.84, 0.78, 0.80, 0.76, 0.71, 0.70, 0.72, 0.66],
    "foreground": [0.95, 0.91, 0.94, 0.92, 0.90, 0.84, 0.87, 0.85, 0.86, 0.79, 0.80, 0.83],
    "mean": [0.991, 0.995, 0.988, 0.993, 0.985, 0.992, 0.984, 0.990, 0.987, 0.994, 0.986, 0.983],
    "softmax": [0.97, 0.94, 0.93, 0.96, 0.92, 0.95, 0.89, 0.91, 0.88, 0.90, 0.94, 0.87],
}
"""Scores that do not rank."""
POOL = [0.60 + 0.35 * i / 59 for i in range(60)]


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / "docs" / "how-to" / "audit-before-training.md").read_text(encoding="utf-8")


@pytest.fixture
def run() -> Any:
    """What the text of an audit reads of a run."""
    model = "nnUNet_results/Dataset137_BraTS2021/TransASPPTeacherTrainer__nnUNetPlans__3d_fullres"
    return SimpleNamespace(
        setup=SimpleNamespace(dataset="Dataset137_BraTS2021"),
        fold="all",
        method=MethodConfig(),
        manifest=SimpleNamespace(pool=[f"scan_{i:03d}" for i in range(60)]),
        workspace=Path(model) / "fold_all" / "nnssl",
    )


@pytest.fixture
def example() -> Audit:
    cases = [f"case_{i:02d}" for i in range(12)]
    scores = {name: dict(zip(cases, values, strict=True)) for name, values in {"pairwise_dice": SCORES, **OTHERS}.items()}
    ranking = prove_ranking(scores, dict(zip(cases, DICE, strict=True)))
    study = HeldOutStudy(
        teacher_fingerprint="",
        cases=(None,) * 12,  # type: ignore[arg-type]
        calibration=Calibration(map=None, reason="", num_cases=12, ece_before=0.071, ece_after=0.012),
        maps=None,
        own_maps=(),
        tau=None,
        gate=None,
        blind=(),
        untaught={},
        teacher_effects={},
        ranking=ranking,
    )
    predicted = fit_dice_prediction(SCORES, DICE)
    assert predicted is not None
    shifts = [
        Shift(feature=f"{name}, channel {c}", labelled_median=0.0, pool_median=0.0, statistic=0.1, p=1.0)
        for c in range(4)
        for name in ("intensity, 5th percentile", "intensity, 50th percentile", "intensity, 95th percentile", "deviation", "sharpness")
    ]
    moved = Shift(feature="sharpness, channel 3", labelled_median=0.214, pool_median=0.152, statistic=0.71, p=0.00034)
    of_labels = (audit.PREDICTED_VOXELS, audit.CASE_SCORE.format("pairwise_dice"))
    shifts = [moved, *shifts[:-1], *(Shift(feature=name, labelled_median=0, pool_median=0, statistic=0.1, p=1.0) for name in of_labels)]
    dice = {"edema": (0.813, 12), "core": (0.791, 12), "enhancing": (0.462, 11)}
    at_risk = ["enhancing"]
    advice, reason = advise(study, dice, at_risk, shifts)
    to_label = [f"scan_{i:03d}" for i in (17, 4, 52, 38, 9, 41, 23, 56, 12, 30)]
    found = predicted.mean_of_pool(POOL)
    return Audit(
        study=study, dice=dice, predicted=found, at_risk=at_risk, shifts=shifts, label_first=to_label, advice=advice, reason=reason
    )


def test_output_is_shown_as_it_is_printed(text: str, example: Audit, run: Any) -> None:
    (shown,) = re.findall(r"^```text\n(audit of .*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert shown.splitlines() == audit_lines(example, run)


def test_every_advice_is_explained(text: str) -> None:
    assert re.findall(r"^\| `([a-z ]+)` \|", text, flags=re.MULTILINE) == [*get_args(Advice)]


def test_limits_of_the_rules(text: str) -> None:
    rules = text.partition("## What to do")[2]
    for limit in (audit.USELESS_DICE, audit.WEAK_DICE):
        assert f"below {limit:g}" in rules
    assert f"p < {domain_shift.LEVEL:g}" in text
    assert audit.NUM_TO_LABEL == 10
    assert "ten worst-ranked" in text
