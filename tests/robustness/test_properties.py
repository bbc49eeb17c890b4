"""What holds for any input: parsers give a value or an expected error, the ranking is an order, the curriculum divides what there is.

Examples are the same in every run (`derandomize`), so that a failure is a defect and not a draw.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nnunet_ssl.cli import pseudolabel
from nnunet_ssl.cli.arguments import method_assignments
from nnunet_ssl.confidence.curriculum import rank_cases, select, stage_size
from nnunet_ssl.config import CurriculumConfig, MethodConfig
from nnunet_ssl.data.case_names import name_problem, shown
from nnunet_ssl.data.image_files import channels_by_case, complete_cases
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.overlay import _read_overlay
from nnunet_ssl.data.pool_index import index_content, read_index
from nnunet_ssl.errors import ConfigError, NnsslError

SAME = settings(derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)
CASES = st.text("abAB_0 é", min_size=1, max_size=5)
POOLS = st.dictionaries(CASES, st.tuples(st.none() | st.floats(), st.sampled_from("xyz")), min_size=1, max_size=40)


def sections() -> st.SearchStrategy[dict[str, Any]]:
    """An `nnssl` section of which one value is another."""
    sound = MethodConfig().to_dict()
    places = [(part, name) for part, content in sound.items() if isinstance(content, dict) for name in content]
    return st.tuples(st.sampled_from(places), VALUES).map(lambda t: {**sound, t[0][0]: {**sound[t[0][0]], t[0][1]: t[1]}})


# ---- parsers


@SAME
@given(VALUES | sections())
@example([["schema", 1]])
@example({"curriculum": {"fractions": [1e400]}})
def test_settings_are_read_or_refused(section: Any) -> None:
    try:
        method = MethodConfig.from_dict(section)
    except ConfigError as error:
        assert str(error)  # noqa: PT017 (any other error is what fails)
    else:
        assert MethodConfig.from_dict(json.loads(json.dumps(method.to_dict()))) == method


@SAME
@given(st.sampled_from(["student.cutmix", "student.tau", "curriculum.fractions", "student", "x.y", "", "student.ema"]), st.text(max_size=8))
@example("student.tau", "[NaN]")
@example("curriculum.seed", "-1")
@example("student.length.num_epochs", "1e3")
def test_set_is_read_or_refused(name: str, value: str) -> None:
    arguments = pseudolabel.parser().parse_args(["-d", "1", "-c", "2d", "-f", "0", f"--set={name}={value}"])
    try:
        method = MethodConfig().with_settings(method_assignments(arguments))
    except ConfigError:
        return
    assert MethodConfig.from_dict(method.to_dict()) == method


def manifests() -> st.SearchStrategy[Any]:
    """A manifest of which one entry is another."""
    sound = {
        "dataset": "D", "configuration": "2d", "plans": "p", "fold": 0, "teacher_trainer": "t", "teacher_folds": [0],
        "teacher_fingerprint": "f", "student_trainer": "s", "pool": ["a"], "dataset_ids": [601], "method": MethodConfig().to_dict(),
        "stages": [], "published": False, "predictions": None, "accepted": {}, "groups": {}, "left_out_groups": [], "schema": 3,
    }  # fmt: skip
    return VALUES | st.tuples(st.sampled_from(sorted(sound)), VALUES).map(lambda t: {**sound, t[0]: t[1]}) | st.just(sound)


@SAME
@given(manifests(), st.integers(0, 400))
def test_manifest_is_read_or_refused_by_name(content: Any, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.json"
        text = json.dumps(content)
        path.write_text(text[:cut] if cut % 2 else text)
        try:
            manifest = Manifest.load(Path(folder))
        except NnsslError as error:
            assert "manifest.json" in str(error)  # noqa: PT017
        else:
            assert manifest is not None
            assert isinstance(manifest.pool, list)


@SAME
@given(VALUES | st.fixed_dictionaries({"schema": st.just(1), "cases": VALUES, "skipped": VALUES, "folders": VALUES}))
@example({"schema": 1, "cases": {"a": {"images": ["a_0000.nii.gz"], "stamp": [[1, 2]]}}, "skipped": {}, "folders": []})
@example({"schema": 1, "cases": {"../a": {"images": ["a_0000.nii.gz"], "stamp": [[1, 2]]}}, "skipped": {}, "folders": []})
def test_pool_index_is_read_or_refused_by_name(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.json"
        path.write_text(json.dumps(content))
        try:
            pool = read_index(Path(folder), path)
        except NnsslError as error:
            assert "index.json" in str(error)  # noqa: PT017
            assert index_content(path) is None
        else:
            assert all("/" not in case for case in pool.case_ids)


@SAME
@given(
    VALUES | st.dictionaries(st.sampled_from(["batch_size", "features", "nnssl", "network", "gpu_memory_target", "description"]), VALUES)
)
@example({"features": {"base": 4, "max": 8}, "batch_size": 2})
def test_overlay_is_read_or_refused_by_name(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overlay.json"
        path.write_text(json.dumps(content))
        try:
            overlay, name = _read_overlay(str(path))
        except NnsslError as error:
            assert "overlay.json" in str(error)  # noqa: PT017
        else:
            assert (overlay, name) == (content, "overlay")


NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12)


@SAME
@given(st.lists(NAMES, max_size=5, unique=True), st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
def test_every_image_is_in_a_case_or_has_a_reason(names: list[str], channels: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in names:
            for channel in channels:
                (root / f"{name}_{channel:04d}.nii.gz").touch()
        grouped, bad = channels_by_case(root, ".nii.gz")
        complete, incomplete = complete_cases(grouped, root, ".nii.gz", 1)
        for name in names:
            assert (name in complete) + (shown(name) in bad) + (name in incomplete) == 1
        assert all(name_problem(case) is None for case in complete)
        assert all(shown(reason) == reason for reason in [*bad.values(), *incomplete.values()])


# ---- ranking


@SAME
@given(POOLS, st.sampled_from(["ranked", "random", "reverse", "all-at-once", "drop-most-confident"]), st.integers(0, 3))
def test_a_ranking_is_an_order_that_only_the_input_decides(pool: dict[str, Any], order: str, seed: int) -> None:
    scores, strata = {c: score for c, (score, _) in pool.items()}, {c: stratum for c, (_, stratum) in pool.items()}
    ranking = rank_cases(scores, strata, order=order, seed=seed, dropped_share=0.3)
    backwards = [dict(reversed(list(mapping.items()))) for mapping in (scores, strata)]
    assert ranking == rank_cases(*backwards, order=order, seed=seed, dropped_share=0.3)
    assert sorted(ranked.case for ranked in ranking) == sorted(pool)
    assert [ranked.rank for ranked in ranking] == list(range(1, len(pool) + 1))


@SAME
@given(POOLS)
def test_better_cases_of_a_stratum_come_first_and_ties_by_id(pool: dict[str, Any]) -> None:
    ranking = rank_cases({c: score for c, (score, _) in pool.items()}, {c: stratum for c, (_, stratum) in pool.items()})
    for stratum in "xyz":
        found = [(-r.score, r.case) for r in ranking if r.stratum == stratum and r.score is not None]
        assert found == sorted(found)
    unscored = [r.case for r in ranking if r.score is None]
    assert unscored == sorted(unscored)
    assert [r.case for r in ranking[len(ranking) - len(unscored) :]] == unscored


@SAME
@given(POOLS)
def test_every_prefix_holds_the_share_of_every_stratum(pool: dict[str, Any]) -> None:
    finite = {c: (score, stratum) for c, (score, stratum) in pool.items() if score is not None and math.isfinite(score)}
    ranking = rank_cases({c: s for c, (s, _) in finite.items()}, {c: stratum for c, (_, stratum) in finite.items()})
    for place in range(1, len(ranking) + 1):
        for stratum in "xyz":
            share = place * sum(s == stratum for _, s in finite.values()) / len(ranking)
            assert abs(sum(r.stratum == stratum for r in ranking[:place]) - share) < 1


# ---- curriculum

FRACTIONS = st.lists(st.floats(1e-3, 1), min_size=1, max_size=6, unique=True).map(sorted)


@SAME
@given(FRACTIONS, st.integers(1, 5000))
@example([0.29, 1.0], 100)
def test_stages_grow_and_contain_the_ones_before(fractions: list[float], num_cases: int) -> None:
    sizes = [stage_size(fraction, num_cases) for fraction in fractions]
    for fraction, size in zip(fractions, sizes, strict=True):
        exact = max(1, math.floor(fraction * num_cases))
        assert size in (exact, exact + 1)  # one more only where floating point falls short of a whole number
        assert size == exact or fraction * num_cases > exact + 1 - 1e-5
    assert sizes == sorted(sizes)
    ranking = rank_cases({f"c{i}": float(i) for i in range(min(num_cases, 30))}, {f"c{i}": "x" for i in range(min(num_cases, 30))})
    chosen = [[r.case for r in select(ranking, fraction)] for fraction in fractions]
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(chosen))


@SAME
@given(FRACTIONS, st.floats(0.01, 1), st.integers(1, 2000))
def test_epochs_of_the_stages_sum_up_to_the_total(fractions: list[float], share: float, total: int) -> None:
    curriculum = CurriculumConfig(fractions=tuple(fractions), last_stage_share=share)
    if total < len(fractions):
        with pytest.raises(ConfigError, match="cannot be divided"):
            curriculum.stage_epochs(total)
        return
    epochs = curriculum.stage_epochs(total)
    assert sum(epochs) == total
    assert min(epochs) >= 1
    last = len(fractions)
    assert [curriculum.epochs_of(t, total, is_last=t == last) for t in range(1, last + 1)] == list(epochs)
