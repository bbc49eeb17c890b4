"""Verdicts on case scores from held-out cases."""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from nnunet_ssl.confidence.case_bootstrap import resample_cases
from nnunet_ssl.confidence.ranking_proof import prove_ranking, prove_score
from nnunet_ssl.errors import StateError

CASES = "abcdefgh"
DICE = dict(zip(CASES, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], strict=True))


def by_case(values: Sequence[float | None]) -> dict[str, float | None]:
    return dict(zip(CASES, values, strict=False))


ORDERED = by_case(range(8))
REVERSED = by_case(range(8, 0, -1))
SHUFFLED = by_case([4, 1, 7, 2, 0, 6, 3, 5])


def test_the_three_verdicts() -> None:
    proven, refuted, unproven = (prove_score("mean", scores, DICE) for scores in (ORDERED, REVERSED, SHUFFLED))
    assert (proven.verdict, proven.interval, proven.spearman) == ("proven", (1, 1), pytest.approx(1))
    assert (refuted.verdict, refuted.interval, refuted.spearman) == ("refuted", (-1, -1), pytest.approx(-1))
    assert unproven.verdict == "unproven"
    # ranks differ by 4, 0, 5, 1, 4, 1, 3, 2
    assert unproven.spearman == pytest.approx(1 - 6 * 72 / (8 * 63))
    assert unproven.interval is not None
    assert unproven.interval[0] < 0 < unproven.interval[1]
    assert refuted.reason == "mean is refuted: rank correlation -1.00 in 8 held-out cases, 95 % interval -1.00 to -1.00 lies below 0."


def test_interval_is_the_percentile_bootstrap_over_cases() -> None:
    s, d = np.array(list(SHUFFLED.values()), dtype=float), np.array(list(DICE.values()))
    correlations = [
        stats.spearmanr(s[rows], d[rows]).statistic for rows in resample_cases(np.zeros(8, dtype=np.intp), seed=7) if len(set(rows)) > 1
    ]
    proof = prove_score("mean", SHUFFLED, DICE, seed=7)
    assert proof.interval == pytest.approx(tuple(np.quantile(correlations, [0.025, 0.975])))


def test_areas_by_hand() -> None:
    proof = prove_score("mean", by_case([1, 3, 2]), {"a": 0.4, "b": 0.9, "c": 0.8})
    # losses in order 0.1, 0.2, 0.6
    assert proof.aurc == pytest.approx((0.1 + 0.15 + 0.3) / 3)
    assert proof.augrc == pytest.approx((0.1 + 0.3 + 0.9) / 9)
    assert proof.random_aurc == pytest.approx(0.3)
    assert proof.random_augrc == pytest.approx(0.3 * 4 / 6)


@pytest.mark.parametrize(
    ("scores", "dice", "reason"),
    [
        (by_case([1, 2, 3]), DICE, "too few held-out cases with score and Dice, 3 where 4"),
        (by_case([1, 2, 3, None, float("nan")]), DICE, "too few held-out cases with score and Dice, 3 where 4"),
        ({}, {}, "too few held-out cases with score and Dice, 0 where 4"),
        (by_case([1.0] * 8), DICE, "the score is the same in all 8"),
        (ORDERED, dict.fromkeys(CASES, 0.5), "the true Dice is the same in all 8"),
        # a resample needs "a", "d" and, next to each, another case: less than half of them do
        (by_case([1, 0, 0, 0]), {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.9}, "too many of the 4"),
    ],
)
def test_no_proof_without_cases_that_differ(scores: dict[str, float | None], dice: dict[str, float], reason: str) -> None:
    proof = prove_score("mean", scores, dice)
    assert (proof.verdict, proof.interval) == ("unproven", None)
    assert reason in proof.reason
    assert proof.reason.startswith("mean is unproven: ")


def test_few_cases_in_perfect_order_may_be_chance() -> None:
    for scores, rho in (([1, 2, 3, 4], "1.00"), ([4, 3, 2, 1], "-1.00")):
        proof = prove_score("mean", by_case(scores), DICE)
        assert (proof.verdict, proof.interval) == ("unproven", (float(rho), float(rho)))
        chance = "which 4.2 % of all orders reach by chance"
        assert proof.reason == f"mean is unproven: rank correlation {rho} in 4 held-out cases, {chance}."
    assert prove_score("mean", by_case([1, 2, 3, 4, 5]), DICE).verdict == "proven"  # 1 of 120 orders
    # 4 neighbours and the perfect order itself are 5 of 120
    swapped = prove_score("mean", by_case([1, 2, 3, 5, 4]), DICE)
    assert (swapped.verdict, swapped.spearman) == ("unproven", pytest.approx(0.9))


