"""The order of the pool: proportional prefixes, determinism, sizes of stages."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ssl.confidence.curriculum import rank_cases, select, stage_size
from nnunet_ssl.errors import ConfigError, StateError

SCORES = {"a": 0.9, "b": 0.8, "c": 0.8, "d": None, "e": 0.1, "f": 0.95}
ONE = dict.fromkeys(SCORES, "all")


def order_of(scores: dict[str, float | None], strata: dict[str, str], order: str = "ranked", seed: int = 0) -> list[str]:
    return [r.case for r in rank_cases(scores, strata, order, seed)]


def test_better_scores_first_ties_by_id_none_last() -> None:
    ranking = rank_cases(SCORES, ONE)
    assert [r.case for r in ranking] == ["f", "a", "b", "c", "e", "d"]
    assert [r.rank for r in ranking] == [1, 2, 3, 4, 5, 6]
    assert [r.case for r in ranking if r.listed_for_review] == ["d"]
    assert ranking[0].score == 0.95
    assert ranking[-1].score is None


def test_orders() -> None:
    assert order_of(SCORES, ONE, "reverse") == ["e", "c", "b", "a", "f", "d"]
    assert order_of(SCORES, ONE, "all-at-once") == order_of(SCORES, ONE)
    random = order_of(SCORES, ONE, "random", seed=1)
    assert random == order_of(SCORES, ONE, "random", seed=1)
    assert random[-1] == "d"
    assert sorted(random) == sorted(SCORES)
    assert len({tuple(order_of(SCORES, ONE, "random", seed=s)) for s in range(10)}) > 1
    with pytest.raises(ConfigError, match="'best'"):
        rank_cases(SCORES, ONE, "best")


@pytest.mark.parametrize("seed", range(5))
def test_random_order_of_the_others_stays_when_a_case_loses_its_score(seed: int) -> None:
    """Else the cases of a stage would leave in the next one, which they do not where they are ranked."""
    scores: dict[str, float | None] = {f"case_{i:03d}": 0.5 for i in range(60)}
    strata = dict.fromkeys(scores, "s")
    before = order_of(scores, strata, "random", seed)
    assert before != sorted(before)
    for gone in ("case_007", "case_042"):
        fewer = {**scores, gone: None}
        assert order_of(fewer, strata, "random", seed) == [*(case for case in before if case != gone), gone]
        without = {case: score for case, score in scores.items() if case != gone}
        assert order_of(without, strata, "random", seed) == [case for case in before if case != gone]


@pytest.mark.parametrize("order", ["ranked", "random", "reverse"])
def test_order_does_not_depend_on_the_mapping(order: str) -> None:
    strata = {case: "xy"[i % 2] for i, case in enumerate(SCORES)}
    turned = dict(reversed(SCORES.items()))
    assert order_of(SCORES, strata, order, 3) == order_of(turned, dict(reversed(strata.items())), order, 3)


def test_broken_scores_are_listed_for_review() -> None:
    ranking = rank_cases({"a": float("nan"), "b": 0.1}, {"a": "s", "b": "s"})
    assert [(r.case, r.score, r.listed_for_review) for r in ranking] == [("b", 0.1, False), ("a", None, True)]


def test_an_easy_stratum_does_not_come_first() -> None:
    # four easy cases of scanner x, two hard ones of scanner y
    scores: dict[str, float | None] = {"x1": 0.99, "x2": 0.98, "x3": 0.97, "x4": 0.96, "y1": 0.2, "y2": 0.1}
    strata = {case: case[0] for case in scores}
    ranked = order_of(scores, strata)
    assert Counter(case[0] for case in ranked[:3]) == {"x": 2, "y": 1}
    assert [case for case in ranked if case[0] == "x"] == ["x1", "x2", "x3", "x4"]
    assert [case for case in ranked if case[0] == "y"] == ["y1", "y2"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(["ranked", "random", "reverse"]), st.integers(0, 5))
def test_every_prefix_holds_each_stratum_in_proportion(sizes: list[int], order: str, seed: int) -> None:
    strata = {f"{s}-{i}": str(s) for s, size in enumerate(sizes) for i in range(size)}
    # strata of very different quality
    scores: dict[str, float | None] = {case: 1 / (1 + 10 * int(s) + int(case[2:])) for case, s in strata.items()}
    cases = order_of(scores, strata, order, seed)
    assert sorted(cases) == sorted(scores)
    for place in range(1, len(cases) + 1):
        counts = Counter(strata[case] for case in cases[:place])
        for s, size in enumerate(sizes):
            assert abs(counts[str(s)] - place * size / len(cases)) < 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=4), st.integers(0, 5))
def test_every_prefix_holds_each_group_in_proportion_and_in_it_each_stratum(sizes: list[list[int]], seed: int) -> None:
    names = [f"{g}{s}-{i}" for g, strata in enumerate(sizes) for s, size in enumerate(strata) for i in range(size)]
    scores: dict[str, float | None] = {case: 1 / (1 + 10 * int(case[0]) + int(case[3:])) for case in names}
    strata, groups = {case: case[1] for case in names}, {case: case[0] for case in names}
    for order in ("ranked", "random", "reverse"):
        cases = [r.case for r in rank_cases(scores, strata, order, seed, groups=groups)]
        assert sorted(cases) == sorted(names)
        for g, of_group in enumerate(sizes):
            inside = [case for case in cases if case[0] == str(g)]
            for place in range(1, len(cases) + 1):
                assert abs(sum(case[0] == str(g) for case in cases[:place]) - place * len(inside) / len(cases)) < 1
            for place in range(1, len(inside) + 1):
                for s, size in enumerate(of_group):
                    assert abs(sum(case[1] == str(s) for case in inside[:place]) - place * size / len(inside)) < 1


def test_a_group_of_bad_cases_enters_in_proportion() -> None:
    # all of the south is worse than all of the north, and has the same predicted classes
    scores: dict[str, float | None] = {**{f"n{i}": 0.9 - i / 100 for i in range(6)}, **{f"s{i}": 0.3 - i / 100 for i in range(3)}}
    strata, groups = dict.fromkeys(scores, "rim+core"), {case: "north" if case[0] == "n" else "south" for case in scores}
    assert [r.case for r in rank_cases(scores, strata)][:6] == [f"n{i}" for i in range(6)]
    ranking = rank_cases(scores, strata, groups=groups)
    assert [r.case for r in ranking] == ["n0", "s0", "n1", "n2", "s1", "n3", "n4", "s2", "n5"]
    assert {r.group for r in select(ranking, 1 / 3)} == {"north", "south"}
    assert [r.group for r in rank_cases(scores, strata)] == [None] * 9


def test_a_case_without_stratum_is_named() -> None:
    with pytest.raises(StateError, match="'a' has a score but no stratum"):
        rank_cases({"a": 0.5}, {})
    with pytest.raises(StateError, match="'a' has a score but no group"):
        rank_cases({"a": 0.5}, {"a": "rim"}, groups={"b": "north"})


@pytest.mark.parametrize(
    ("fraction", "n", "expected"), [(0.7, 10, 7), (0.1, 30, 3), (0.29, 100, 29), (0.1, 5, 1), (0.5, 5, 2), (1.0, 7, 7), (1 / 3, 30, 10)]
)
def test_stage_sizes(fraction: float, n: int, expected: int) -> None:
    assert stage_size(fraction, n) == expected


@given(st.integers(1, 100), st.integers(1, 2000))
def test_stage_sizes_are_exact_in_percent(percent: int, n: int) -> None:
    assert stage_size(percent / 100, n) == max(1, percent * n // 100)


@pytest.mark.parametrize("fraction", [0.0, 1.1, -0.5])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        stage_size(fraction, 10)


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(StateError, match="no cases"):
        select([], 0.5)


def test_stages_are_nested() -> None:
    strata = {case: "xy"[i % 2] for i, case in enumerate(SCORES)}
    ranking = rank_cases(SCORES, strata)
    stages = [select(ranking, k) for k in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert [len(s) for s in stages] == [1, 1, 2, 3, 4, 6]
    for smaller, larger in pairwise(stages):
        assert larger[: len(smaller)] == smaller
