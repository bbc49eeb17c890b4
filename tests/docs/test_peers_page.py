"""The page on peers says what their code does: trainers, shared settings, fixed values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunet_ssl.config import StudentConfig
from nnunet_ssl.training.peers import consistency, cross_pseudo_supervision, mean_teacher, peer_student
from nnunet_ssl.training.peers import uncertainty_aware_mean_teacher as uamt


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / "docs" / "how-to" / "compare-with-peers.md").read_text(encoding="utf-8")


def test_every_peer_is_shown_with_its_command(text: str, project: Path) -> None:
    source = (project / "trainers" / "nnssl_trainers.py").read_text(encoding="utf-8")
    peers = {trainer for line in source.splitlines() if ".peers." in line for trainer in re.findall(r"(\w+Trainer)$", line)}
    assert len(peers) == 4
    assert set(re.findall(r"^nnUNetv2_train 601 3d_fullres 0 -tr (\w+)$", text, flags=re.MULTILINE)) == peers | {"TransASPPStudentTrainer"}
    assert set(re.findall(r"^\| `(\w+Trainer)` \|", text, flags=re.MULTILINE)) == peers


def test_settings_shared_with_the_student(text: str) -> None:
    shared = text.partition("## Settings")[2].partition("From the papers")[0]
    more = cross_pseudo_supervision.CrossPseudoSupervisionTrainer.more_settings
    assert set(re.findall(r"`student\.(\w+)`", shared)) == {*peer_student.HARNESS_SETTINGS, *more}
    assert {*peer_student.HARNESS_SETTINGS, *more} <= set(StudentConfig.__dataclass_fields__)


def test_values_from_the_papers(text: str) -> None:
    rows = dict(re.findall(r"^\| ([\w' ]+) \| (.+?) \|", text.partition("From the papers")[2], flags=re.MULTILINE))
    numbers = {what: [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", value)] for what, value in rows.items()}
    assert numbers["noise on the input"] == [consistency.NOISE_STD, consistency.NOISE_LIMIT]
    assert numbers["weight of the consistency"][:2] == [mean_teacher.CONSISTENCY_WEIGHT, consistency.RAMP_EXPONENT]
    assert numbers["decay of the moving average"] == [mean_teacher.DECAY]
    assert numbers["passes for the entropy"] == [uamt.NUM_PASSES]
    assert numbers["threshold of the entropy"][:2] == [3, 4]
    assert uamt.FIRST_THRESHOLD == 3 / 4
    assert numbers["weight of the other's argmax"] == [cross_pseudo_supervision.CROSS_WEIGHT]