@pytest.mark.parametrize(("num_cases", "percent"), [(4, 0), (5, 0.8), (6, 1.7)])
def test_how_often_a_score_that_means_nothing_is_proven(num_cases: int, percent: float) -> None:
    # every order of the cases is then as likely as any other
    orders = list(itertools.permutations(range(num_cases)))
    verdicts = Counter(prove_score("mean", by_case(order), DICE).verdict for order in orders)
    for verdict in ("proven", "refuted"):
        assert round(100 * verdicts[verdict] / len(orders), 1) == percent


def test_how_often_the_best_of_four_scores_that_mean_nothing_is_proven() -> None:
    """Choosing and proving on the same cases would find something in up to one of eight data sets."""
    random, verdicts = np.random.default_rng(0), Counter[str]()
    names = [f"case_{number}" for number in range(20)]
    for _ in range(60):
        scores = {name: dict(zip(names, random.normal(size=20), strict=True)) for name in ("pairwise_dice", "a", "b", "c")}
        verdicts[prove_ranking(scores, dict(zip(names, random.uniform(size=20), strict=True))).verdict] += 1
    assert verdicts["proven"] <= 5


def test_areas_are_of_all_cases_those_without_the_score_last() -> None:
    """In "d" nothing was found: it has a mean confidence, a high one, and no other score."""
    dice = {"a": 0.9, "b": 0.6, "c": 0.8, "d": 0.0}
    scores = {"pairwise_dice": by_case([0.9, 0.7, 0.8, None]), "mean": by_case([0.98, 0.96, 0.97, 0.99]), "softmax": by_case([3, 2, 1])}
    proofs = prove_ranking(scores, dice).proofs
    # losses in order 0.1, 0.2, 0.4, 1; 1, 0.1, 0.2, 0.4; 0.1, 0.4, 0.2, 1
    expected = {
        "pairwise_dice": ((0.1 + 0.3 / 2 + 0.7 / 3 + 1.7 / 4) / 4, (0.1 + 0.3 + 0.7 + 1.7) / 16),
        "mean": ((1.0 + 1.1 / 2 + 1.3 / 3 + 1.7 / 4) / 4, (1.0 + 1.1 + 1.3 + 1.7) / 16),
        "softmax": ((0.1 + 0.5 / 2 + 0.7 / 3 + 1.7 / 4) / 4, (0.1 + 0.5 + 0.7 + 1.7) / 16),
    }
    for name, areas in expected.items():
        assert (proofs[name].aurc, proofs[name].augrc) == pytest.approx(areas)
        assert (proofs[name].random_aurc, proofs[name].random_augrc) == pytest.approx((0.425, 0.425 * 5 / 8))
    assert len({(proof.random_aurc, proof.random_augrc) for proof in proofs.values()}) == 1
    # the rank correlation is of the cases that have the score
    assert (proofs["pairwise_dice"].spearman, proofs["pairwise_dice"].num_cases) == (pytest.approx(1), 3)
    assert (proofs["mean"].spearman, proofs["mean"].num_cases) == (pytest.approx(-0.2), 4)


def test_cases_without_the_score_have_no_order_among_themselves() -> None:
    # the third and fourth place hold 0.4 or 0.8
    proof = prove_score("mean", by_case([2, None, 1, float("nan")]), {"a": 0.9, "b": 0.6, "c": 0.7, "d": 0.2})
    assert proof.augrc == pytest.approx((0.1 + 0.4 + 1.0 + 1.6) / 16)


def test_without_cases_there_are_no_figures() -> None:
    proof = prove_score("mean", {}, DICE)
    assert (proof.num_cases, proof.num_unscored) == (0, 8)
    assert (proof.spearman, proof.aurc, proof.augrc) == (None,) * 3
    assert (proof.random_aurc, proof.random_augrc) == pytest.approx((0.45, 0.45 * 9 / 16))
    proof = prove_score("mean", ORDERED, {})
    assert (proof.aurc, proof.augrc, proof.random_aurc, proof.random_augrc) == (None,) * 4


