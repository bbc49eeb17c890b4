"""Scores of the pool side by side, the order that follows from one of them, and the table that shows it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_setup import evidence_of

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.voxel_confidence import paper_confidence
from nnunet_ssl.config import CurriculumConfig, EvidenceConfig
from nnunet_ssl.data.ranking_file import COLUMNS, read_ranking, write_ranking
from nnunet_ssl.pseudolabel.pool_labels import CaseLabels
from nnunet_ssl.pseudolabel.ranking import PoolCaseScores, rank_pool, ranking_lines, score_pool_case

NAMES = ("background", "rim", "core")


def case_labels(evidence: Evidence, *, nonzero: Any = True) -> CaseLabels:
    shape = evidence.spatial_shape
    mask = np.broadcast_to(nonzero, shape)
    labels = evidence.predicted_labels()
    flat = labels.any(axis=0) if evidence.has_regions else labels
    empty = ~mask & (flat == 0)
    return CaseLabels(evidence, np.where(empty, -1, flat).astype(np.int16), paper_confidence(evidence), np.ones(shape, bool), mask, empty)


def test_scores_of_a_case() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1, 1], label[2, 2] = 1, 2
    found = score_pool_case("a", case_labels(evidence_of(label, doubt=0.1)), NAMES, 0.7)
    assert found.case == "a"
    assert found.stratum == "rim+core"
    assert found.foreground_voxels == 8
    assert found.confident_share == 1.0
    assert found.scores["foreground"] == pytest.approx(0.9 * 0.99)
    assert found.scores["mean"] == pytest.approx(0.9 * 0.99)
    assert set(found.scores) == {"pairwise_dice", "expected_dice", "foreground", "mean"}
    assert found.scores["expected_dice"] is None
    calibrated = score_pool_case("a", case_labels(evidence_of(label, doubt=0.1)), NAMES, 0.7, is_calibrated=True)
    # 4 voxels of each class at q = 0.9; the band holds all 64 voxels, 0.05 in each of the other 60
    assert calibrated.scores["expected_dice"] == pytest.approx(2 * 3.6 / (4 + 3.6 + 3.0))
    assert score_pool_case("a", case_labels(evidence_of(label, doubt=0.1)), NAMES, 0.95).confident_share == 0.0


def test_case_in_which_nothing_is_found() -> None:
    evidence = evidence_of(np.zeros((3, 3, 3), np.uint8), doubt=0.0)
    found = score_pool_case("a", case_labels(evidence), NAMES, 0.7)
    assert (found.stratum, found.foreground_voxels, found.confident_share) == ("none", 0, None)
    assert found.scores["pairwise_dice"] is None
    assert found.scores["foreground"] is None


def test_background_outside_the_mask_does_not_count_and_foreground_does() -> None:
    label = np.zeros((2, 2, 2), np.uint8)
    label[0], label[1, 0, 0] = 1, 2
    inside = np.array([True, False]).reshape(2, 1, 1)
    evidence = evidence_of(label, doubt=0.1)
    labels = case_labels(evidence, nonzero=inside)
    labels.confidence[:, labels.empty] = 0
    found = score_pool_case("a", labels, NAMES, 0.7)
    assert (found.stratum, found.foreground_voxels) == ("rim+core", 5)
    assert found.scores["mean"] == pytest.approx(0.9 * 0.99)


def test_strata_of_regions() -> None:
    mean = np.zeros((2, 2, 2, 2), np.float32)
    mean[0] = 0.9
    evidence = Evidence(mean=mean, variance=mean * 0, votes=mean.round(), num_samples=8, has_regions=True)
    found = score_pool_case("a", case_labels(evidence), ("whole", "core"), 0.7)
    assert (found.stratum, found.foreground_voxels) == ("whole", 8)


def scored(case: str, score: float | None, *, stratum: str = "rim", mean: float = 0.5) -> PoolCaseScores:
    return PoolCaseScores(case, {"pairwise_dice": score, "foreground": 0.5, "mean": mean}, tuple(stratum.split("+")), 10, 0.5)


CASES = [scored("a", 0.2, mean=0.9), scored("b", 0.8, mean=0.1), scored("c", None, mean=0.5)]


def ranked(evidence: EvidenceConfig | None = None, curriculum: CurriculumConfig | None = None) -> list[str]:
    return [r.case for r in rank_pool(CASES, evidence or EvidenceConfig(), curriculum or CurriculumConfig())]


def test_order_follows_the_chosen_score() -> None:
    assert ranked() == ["b", "a", "c"]
    assert ranked(EvidenceConfig(case_score="mean")) == ["a", "c", "b"]
    assert ranked(curriculum=CurriculumConfig(order="reverse")) == ["a", "b", "c"]
    assert ranked(curriculum=CurriculumConfig(order="all-at-once")) == ["b", "a", "c"]
    orders = {tuple(ranked(curriculum=CurriculumConfig(order="random", seed=s))) for s in range(8)}
    assert orders == {("a", "b", "c"), ("b", "a", "c")}


def test_table(tmp_path: Path) -> None:
    lines = ranking_lines(rank_pool(CASES, EvidenceConfig(), CurriculumConfig()), CASES, {"b": 1, "a": 2})
    write_ranking(tmp_path / "ranking.csv", lines)
    assert list(read_ranking(tmp_path / "ranking.csv")) == [
        replace(line, scores={"expected_dice": None, **dict(line.scores)}) for line in lines
    ]
    with (tmp_path / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [r["case"] for r in rows] == ["b", "a", "c"]
    assert [r["rank"] for r in rows] == ["1", "2", "3"]
    assert [r["stage"] for r in rows] == ["1", "2", ""]
    assert [r["score"] for r in rows] == ["0.800000", "0.200000", ""]
    assert [r["review"] for r in rows] == ["", "", "yes"]
    assert rows[1]["mean"] == "0.900000"
    assert [r["group"] for r in rows] == ["", "", ""]


def test_table_shows_the_group(tmp_path: Path) -> None:
    groups = {"a": "north", "b": "south", "c": "south"}
    ranking = rank_pool(CASES, EvidenceConfig(), CurriculumConfig(), groups)
    write_ranking(tmp_path / "ranking.csv", ranking_lines(ranking, CASES, {}))
    with (tmp_path / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["group"], r["stratum"]) for r in rows] == [("b", "south", "rim"), ("a", "north", "rim"), ("c", "south", "rim")]
