"""Rows of the table that holds the scores against the baseline and chance."""

from dataclasses import asdict

import pytest

from nnunet_ssl.confidence.ranking_proof import prove_ranking
from nnunet_ssl.confidence.ranking_table import RankingRow, ranking_rows

DICE = {"a": 0.9, "b": 0.6, "c": 0.8, "d": 0.0}
SCORES: dict[str, dict[str, float | None]] = {
    "softmax": {"a": 3.0, "b": 2.0, "c": 1.0},
    "pairwise_dice": {"a": 0.9, "b": 0.7, "c": 0.8, "d": None},
    "mean": {"a": 0.98, "b": 0.96, "c": 0.97, "d": 0.99},
    "foreground": {},
}


def test_rows_by_hand() -> None:
    rows = ranking_rows(asdict(prove_ranking(SCORES, DICE)))
    assert [row.name for row in rows] == ["foreground", "mean", "pairwise_dice (chosen)", "softmax (baseline)", "random order"]
    none, mean, chosen, baseline, chance = rows
    assert none[1:] == (None, None, None)
    # losses in order 1, 0.1, 0.2, 0.4; 0.1, 0.2, 0.4, 1; 0.1, 0.4, 0.2, 1
    assert mean[1:] == pytest.approx((-0.2, (1.0 + 1.1 / 2 + 1.3 / 3 + 1.7 / 4) / 4, 5.1 / 16))
    assert chosen[1:] == pytest.approx((1.0, (0.1 + 0.3 / 2 + 0.7 / 3 + 1.7 / 4) / 4, 2.8 / 16))
    assert baseline[1:] == pytest.approx((0.5, (0.1 + 0.5 / 2 + 0.7 / 3 + 1.7 / 4) / 4, 3.0 / 16))
    assert chance.spearman is None
    assert chance[2:] == pytest.approx((0.425, 0.425 * 5 / 8))


def test_figures_that_a_proof_lacks_are_not_defined() -> None:
    rows = ranking_rows({"chosen": "mean", "proofs": {"mean": {"reason": "mean is unproven.", "spearman": None}}})
    assert rows == (RankingRow("mean (chosen)", None, None, None), RankingRow("random order", None, None, None))