def test_cases_without_score_or_dice_are_counted_and_have_no_say_in_the_verdict() -> None:
    scores = by_case([None, 2, 3, 4, 5, 6, float("nan"), 8])
    proof = prove_score("mean", scores, {**DICE, "h": float("nan")})
    assert (proof.num_cases, proof.num_unscored) == (5, 2)
    kept = {case: value for case, value in DICE.items() if case in "bcdef"}
    expected = prove_score("mean", {case: scores[case] for case in kept}, kept)
    assert (proof.spearman, proof.interval, proof.reason) == (expected.spearman, expected.interval, expected.reason)
    # without a Dice there is no loss either
    assert proof.random_aurc == pytest.approx(1 - (0.2 + 0.3 + 0.4 + 0.5 + 0.6 + 0.7 + 0.8) / 7)


def test_same_input_same_proof_however_the_mappings_are_sorted() -> None:
    proof = prove_score("mean", SHUFFLED, DICE, seed=1)
    assert proof == prove_score("mean", dict(reversed(SHUFFLED.items())), dict(reversed(DICE.items())), seed=1)
    assert proof.interval != prove_score("mean", SHUFFLED, DICE, seed=2).interval


def test_all_scores_are_proven_and_one_is_chosen() -> None:
    scores = {"softmax": ORDERED, "pairwise_dice": SHUFFLED, "foreground": ORDERED, "mean": REVERSED}
    choice = prove_ranking(scores, DICE)
    assert {name: proof.verdict for name, proof in choice.proofs.items()} == {
        "foreground": "proven",
        "mean": "refuted",
        "pairwise_dice": "unproven",
        "softmax": "proven",
    }
    assert (choice.chosen, choice.verdict) == ("foreground", "proven")
    # it was chosen among three by the cases that prove it
    assert choice.proofs["foreground"] == prove_score("foreground", ORDERED, DICE, level=0.05 / 3)
    assert "98.3 % interval" in choice.proofs["foreground"].reason
    assert "foreground ranks instead of pairwise_dice" in choice.reason
    assert choice.proofs["mean"] == prove_score("mean", REVERSED, DICE)


