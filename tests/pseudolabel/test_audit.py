"""The audit: figures of held-out cases, shift of the pool, classes at risk and advice; nothing that a later stage would notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from cross_fitted import FOLDS, HELD_OUT, begin, rising, smaller
from scipy.stats import ks_2samp
from tiny_setup import (
    DATASET,
    LABELLED,
    POOL,
    Project,
    evidence_of,
    grow_stage,
    mtimes,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
)

from nnunet_ssl.confidence.case_scores import pairwise_dice
from nnunet_ssl.confidence.evidence import merge
from nnunet_ssl.confidence.predicted_dice import fit_dice_prediction
from nnunet_ssl.data.groups import keep_groups
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.pseudolabel.audit import RANDOM_ORDER, advise, audit
from nnunet_ssl.pseudolabel.domain_shift import Shift, compare, image_features
from nnunet_ssl.pseudolabel.held_out_study import study_held_out
from nnunet_ssl.run.audit_text import audit_lines, line_after

CPU = torch.device("cpu")
VOLUME = "predicted foreground, voxels"


def shift(p: float) -> Shift:
    return Shift(feature="sharpness", labelled_median=1.0, pool_median=2.0, statistic=0.9, p=p)


def test_audit_of_a_good_teacher(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    before = mtimes(cross_fitted.raw, cross_fitted.preprocessed)
    found = audit(run, device=CPU)
    assert mtimes(cross_fitted.raw, cross_fitted.preprocessed) == before
    assert run.manifest.stages == []
    assert set(found.dice) == {"rim", "core"}
    # teacher i misses i of the 13 planes of the ball
    assert found.dice["rim"][0] == pytest.approx(np.mean([case.dice["rim"] for case in found.study.cases]))  # type: ignore[union-attr]
    assert found.dice["rim"][1] == 5
    assert found.predicted is not None
    assert 0.8 < found.predicted.low <= found.predicted.mean <= found.predicted.high <= 1
    assert found.predicted.num_cases == len(POOL)
    assert found.at_risk == []
    assert found.label_first[0] == POOL[-1]
    content = json.loads((run.workspace / "audit.json").read_text())
    assert content["advice"] == found.advice
    assert len(content["study"]["cases"]) == 5
    text = "\n".join(audit_lines(found, run))
    assert "ranking: pairwise_dice is proven: rank correlation" in text
    assert f"advice: {found.advice}: {found.reason}" in text


def test_looking_changes_nothing_that_follows(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    audit(run, device=CPU)
    after_audit = grow_stage(run)
    assert after_audit.cases == POOL[:3]
    assert after_audit.stage == 1


def test_teacher_that_has_seen_every_label() -> None:
    assert advise(None, {}, [], []) == (
        "go on",
        "nothing could be measured, for no label is known to be unseen by a teacher; cross-fitted teachers would tell more",
    )


def test_fold_mode_says_that_it_only_looks(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    lines = audit_lines(audit(run, device=CPU), run)
    assert lines[1] == "held-out cases: 1 (looked at here, they decide nothing)"
    assert any(line.startswith("calibration: no calibration: ") for line in lines)
    assert "predicted Dice of the pool's labels: unknown" in lines


@pytest.mark.parametrize(
    ("dice", "at_risk", "shifts", "advice", "reason"),
    [
        ({"a": (0.1, 5)}, ["a"], [], "stop", "the held-out Dice is 0.10"),
        ({"a": (0.9, 5), "b": (0.4, 5)}, ["b"], [], "label first", "badly: b"),
        ({"a": (0.9, 5)}, [], [shift(0.01)], "label first", "the pool differs from the labelled cases (sharpness)"),
        ({"a": (0.9, 5)}, [], [shift(0.2)], "go on", "nothing speaks against the pool"),
    ],
)
def test_advice(cross_fitted: Project, dice: Any, at_risk: list[str], shifts: list[Shift], advice: str, reason: str) -> None:
    study = study_held_out(begin(cross_fitted, doubt=rising))
    found = advise(study, dice, at_risk, shifts)
    assert found[0] == advice
    assert reason in found[1]


def test_refuted_ranking_goes_on_in_random_order(cross_fitted: Project) -> None:
    study = study_held_out(begin(cross_fitted, doubt=lambda case: 0.2 - rising(case)))
    assert advise(study, {"a": (0.9, 5)}, [], []) == ("go on", "with cases in random order, since held-out cases refute the ranking")


def test_features_of_an_image(tmp_path: Path) -> None:
    image = np.zeros((1, 4, 4, 4), np.float32)
    image[0, :, :, 2:] = 10  # one step of 10 in 3 differences along one axis of three
    seg = np.zeros_like(image, dtype=np.int16)
    seg[0, :, :, 0] = -1
    image[seg < 0] = -5
    for name, array in (("a", image), ("a_seg", seg)):
        blosc2.asarray(array, urlpath=str(tmp_path / f"{name}.b2nd"), mode="w")
    write_pickle({}, str(tmp_path / "a.pkl"))
    found = image_features(tmp_path, ["a"], label="test")
    assert found["sharpness, channel 0"] == [pytest.approx(10 / 2 / 3)]  # the step from outside into the mask is none
    # inside the mask: 16 zeros and 32 tens
    assert found["intensity, 50th percentile, channel 0"] == [10.0]
    assert found["intensity, standard deviation, channel 0"] == [pytest.approx(10 * np.sqrt(2) / 3)]


def test_manual_foreground_on_empty_voxels_makes_no_shift(tmp_path: Path) -> None:
    """nnU-Net's mask has it inside in a labelled case; of a pool case nobody knows that it is foreground."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 6, 6)).astype(np.float32)
    empty = np.zeros((6, 6, 6), dtype=bool)
    empty[:2] = True  # air around, and a cyst
    image[:, empty] = [[-3], [-4]]
    image[0, 3, 3, 3] = -3  # empty in one channel alone
    of_pool = np.where(empty, -1, 0).astype(np.int16)
    of_labelled = of_pool.copy()
    of_labelled[1, 2:4, 2:4] = 1
    for case, seg in (("labelled", of_labelled), ("pool", of_pool)):
        for name, array in ((case, image), (f"{case}_seg", seg[None])):
            blosc2.asarray(array, urlpath=str(tmp_path / f"{name}.b2nd"), mode="w")
        write_pickle({}, str(tmp_path / f"{case}.pkl"))
    labelled, pool = (image_features(tmp_path, [case], label="test") for case in ("labelled", "pool"))
    assert labelled == pool
    assert labelled["intensity, 50th percentile, channel 0"] == [pytest.approx(float(np.median(image[0, ~empty])))]


