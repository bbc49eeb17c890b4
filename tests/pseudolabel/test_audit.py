"""The audit: figures of held-out cases, shift of the pool, classes at risk and advice; nothing that a later stage would notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from cross_fitted import begin, rising
from given_labels import IGNORE, declare_ignore
from tiny_setup import LABELLED, POOL, Project, grow_stage, mtimes, open_tiny_run, phantom, teacher_store, write_evidence

from nnunet_ssl.data.groups import keep_groups
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.pseudolabel.audit import advise, audit
from nnunet_ssl.pseudolabel.domain_shift import Shift, compare, image_features
from nnunet_ssl.pseudolabel.held_out_study import study_held_out
from nnunet_ssl.run.audit_text import audit_lines

CPU = torch.device("cpu")
VOLUME = "foreground, voxels"


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
        ({"a": (0.9, 5)}, [], [shift(0.01)], "label first", "pool images differ from the labelled ones (sharpness)"),
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
    for name, array in (("a", image), ("a_seg", seg)):
        blosc2.asarray(array, urlpath=str(tmp_path / f"{name}.b2nd"), mode="w")
    write_pickle({}, str(tmp_path / "a.pkl"))
    found = image_features(tmp_path, ["a"], label="test")
    assert found["sharpness, channel 0"] == [pytest.approx(10 / 3 / 3)]
    # inside the mask: 16 zeros and 32 tens
    assert found["intensity, 50th percentile, channel 0"] == [10.0]
    assert found["intensity, standard deviation, channel 0"] == [pytest.approx(10 * np.sqrt(2) / 3)]


def test_compare_finds_the_shifted_feature() -> None:
    random = np.random.default_rng(0)
    labelled = {"same": list(random.normal(size=40)), "moved": list(random.normal(size=40)), "labelled only": [1.0]}
    pool = {"same": [None, *random.normal(size=60)], "moved": list(random.normal(2, size=60))}
    found = compare(labelled, pool)
    assert [(s.feature, s.is_shifted) for s in found] == [("moved", True), ("same", False)]
    assert found[0].pool_median - found[0].labelled_median == pytest.approx(2, abs=0.5)


def annotate_one_plane(project: Project, cases: list[str]) -> None:
    """All planes but one of the foreground get the ignore label."""
    folder = project.setup().data_folder
    for case in cases:
        label = phantom(case)[1].astype(np.int16)
        plane = label.shape[0] // 2
        label[:plane], label[plane + 1 :] = IGNORE, IGNORE
        blosc2.asarray(label[None], urlpath=str(folder / f"{case}_seg.b2nd"), mode="w")


def test_cases_annotated_in_part_have_no_volume(cross_fitted: Project) -> None:
    """The volume of a part of the foreground against predicted foreground would find every pool to differ."""
    declare_ignore(cross_fitted)
    annotate_one_plane(cross_fitted, LABELLED[:3])
    run = begin(cross_fitted, doubt=rising)
    (shift,) = [s for s in audit(run, device=CPU).shifts if s.feature == VOLUME]
    assert shift.labelled_median == np.median([(phantom(case)[1] > 0).sum() for case in LABELLED[3:]])
    annotate_one_plane(cross_fitted, LABELLED[3:])
    found = audit(run, device=CPU)
    assert VOLUME not in {s.feature for s in found.shifts}
    assert VOLUME not in found.reason


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
