"""Groups of a run: strata of its ranking, fixed with the first stage, and left out where a fold holds them out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_setup import (
    DATASET,
    LABELLED,
    POOL,
    Project,
    grow_stage,
    open_tiny_run,
    teacher_store,
    write_evidence,
    write_student,
    write_teacher,
)

from nnunet_ssl.data.groups import keep_groups
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import ConfigError, InputError, StateError
from nnunet_ssl.nnunet_api.checkpoints import CHECKPOINT_ENTRY, POOL_IMAGES
from nnunet_ssl.pseudolabel.run_groups import left_out_groups

OF_POOL = {case: "north" if i < 4 else "south" for i, case in enumerate(POOL)}
OF_LABELLED = {case: "south" if case == "lab_0" else "west" for case in LABELLED}
"""Fold 0 validates on lab_0 alone, so it holds the south out."""
GROUPS = {**OF_LABELLED, **OF_POOL}


@pytest.fixture
def grouped(taught_project: Project) -> Project:
    keep_groups(load_pool(taught_project.setup()), GROUPS)
    return taught_project


def table(path: Path, groups: dict[str, str]) -> str:
    path.write_text("case,group\n" + "".join(f"{case},{group}\n" for case, group in groups.items()))
    return str(path)


def ranking(run: Any, stage: int) -> list[tuple[str, str]]:
    with (run.workspace / f"ranking_{stage}.csv").open() as file:
        return [(row["case"], row["group"]) for row in csv.DictReader(file)]


def test_stage_takes_from_every_group(grouped: Project) -> None:
    run = open_tiny_run(grouped)
    write_evidence(teacher_store(run))  # more doubt the higher the number: the south is worse than all of the north
    record = grow_stage(run)
    assert record.cases == ["pool_0", "pool_4", "pool_1"]
    assert ranking(run, 1) == [(case, OF_POOL[case]) for case in ("pool_0", "pool_4", "pool_1", "pool_2", "pool_5", "pool_3")]
    manifest = Manifest.load(run.workspace)
    assert manifest is not None
    assert (manifest.groups, manifest.left_out_groups) == (GROUPS, [])


def test_groups_are_fixed_with_the_first_stage(grouped: Project, tmp_path: Path) -> None:
    other = table(tmp_path / "other.csv", dict.fromkeys(POOL, "one"))
    run = open_tiny_run(grouped)
    assert set(open_tiny_run(grouped, groups=other).manifest.groups.values()) == {"one"}
    write_evidence(teacher_store(run))
    grow_stage(run)
    for asked in (other, "none"):
        said = r"the groups of .* are fixed since its first stage; leave --groups out, or remove \S+/manifest\.json to start over"
        with pytest.raises(StateError, match=said):
            open_tiny_run(grouped, groups=asked)
    assert open_tiny_run(grouped, groups=table(tmp_path / "same.csv", GROUPS)).manifest.groups == GROUPS
    # what is kept for other runs does not touch this one
    keep_groups(load_pool(grouped.setup()), {})
    assert open_tiny_run(grouped).manifest.groups == GROUPS


def test_new_pool_case_needs_a_group(grouped: Project) -> None:
    keep_groups(load_pool(grouped.setup()), {case: group for case, group in GROUPS.items() if case != "pool_3"})
    with pytest.raises(InputError, match=r"_groups\.json has no group for pool case 'pool_3' \(1 of 6\); give --groups again"):
        open_tiny_run(grouped)


def test_left_out_group_is_seen_by_nobody(grouped: Project) -> None:
    run = open_tiny_run(grouped, leave_group_out=True)
    assert run.manifest.left_out_groups == ["south"]
    assert run.manifest.pool == run.pool.case_ids == POOL[:4]
    assert run.setup.fold_cases(0)[1] == ["lab_0"]
    write_evidence(teacher_store(run), POOL[:4])  # there is none of the others, so asking for it would fail
    grow_stage(run, rescore=True)
    write_student(run, 1)
    write_evidence(run.student_store(1), POOL[:4])
    record = grow_stage(open_tiny_run(grouped), rescore=True)  # it stays so without the flag
    assert (record.is_last, sorted(record.cases)) == (True, POOL[:4])
    held_out = {"lab_0", *POOL[4:]}
    for stage in (1, 2):
        name = run.stage_name(stage)
        splits = json.loads((grouped.preprocessed / name / "splits_final.json").read_text())
        assert not held_out & set(splits[0]["train"])
        sidecar = read_sidecar(grouped.raw / name)
        assert sidecar is not None
        assert not held_out & {*sidecar["labelled_cases"], *sidecar["pool_cases"]}
        assert sidecar["validation_cases"] == ["lab_0"]
        assert {case for case, _ in ranking(run, stage)} == set(POOL[:4])
    for root in (grouped.raw, grouped.preprocessed):
        assert not list(root.glob("Dataset60*/**/pool_[45]*"))


def test_run_that_has_seen_the_group_cannot_leave_it_out(grouped: Project) -> None:
    open_tiny_run(grouped)
    with pytest.raises(StateError, match=r"began without --leave-group-out; remove \S+/manifest\.json to start over"):
        open_tiny_run(grouped, leave_group_out=True)


@pytest.mark.parametrize(
    ("fold", "groups", "message"),
    [
        ("all", GROUPS, "with -f all every label trains"),
        (0, {}, "needs the groups of pool and labelled cases; give them with --groups"),
        (0, OF_POOL, r"labelled case 'lab_0' has no group \(6 such cases\)"),
        (1, GROUPS, "fold 1 validates on 'lab_1' and trains on 'lab_2', both of group 'west'; it needs folds of whole groups"),
    ],
)
def test_folds_that_hold_no_group_out(taught_project: Project, fold: int | str, groups: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        left_out_groups(taught_project.setup(), fold, groups)


def test_pool_of_nothing_but_the_group(taught_project: Project) -> None:
    keep_groups(load_pool(taught_project.setup()), {**OF_LABELLED, **dict.fromkeys(POOL, "south")})
    with pytest.raises(ConfigError, match=r"every case of the pool is of a group that the fold holds out \(south\)"):
        open_tiny_run(taught_project, leave_group_out=True)
    assert not list(taught_project.results.rglob("manifest.json"))


# ---- teachers


def change_entry(project: Project, entry: dict[str, Any] | None) -> None:
    (path,) = (project.results / DATASET).glob("TransASPP*/fold_0/checkpoint_final.pth")
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint.pop(CHECKPOINT_ENTRY) == {POOL_IMAGES: []}
    torch.save(checkpoint if entry is None else {**checkpoint, CHECKPOINT_ENTRY: entry}, path)


def test_teacher_that_has_learned_from_the_groups_images(grouped: Project) -> None:
    change_entry(grouped, {POOL_IMAGES: ["pool_0", "pool_5"]})
    with pytest.raises(StateError, match="has learned from the image of pool case 'pool_5' of group 'south'"):
        open_tiny_run(grouped, leave_group_out=True)
    open_tiny_run(grouped)


@pytest.mark.parametrize("entry", [None, {"average": {}}])
def test_teacher_that_does_not_say(grouped: Project, entry: dict[str, Any] | None) -> None:
    change_entry(grouped, entry)
    with pytest.raises(StateError, match="does not say which pool images the teacher has learned from"):
        open_tiny_run(grouped, leave_group_out=True)


def test_stock_teacher_has_seen_no_pool(grouped: Project) -> None:
    write_teacher("nnUNetTrainer")
    run = open_tiny_run(grouped, teacher_trainer="nnUNetTrainer", leave_group_out=True)
    assert run.manifest.pool == POOL[:4]


@pytest.mark.parametrize(("validated", "refused"), [(["lab_1"], True), (["lab_0"], False)])
def test_teacher_of_other_splits(grouped: Project, validated: list[str], refused: bool) -> None:
    (folder,) = (grouped.results / DATASET).glob("TransASPP*/fold_0")
    (folder / "validation").mkdir()
    cases = [{"metrics": {}, "reference_file": f"/x/{case}.nii.gz"} for case in validated]
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    if refused:
        with pytest.raises(StateError, match=r"fold 0 of the splits holds out case 'lab_0', on which .* was not validated"):
            open_tiny_run(grouped, leave_group_out=True)
    else:
        open_tiny_run(grouped, leave_group_out=True)