def test_the_score_in_use_stays_where_none_is_better() -> None:
    choice = prove_ranking({"pairwise_dice": ORDERED, "mean": REVERSED}, DICE)
    assert (choice.chosen, choice.verdict) == ("pairwise_dice", "proven")
    assert choice.reason.startswith("pairwise_dice ranks: ")
    few = prove_ranking({"pairwise_dice": SHUFFLED, "mean": ORDERED}, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert (few.chosen, few.verdict) == ("pairwise_dice", "unproven")


def test_proofs_go_to_json_and_back() -> None:
    proof = asdict(prove_score("mean", SHUFFLED, DICE))
    assert json.loads(json.dumps(proof)) == {**proof, "interval": list(proof["interval"])}


def test_a_score_in_use_that_was_not_measured_is_refused() -> None:
    with pytest.raises(StateError, match="'pairwise_dice', but held-out cases have only: mean"):
        prove_ranking({"mean": ORDERED}, DICE)
    with pytest.raises(StateError, match="have only: none"):
        prove_ranking({}, DICE)


def test_a_dice_in_percent_is_refused() -> None:
    with pytest.raises(StateError, match="case 'a' is 91"):
        prove_score("mean", ORDERED, {"a": 91.0})


# ---- strata


NAMES = [f"case_{number:02d}" for number in range(16)]
STRATA = {name: "rim" if number < 8 else "rim+core" for number, name in enumerate(NAMES)}


def of_strata(random: np.random.Generator, *, shift: float, relation: float) -> tuple[dict[str, float | None], dict[str, float]]:
    """Scores and Dice of two strata: related within them, and both `shift` (in standard deviations; negative: against each other) apart."""
    own, noise = random.normal(size=(2, len(NAMES)))
    upper = np.array([STRATA[name] == "rim+core" for name in NAMES])
    dice = 0.5 + 0.05 * (relation * own + np.sqrt(1 - relation**2) * noise + abs(shift) * upper)
    return dict(zip(NAMES, own + shift * upper, strict=True)), dict(zip(NAMES, dice.tolist(), strict=True))


@pytest.mark.parametrize(("shift", "relation", "verdict"), [(3, 0.0, "proven"), (-3, 0.8, "refuted")])
def test_what_tells_strata_apart_is_no_ranking(shift: float, relation: float, verdict: str) -> None:
    """The curriculum ranks within strata: a score that says nothing there is not proven, and one that ranks well there not refuted."""
    random, together, within = np.random.default_rng(1), Counter[str](), Counter[str]()
    for _ in range(40):
        scores, dice = of_strata(random, shift=shift, relation=relation)
        together[prove_score("mean", scores, dice).verdict] += 1
        within[prove_score("mean", scores, dice, strata=STRATA).verdict] += 1
    assert together[verdict] > 10
    assert within[verdict] <= 3
    if relation:
        assert within["proven"] > 25


@pytest.mark.parametrize(
    ("sizes", "least_orders"),
    [([2, 2, 2], 8), ([2, 2, 2, 2], 16), ([3, 2, 2], 24), ([3, 3, 2], 72), ([4, 4], 576), ([5, 3, 2], 1440), ([8, 8], 40320**2)],
)
def test_small_strata_prove_nothing_by_chance(sizes: list[int], least_orders: int) -> None:
    """Cases of a pair are each other's mirror image once their mean is taken off: they are one case and not two."""
    random, verdicts = np.random.default_rng(0), Counter[str]()
    names = NAMES[: sum(sizes)]
    strata = dict(zip(names, np.repeat([*"abcd"][: len(sizes)], sizes).tolist(), strict=True))
    for _ in range(200):
        own, dice = random.normal(size=len(names)), random.uniform(size=len(names))
        proof = prove_score("mean", dict(zip(names, own, strict=True)), dict(zip(names, dice, strict=True)), strata=strata)
        verdicts[proof.verdict] += 1
    # 2.5 % of 200 on each side are 5, and 11 or more of them come in one of a hundred such tests
    assert max(verdicts["proven"], verdicts["refuted"]) <= 10
    if least_orders < 40:
        assert verdicts["unproven"] == 200
    ordered = {name: 0.01 * number for number, name in enumerate(names)}
    perfect = prove_score("mean", ordered, ordered, strata=strata)
    assert perfect.verdict == ("unproven" if least_orders < 40 else "proven")


def test_one_stratum_is_none() -> None:
    assert prove_score("mean", SHUFFLED, DICE, strata=dict.fromkeys(CASES, "rim")) == prove_score("mean", SHUFFLED, DICE)


def test_a_case_alone_in_its_stratum_is_not_judged() -> None:
    strata = dict.fromkeys(CASES, "rim") | {"a": "none", "b": "core", "c": "core"}
    proof = prove_score("mean", ORDERED, DICE, strata=strata)
    assert (proof.num_cases, proof.num_unscored, proof.num_alone) == (7, 0, 1)
    # within "core" -0.5, 0.5 and in "rim" -2 ... 2, in order on both sides
    assert proof.spearman == pytest.approx(1)
    assert proof.aurc == prove_score("mean", ORDERED, DICE).aurc


def test_the_score_is_chosen_within_strata() -> None:
    """One score orders the strata and nothing else, the other the cases within them."""
    between = dict(zip(NAMES, [0.0] * 8 + [1.0] * 8, strict=True))
    within = dict(zip(NAMES, [*range(8), *range(-8, 0)], strict=True))
    dice = dict(zip(NAMES, [0.1 + 0.01 * i for i in range(8)] + [0.8 + 0.01 * i for i in range(8)], strict=True))
    noisy = {name: value + 0.3 * np.sin(7 * i) for i, (name, value) in enumerate(between.items())}
    scores = {"pairwise_dice": noisy, "mean": within}
    assert prove_ranking(scores, dice).chosen == "pairwise_dice"
    assert prove_ranking(scores, dice, strata=STRATA).chosen == "mean"


@pytest.mark.parametrize("num_cases", [8, 12])
def test_ties_of_many_cases_are_no_proof(num_cases: int) -> None:
    """Most cases were missed altogether: of the two others resamples have either, both or none, and the interval believes them."""
    random, verdicts = np.random.default_rng(2), Counter[str]()
    names = [f"case_{number:02d}" for number in range(num_cases)]
    for _ in range(100):
        dice = dict.fromkeys(names, 0.0) | {names[0]: 0.7, names[1]: 0.8}
        verdicts[prove_score("mean", dict(zip(names, random.normal(size=num_cases), strict=True)), dice).verdict] += 1
    assert max(verdicts["proven"], verdicts["refuted"]) <= 6
