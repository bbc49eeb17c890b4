"""Labels that are given back: what is refused, and what the stages after that make of the others."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from given_labels import IGNORE, declare_ignore, partly, write_labels
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_setup import (
    DATASET,
    IDENTIFIER,
    LABELLED,
    POOL,
    VALIDATION,
    Project,
    grow_stage,
    mtimes,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_student,
)

from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.data.manifest import AcceptedLabel
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.pseudolabel.accept import accept, is_accepted
from nnunet_ssl.pseudolabel.audit import audit
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage
from nnunet_ssl.run.audit_text import audit_lines

TRAIN = [case for case in LABELLED if case not in VALIDATION]
STAGE = "Dataset601_Tiny_f0s1"


def begin(project: Project, fold: int | str = 0, **settings: Any) -> Any:
    """A run with evidence of the teacher, pool_0 first."""
    run = open_tiny_run(project, fold, settings={"agreement.weight": 0.0, **settings})
    for store in run.teacher_stores().values():
        write_evidence(store)
    return run


def corrected(case: str) -> Any:
    """The true label without its core."""
    return np.minimum(phantom(case)[1], 1)


def ranked(run: Any, stage: int) -> list[str]:
    with (run.workspace / f"ranking_{stage}.csv").open() as file:
        return [row["case"] for row in csv.DictReader(file)]


def preprocessed(project: Project, dataset: str, case: str) -> tuple[Any, Any, dict[str, Any]]:
    """Image, segmentation and properties."""
    data, seg, _, properties = nnUNetDatasetBlosc2(str(project.preprocessed / dataset / IDENTIFIER), [case]).load_case(case)
    return data[:], seg[:], properties


def by_nnunet(project: Project, case: str, label: Path) -> tuple[Any, Any, dict[str, Any]]:
    """What nnU-Net would make of the case if it stood in the labelled dataset."""
    setup = project.setup()
    preprocessor = setup.configuration_manager.preprocessor_class(verbose=False)
    image = project.unlabelled / f"{case}_0000.nii.gz"
    return preprocessor.run_case([str(image)], str(label), setup.plans_manager, setup.configuration_manager, setup.dataset_json)


# ---- taken in


def test_manifest_and_workspace(taught_project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    declare_ignore(taught_project)
    run = begin(taught_project)
    folder = write_labels(tmp_path / "given", {"pool_4": partly(corrected("pool_4")), "pool_1": corrected("pool_1")})
    (folder / "notes.txt").write_text("other files may lie there")
    assert not is_accepted(run, folder)
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        assert accept(run, folder) == ["pool_1", "pool_4"]
    assert "accepted labels: 2 new, 1 of them partial; they count as manual from stage 1 on" in caplog.text
    prints = {case: fingerprint(folder / f"{case}.nii.gz") for case in ("pool_1", "pool_4")}
    again = open_tiny_run(taught_project)
    assert again.manifest.accepted == {
        "pool_1": AcceptedLabel(prints["pool_1"], False, 1),
        "pool_4": AcceptedLabel(prints["pool_4"], True, 1),
    }
    assert again.pseudo_cases == ["pool_0", "pool_2", "pool_3", "pool_5"]
    for case, name in prints.items():
        kept = run.workspace / "accepted" / name
        assert sorted(f.name for f in kept.iterdir()) == [f"{case}.nii.gz", f"{case}.pkl", f"{case}_seg.b2nd"]
        assert (kept / f"{case}.nii.gz").read_bytes() == (folder / f"{case}.nii.gz").read_bytes()
    assert not list(run.workspace.rglob(f"{TEMPORARY_PREFIX}*"))


def test_copies_of_pseudo_labels_are_no_manual_labels(taught_project: Project, tmp_path: Path) -> None:
    """A whole `labelsTr` was copied, one label in it corrected."""
    run = begin(taught_project)
    first, *others = grow_stage(run).cases
    folder = tmp_path / "copied"
    folder.mkdir()
    for case in (first, *others):
        shutil.copy(taught_project.raw / STAGE / "labelsTr" / f"{case}.nii.gz", folder)
    write_labels(folder, {first: corrected(first)})
    counts = rf"\({len(others)} of {len(others) + 1} new labels are\)"
    said = rf"copied/{others[0]}\.nii\.gz is a pseudo-label of this run that nobody has changed {counts}; leave out"
    before = mtimes(run.workspace)
    with pytest.raises(InputError, match=said):
        accept(run, folder)
    assert mtimes(run.workspace) == before
    assert accept(run, folder, takes_unchanged=True) == sorted([first, *others])


def test_an_accepted_label_of_a_stage_is_no_pseudo_label(with_two: tuple[Project, Any, Path], tmp_path: Path) -> None:
    project, run, folder = with_two
    accept(run, write_labels(tmp_path / "other", {"pool_0": phantom("pool_0")[1]}))
    assert (project.raw / STAGE / "labelsTr" / "pool_0.nii.gz").read_bytes() == (folder / "pool_0.nii.gz").read_bytes()
    assert accept(run, folder) == ["pool_0"]


def test_same_labels_again_change_nothing(taught_project: Project, tmp_path: Path) -> None:
    run, folder = begin(taught_project), write_labels(tmp_path / "given", {"pool_1": corrected("pool_1")})
    accept(run, folder)
    before = mtimes(run.workspace)
    assert is_accepted(run, folder)
    assert accept(open_tiny_run(taught_project), folder) == []
    assert mtimes(run.workspace) == before


def test_lost_copies_come_back(taught_project: Project, tmp_path: Path) -> None:
    run, folder = begin(taught_project), write_labels(tmp_path / "given", {"pool_1": corrected("pool_1")})
    accept(run, folder)
    kept = run.workspace / "accepted" / run.accepted["pool_1"]
    (kept / "pool_1_seg.b2nd").unlink()
    with pytest.raises(StateError, match=r"pool_1_seg\.b2nd of an accepted label is missing; give the label again"):
        grow_stage(run)
    assert not (taught_project.raw / STAGE).exists()
    assert not is_accepted(run, folder)
    assert accept(run, folder) == []
    assert is_accepted(run, folder)
    assert grow_stage(run).accepted == run.accepted


# ---- in a stage


@pytest.fixture
def with_two(taught_project: Project, tmp_path: Path) -> tuple[Project, Any, Path]:
    """Stage 1 of a run in which pool_0, the best case, is corrected and pool_4 annotated in part."""
    declare_ignore(taught_project)
    run = begin(taught_project)
    folder = write_labels(tmp_path / "given", {"pool_0": corrected("pool_0"), "pool_4": partly(phantom("pool_4")[1])})
    accept(run, folder)
    grow_stage(run)
    return taught_project, run, folder


def test_accepted_cases_are_labelled_cases(with_two: tuple[Project, Any, Path]) -> None:
    project, run, folder = with_two
    (record,) = run.manifest.stages
    # half of the four cases that are left
    assert record.cases == ["pool_1", "pool_2"]
    assert record.accepted == {case: fingerprint(folder / f"{case}.nii.gz") for case in ("pool_0", "pool_4")}
    assert ranked(run, 1) == ["pool_1", "pool_2", "pool_3", "pool_5"]
    for root in (project.raw, project.preprocessed):
        sidecar = read_sidecar(root / STAGE)
        assert sidecar is not None
        assert sidecar["labelled_cases"] == [*TRAIN, "pool_0", "pool_4"]
        assert (sidecar["validation_cases"], sidecar["pool_cases"]) == (VALIDATION, ["pool_1", "pool_2"])
        assert sidecar["accepted"] == record.accepted
    splits = json.loads((project.preprocessed / STAGE / "splits_final.json").read_text())
    base = json.loads((project.preprocessed / DATASET / "splits_final.json").read_text())
    assert splits[0] == {"train": [*TRAIN, "pool_0", "pool_4", "pool_1", "pool_2"], "val": VALIDATION}
    assert splits[1:] == base[1:]


def test_files_of_an_accepted_case(with_two: tuple[Project, Any, Path]) -> None:
    project, run, folder = with_two
    raw, pre = project.raw / STAGE, project.preprocessed / STAGE
    listed = json.loads((raw / "dataset.json").read_text())
    assert sorted(listed["dataset"]) == sorted([*LABELLED, "pool_0", "pool_4", "pool_1", "pool_2"])
    assert listed["dataset"]["pool_4"]["images"] == [str(project.unlabelled / "pool_4_0000.nii.gz")]
    for case in ("pool_0", "pool_4"):
        label = raw / "labelsTr" / f"{case}.nii.gz"
        assert label.read_bytes() == (folder / f"{case}.nii.gz").read_bytes()
        assert label.stat().st_ino == (pre / "gt_segmentations" / f"{case}.nii.gz").stat().st_ino
        assert not (raw / "confidenceTr" / f"{case}.nii.gz").exists()
        assert not (pre / f"{IDENTIFIER}__nnssl" / f"{case}.b2nd").exists()
        assert (pre / IDENTIFIER / f"{case}.b2nd").stat().st_ino == (run.pool.folder / f"{case}.b2nd").stat().st_ino


@pytest.mark.parametrize("case", ["pool_0", "pool_4"])
def test_preprocessed_as_nnunet_does(with_two: tuple[Project, Any, Path], case: str) -> None:
    project, _, folder = with_two
    image, seg, properties = preprocessed(project, STAGE, case)
    expected_image, expected_seg, expected = by_nnunet(project, case, folder / f"{case}.nii.gz")
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(seg, expected_seg)
    assert properties["class_locations"].keys() == expected["class_locations"].keys() == {1, 2, (-1, 0, 1, 2)}
    for key, voxels in expected["class_locations"].items():
        np.testing.assert_array_equal(properties["class_locations"][key], voxels)
    assert (seg == IGNORE).any() == (case == "pool_4")
    assert (seg == 2).any() == (case == "pool_4")


def test_later_label_counts_for_later_stages(with_two: tuple[Project, Any, Path], tmp_path: Path) -> None:
    project, run, folder = with_two
    write_student(run, 1)
    # stage 1 holds pool_1 with a pseudo-label; of pool_4 there is a whole label now
    second = write_labels(tmp_path / "second", {"pool_1": corrected("pool_1"), "pool_4": phantom("pool_4")[1]})
    assert accept(run, second) == ["pool_1", "pool_4"]
    assert (run.manifest.accepted["pool_0"].stage, run.manifest.accepted["pool_4"].stage) == (1, 2)
    assert not run.manifest.accepted["pool_4"].is_partial
    record = grow_stage(run)
    assert record.cases == ["pool_2", "pool_3", "pool_5"]
    assert sorted(record.accepted) == ["pool_0", "pool_1", "pool_4"]
    assert record.change == {"rim": 0.0, "core": 0.0}
    assert not (preprocessed(project, record.dataset, "pool_4")[1] == IGNORE).any()
    # stage 1 stays as it was, also when it is written again
    rewrite_stage(run, 1, device=torch.device("cpu"))
    assert read_sidecar(project.raw / STAGE)["pool_cases"] == ["pool_1", "pool_2"]  # type: ignore[index]
    assert (preprocessed(project, STAGE, "pool_4")[1] == IGNORE).any()
    assert (project.raw / STAGE / "labelsTr" / "pool_4.nii.gz").read_bytes() == (folder / "pool_4.nii.gz").read_bytes()


def test_students_are_not_asked_about_accepted_cases(with_two: tuple[Project, Any, Path]) -> None:
    _, run, _ = with_two
    assert not list(run.workspace.rglob("student_s1"))
    run = replace(run, method=run.method.with_settings({"agreement.weight": 0.5}))
    write_student(run, 1)
    grow_stage(run)
    assert sorted(f.stem for f in run.student_store(1).folder.iterdir()) == run.pseudo_cases


def test_audit_judges_the_cases_that_are_left(with_two: tuple[Project, Any, Path]) -> None:
    _, run, _ = with_two
    found = audit(run, device=torch.device("cpu"))
    assert found.accepted == 2
    assert found.label_first == ["pool_5", "pool_3", "pool_2", "pool_1"]
    assert "accepted labels: 2 of them have manual labels" in audit_lines(found, run)
    assert json.loads((run.workspace / "audit.json").read_text())["accepted"] == 2


def test_final_mode_validates_on_the_labelled_dataset_alone(taught_project: Project, tmp_path: Path) -> None:
    run = open_tiny_run(taught_project, "all", teacher_folds=[0, 1], settings={"evidence.confidence": "paper"})
    for store in run.teacher_stores().values():
        write_evidence(store)
    accept(run, write_labels(tmp_path / "given", {"pool_3": corrected("pool_3")}))
    record = grow_stage(run)
    sidecar = read_sidecar(taught_project.raw / record.dataset)
    assert sidecar is not None
    assert sidecar["labelled_cases"] == [*LABELLED, "pool_3"]
    assert sidecar["validation_cases"] == LABELLED


# ---- refused


def bad_label(folder: Path) -> Path:
    wrong = corrected("pool_2")
    wrong[0, 0, 0] = 9
    return write_labels(folder, {"pool_1": corrected("pool_1"), "pool_2": wrong})


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (lambda f: f / "none", "none is not a folder; --accept takes the folder of corrected labels"),
    "nothing in it": (lambda f: write_labels(f, {}), "holds no label named <case>.nii.gz; there is nothing to accept"),
    "image by its name": (lambda f: write_labels(f, {"pool_1_0000": corrected("pool_1")}), "'pool_1_0000' is no case of the pool"),
    "labelled case": (lambda f: write_labels(f, {"lab_0": corrected("lab_0")}), "'lab_0' is a labelled case of Dataset137_Tiny"),
    "one of two is bad": (bad_label, "case 'pool_2': .* has the value 9"),
    "the whole pool": (lambda f: write_labels(f, {c: corrected(c) for c in POOL}), "leaves no case of the pool without a manual label"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_accepted_unless_all_is_good(taught_project: Project, tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    (tmp_path / "given").mkdir()
    run, folder = open_tiny_run(taught_project), make(tmp_path / "given")
    with pytest.raises(InputError, match=message):
        accept(run, folder)
    assert open_tiny_run(taught_project).manifest.accepted == {}
    assert not (run.workspace / "accepted").exists()


def test_image_that_is_gone(fresh_project: Project, tmp_path: Path) -> None:
    from tiny_setup import write_teacher

    write_teacher()
    fresh_project.prepare_pool()
    run, folder = open_tiny_run(fresh_project), write_labels(tmp_path / "given", {"pool_1": corrected("pool_1")})
    (fresh_project.unlabelled / "pool_1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"its image .*pool_1_0000\.nii\.gz is missing; put it back"):
        accept(run, folder)
    assert open_tiny_run(fresh_project).manifest.accepted == {}
    assert not list(run.workspace.rglob("pool_1*"))


def test_no_stage_follows(taught_project: Project, tmp_path: Path) -> None:
    run = begin(taught_project, **{"curriculum.fractions": [1.0]})
    first = write_labels(tmp_path / "first", {"pool_1": corrected("pool_1")})
    accept(run, first)
    grow_stage(run)
    assert accept(run, first) == []
    with pytest.raises(StateError, match=r"the curriculum of .* is complete: no stage follows that could learn from .*pool_2\.nii\.gz"):
        accept(run, write_labels(tmp_path / "second", {"pool_2": corrected("pool_2")}))


def test_properties_are_those_of_the_pool(with_two: tuple[Project, Any, Path]) -> None:
    """nnU-Net's validation and export read them."""
    project, run, _ = with_two
    ours = load_pickle(str(project.preprocessed / STAGE / IDENTIFIER / "pool_0.pkl"))
    pools = load_pickle(str(run.pool.folder / "pool_0.pkl"))
    assert {key: ours[key] for key in pools} == pools


def test_teacher_store_is_untouched(with_two: tuple[Project, Any, Path]) -> None:
    _, run, _ = with_two
    assert sorted(f.stem for f in teacher_store(run).folder.iterdir()) == POOL