def test_p_is_corrected_for_features_and_groups() -> None:
    random = np.random.default_rng(0)
    labelled, pool = ({"a": list(random.normal(size=40)), "b": list(random.normal(at, size=60))} for at in (0, 0.5))
    once = {s.feature: s.p for s in compare(labelled, pool)}
    for feature, p in once.items():
        alone = float(ks_2samp(labelled[feature], pool[feature]).pvalue)
        assert p == pytest.approx(min(1, 2 * alone))
    assert once["b"] < 0.5
    assert {s.feature: s.p for s in compare(labelled, pool, num_comparisons=2)}["b"] == pytest.approx(2 * once["b"])


def test_compare_finds_the_shifted_feature() -> None:
    random = np.random.default_rng(0)
    labelled = {"same": list(random.normal(size=40)), "moved": list(random.normal(size=40)), "labelled only": [1.0]}
    pool = {"same": [None, *random.normal(size=60)], "moved": list(random.normal(2, size=60))}
    found = compare(labelled, pool)
    assert [(s.feature, s.is_shifted) for s in found] == [("moved", True), ("same", False)]
    assert found[0].pool_median - found[0].labelled_median == pytest.approx(2, abs=0.5)


def begin_with_planes_missing(project: Project, held_out: int, pool: int) -> Any:
    """The teacher misses so many planes of every held-out case, and so many of every pool case."""
    run = begin(project, doubt=lambda _: 0.1, seen=lambda case: smaller(phantom(case)[1], held_out))
    for store in run.teacher_stores().values():
        write_evidence(store, doubt=lambda _: 0.1, label=lambda case: smaller(phantom(case)[1], pool))
    return run


def test_what_the_teacher_always_misses_is_no_shift(cross_fitted: Project) -> None:
    """Manual volumes against predicted ones would find every pool to differ."""
    found = audit(begin_with_planes_missing(cross_fitted, 4, 4), device=CPU)
    (shift,) = [s for s in found.shifts if s.feature == VOLUME]
    assert not shift.is_shifted
    held_out = [(smaller(phantom(case)[1], 4) > 0).sum() for case in HELD_OUT]
    assert shift.labelled_median == np.median(held_out)
    assert VOLUME not in found.reason


def test_what_the_teacher_misses_in_the_pool_alone_is_a_shift(cross_fitted: Project) -> None:
    found = audit(begin_with_planes_missing(cross_fitted, 0, 7), device=CPU)
    assert VOLUME in {s.feature for s in found.shifts if s.is_shifted}
    assert found.advice == "label first"


def test_teacher_that_is_less_certain_of_the_pool(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=lambda case: 0.05 + 0.002 * int(case[-1]))
    for store in run.teacher_stores().values():
        write_evidence(store, doubt=lambda case: 0.3 + 0.002 * int(case[-1]))
    (shift,) = [s for s in audit(run, device=CPU).shifts if s.feature == "case score pairwise_dice"]
    assert shift.is_shifted
    assert shift.pool_median < shift.labelled_median - 0.2


