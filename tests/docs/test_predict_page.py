"""The page on prediction states the rule for review, the states of calibration and the folders as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunet_ssl.confidence.review import WEAK_DICE, WORST_SHARE
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.prediction.findings import SINGLE_PASS_SCORE, Findings, no_findings
from nnunet_ssl.prediction.output_folder import OutputFolder


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / "docs" / "how-to" / "predict.md").read_text(encoding="utf-8")


def test_rule_for_review(text: str) -> None:
    rule = text.partition("## Which cases to review")[2].partition("\n## ")[0]
    assert f"the {WORST_SHARE * 100:.0f} % quantile" in rule
    assert f"or {WEAK_DICE:g} if that is higher" in rule


def test_states_of_calibration(text: str) -> None:
    found = set(re.findall(r"^\| `([a-z ]+)` \|", text.partition("## Calibrated or not")[2].partition("\n## ")[0], flags=re.MULTILINE))
    unknown = no_findings("", "mean")
    states = {Findings(**{**vars(unknown), "maps": maps, "is_borrowed": b}).state for maps in (None, ()) for b in (False, True)}
    assert found == states


def test_files_are_where_the_page_says(text: str) -> None:
    content = {"labels": {"background": 0, "rim": 1}, "file_ending": ".nii.gz"}
    out = OutputFolder(Path(), NnunetSetup("Dataset137_X", "nnUNetPlans", "3d_fullres", {}, content))
    for path in (out.labels("<case>"), out.map("confidence", "<case>"), out.map("uncertainty", "<case>"), out.probability("<case>", 0)):
        assert f"| `{path.as_posix()}`" in text


def test_single_pass(text: str) -> None:
    part = text.partition("## In a single pass")[2].partition("\n## ")[0]
    assert f"the score is `{SINGLE_PASS_SCORE}`" in part