def test_class_that_no_teacher_finds_is_at_risk(cross_fitted: Project) -> None:
    found = audit(begin(cross_fitted, doubt=rising, seen=lambda case: np.minimum(phantom(case)[1], 1)), device=CPU)
    assert found.at_risk == ["core"]
    assert found.advice == "label first"
    assert "core" in found.reason


def test_class_that_is_found_badly_is_at_risk(cross_fitted: Project) -> None:
    """Half of the core is called rim: it is found, with a Dice below one half."""

    def seen(case: str) -> Any:
        label = phantom(case)[1].copy()
        label.flat[np.flatnonzero(label == 2)[::5]] = 0
        core = np.flatnonzero(label == 2)
        label.flat[core[: len(core) * 7 // 10]] = 1
        return label

    found = audit(begin(cross_fitted, doubt=rising, seen=seen), device=CPU)
    assert 0 < found.dice["core"][0] < 0.5
    assert found.study is not None
    assert found.study.blind == ()
    assert found.at_risk == ["core"]


def test_pool_is_predicted_by_scores_of_single_teachers(cross_fitted: Project) -> None:
    """All five together have 40 samples, whose pairwise Dice is another than that of the eight of one."""
    run = begin(cross_fitted, doubt=rising)
    found = audit(run, device=CPU)
    assert found.study is not None
    store = run.teacher_stores()[0]
    of_one = [pairwise_dice(store.read(case)).value for case in POOL]
    of_all = [pairwise_dice(merge([store.read(case)] * 5)).value for case in POOL]
    line = fit_dice_prediction([case.scores["pairwise_dice"] for case in found.study.cases], [c.mean_dice for c in found.study.cases])
    assert line is not None
    assert found.predicted is not None
    assert found.predicted.mean == pytest.approx(line.predict(of_one).mean(), abs=1e-4)
    assert abs(line.predict(of_all).mean() - line.predict(of_one).mean()) > 1e-3


def test_teacher_that_is_in_more_doubt_than_the_others(cross_fitted: Project) -> None:
    """Its scores are lower whatever the case: neither its held-out case nor the pool are worse for that."""

    def doubt(case: str) -> float:
        return 0.05 + 0.002 * int(case[-1])

    def begin_with_offset(offset: float) -> Any:
        run = begin(cross_fitted, doubt=doubt, seen=lambda case: phantom(case)[1], evidence__confidence="paper")
        for stores, cases in ((run.teacher_stores(), dict.fromkeys(FOLDS, POOL)), (run.held_out_stores(), run.held_out_cases)):
            for case in cases[0]:
                stores[0].write(case, evidence_of(phantom(case)[1], doubt=doubt(case) + offset))
        return run

    plain, offset = (audit(begin_with_offset(each), device=CPU) for each in (0.0, 0.1))
    assert plain.study is not None
    assert offset.study is not None
    effects = offset.study.teacher_effects["pairwise_dice"]
    assert effects[0] < -0.1
    assert effects[1] == pytest.approx(-effects[0] / 4)
    assert plain.study.teacher_effects["pairwise_dice"] == pytest.approx(dict.fromkeys(FOLDS, 0.0), abs=1e-6)
    scores = [{case.case: case.scores["pairwise_dice"] for case in found.study.cases} for found in (plain, offset)]  # type: ignore[union-attr]
    # all are lower by the share of the offset that lowers the mean of the teachers
    differences = [scores[0][case] - scores[1][case] for case in HELD_OUT]  # type: ignore[operator]
    assert np.ptp(differences) < 0.03
    assert plain.predicted is not None
    assert offset.predicted is not None
    assert offset.predicted.mean == pytest.approx(plain.predicted.mean, abs=0.01)
    assert not any(shift.is_shifted for shift in offset.shifts if shift.feature.startswith("case score"))


def test_audit_where_nothing_is_decided_judges_the_score_of_the_run(cross_fitted: Project) -> None:
    """The asked score is refuted, and another one would be better: the run ranks by the asked one all the same."""
    run = begin(cross_fitted, doubt=lambda case: 0.2 - rising(case), evidence__confidence="paper", evidence__case_score="foreground")
    found = audit(run, device=CPU)
    assert found.study is not None
    assert found.study.ranking.chosen == "foreground"
    assert "foreground ranks: held-out cases decide nothing here." in found.study.ranking.reason
    text = audit_lines(found, run)
    assert any(line.startswith("ranking: foreground is ") for line in text)
    without = advise(found.study, {"a": (0.9, 5)}, [], [], decides=False, has_stages=True)
    if found.study.ranking.verdict == "refuted":
        assert without == ("go on", "held-out cases refute the ranking, but decide nothing in this run")


def test_refuted_ranking_names_no_worst_cases(cross_fitted: Project) -> None:
    """Where the score says the wrong way round how good a case is, its last places are no worse than others."""
    run = begin(cross_fitted, doubt=lambda case: 0.2 - rising(case))
    found = audit(run, device=CPU)
    assert found.study is not None
    assert found.study.ranking.verdict == "refuted"
    by_score = [f"pool_{i}" for i in range(len(POOL))]  # doubt falls with the number: the first are ranked last
    assert sorted(found.label_first) == by_score
    assert found.label_first != by_score


def test_cases_without_a_score_are_told(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    for store in run.teacher_stores().values():
        write_evidence(
            store,
            doubt=lambda case: 0.0 if case in POOL[:2] else rising(case),
            label=lambda case: phantom(case)[1] * (case not in POOL[:2]),
        )
    text = audit_lines(audit(run, device=CPU), run)
    assert "  of 4 cases: in 2 nothing was found, about these it says nothing" in text


def test_class_that_a_fold_was_not_taught_is_named(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    found = audit(run, device=CPU)
    assert found.study is not None
    told = audit_lines(replace(found, study=replace(found.study, untaught={2: ["core"]})), run)
    assert "  no training case of fold 2 has core: its teacher cannot find it in the cases that it judges" in told


def test_audit_of_a_fold_speaks_of_the_run_that_follows(taught_project: Project) -> None:
    """Held-out cases decide nothing there: labels are not calibrated, and a refuted ranking is used."""
    splits = [{"train": LABELLED[5:], "val": LABELLED[:5]}]
    (taught_project.preprocessed / DATASET / "splits_final.json").write_text(json.dumps(splits))
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run), doubt=lambda _: 0.1)
    (store,) = run.held_out_stores().values()
    for case in LABELLED[:5]:
        wrong = phantom(case)[1].copy()
        wrong[wrong == 0] = 1
        sure: Any = evidence_of(phantom(case)[1], doubt=0.2 - rising(case))
        store.write(case, replace(sure, mean=evidence_of(smaller(wrong, int(case[-1])), doubt=0.4).mean))
    found = audit(run, device=CPU)
    assert found.study is not None
    plain = [case.plain_dice["rim"] for case in found.study.cases]
    assert [case.dice["rim"] for case in found.study.cases] == plain
    assert found.study.maps is not None  # which would make better labels, and do not
    assert found.dice["rim"] == (pytest.approx(np.mean(plain)), 5)  # type: ignore[arg-type]
    refuted = replace(found.study.ranking.proofs[found.study.ranking.chosen], verdict="refuted")
    ranking = replace(found.study.ranking, proofs={**found.study.ranking.proofs, found.study.ranking.chosen: refuted})
    said = advise(replace(found.study, ranking=ranking), {"a": (0.9, 5)}, [], [], decides=False)
    assert said == ("go on", "held-out cases refute the ranking, but decide nothing in this run: give it --order random")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ([("go on", "all is well")], "next: the same command without --audit"),
        ([("go on", f"refuted{RANDOM_ORDER}")], "next: the same command without --audit, and with --order random"),
        ([("stop", "the held-out Dice is 0.10")], "to go on all the same: the same command without --audit"),
        ([("go on", "all is well"), ("label first", "core")], "to go on all the same: the same command without --audit"),
    ],
)
def test_what_is_typed_next_is_what_was_advised(said: list[tuple[str, str]], line: str) -> None:
    audits: Any = [SimpleNamespace(advice=advice, reason=reason) for advice, reason in said]
    assert line_after(audits) == line


def test_groups_are_judged_apart(cross_fitted: Project) -> None:
    pool = load_pool(cross_fitted.setup())
    keep_groups(pool, {case: "north" if i < 3 else "south" for i, case in enumerate(POOL)})
    run = begin(cross_fitted, doubt=rising)
    found = audit(run, device=CPU)
    north, south = found.groups
    assert (north.group, north.num_cases, south.group, south.num_cases) == ("north", 3, "south", 3)
    assert north.scores is not None
    assert south.scores is not None
    assert north.scores[0] > south.scores[2]  # more doubt in the south
    assert north.predicted is not None
    assert south.predicted is not None
    assert found.predicted is not None
    assert north.predicted.mean > south.predicted.mean
    assert (north.predicted.mean + south.predicted.mean) / 2 == pytest.approx(found.predicted.mean)
    assert {s.feature for s in north.shifts} == {s.feature for s in found.shifts}
    lines = audit_lines(found, run)
    assert [line.split(",")[0] for line in lines if line.startswith("group ")] == ["group north: 3 cases", "group south: 3 cases"]
    assert [g["group"] for g in json.loads((run.workspace / "audit.json").read_text())["groups"]] == ["north", "south"]
