"""A stage dataset: an ordinary nnU-Net dataset, made of links and pseudo-labels, that leaves the labelled dataset as it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.experiment_planning import verify_dataset_integrity as verify
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    IDENTIFIER,
    LABELLED,
    PLANS,
    POOL,
    VALIDATION,
    Project,
    digests,
    evidence_of,
    grow_stage,
    mtimes,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_teacher,
)

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.files import TEMPORARY_PREFIX, remove_leftovers
from nnunet_ssl.data.pool import prepare_pool
from nnunet_ssl.data.stage_dataset import check_stage_place, stage_is_whole
from nnunet_ssl.data.stage_sidecar import StageSidecar, read_sidecar
from nnunet_ssl.errors import InputError, SetupError, StateError
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.pseudolabel.run_spec import RunSpec
from nnunet_ssl.pseudolabel.start_run import open_run

STAGE = "Dataset601_Tiny_f0s1"
CHOSEN = ["pool_0", "pool_1", "pool_2"]
"""Half of the pool: the cases with the least doubt."""


def raw(project: Project, *parts: str) -> Path:
    return project.raw.joinpath(STAGE, *parts)


def preprocessed(project: Project, *parts: str) -> Path:
    return project.preprocessed.joinpath(STAGE, *parts)


def content(path: Path) -> Any:
    return json.loads(path.read_text())


# ---- an ordinary dataset


def test_nnunet_finds_the_dataset_sound(staged_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool), Pool=ThreadPool)
    monkeypatch.setattr(verify, "multiprocessing", threads)
    verify.verify_dataset_integrity(str(raw(staged_project)), num_processes=1)


def test_nnunet_finds_images_and_labels(staged_project: Project) -> None:
    listed = get_filenames_of_train_images_and_targets(str(raw(staged_project)))
    assert sorted(listed) == sorted(LABELLED + CHOSEN)
    for case, files in listed.items():
        folder = staged_project.unlabelled if case in CHOSEN else staged_project.raw / DATASET / "imagesTr"
        assert files["images"] == [str(folder / f"{case}_0000.nii.gz")]
        assert files["label"] == str(raw(staged_project, "labelsTr", f"{case}.nii.gz"))
        assert Path(files["label"]).is_file()
    assert sorted(f.name for f in raw(staged_project, "labelsTr").iterdir()) == sorted(f"{c}.nii.gz" for c in LABELLED + CHOSEN)
    assert not raw(staged_project, "imagesTr").exists()


def test_nnunet_finds_images_and_labels_where_its_variables_are_relative(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes relative paths in dataset.json as ones from the stage's folder."""
    monkeypatch.chdir(taught_project.raw.parent)
    for root in (taught_project.raw, taught_project.preprocessed, taught_project.results):
        monkeypatch.setenv(root.name, root.name)
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    grow_stage(run)
    listed = get_filenames_of_train_images_and_targets(str(Path("nnUNet_raw") / STAGE))
    assert sorted(listed) == sorted(LABELLED + CHOSEN)
    for files in listed.values():
        assert [path for path in (*files["images"], files["label"]) if not Path(path).is_file()] == []


def test_nnunet_reads_every_case(staged_project: Project) -> None:
    folder = str(preprocessed(staged_project, IDENTIFIER))
    assert infer_dataset_class(folder) is nnUNetDatasetBlosc2
    assert sorted(nnUNetDatasetBlosc2.get_identifiers(folder)) == sorted(LABELLED + CHOSEN)
    dataset = nnUNetDatasetBlosc2(folder)
    for case in LABELLED + CHOSEN:
        image, seg, _, properties = dataset.load_case(case)
        assert image.shape == seg.shape == (1, *phantom(case)[0].shape)
        assert properties["class_locations"].keys() == {1, 2}
        assert np.array_equal(seg[:][0], phantom(case)[1])


def test_dataset_is_found_by_its_id_alone(staged_project: Project) -> None:
    assert convert_id_to_dataset_name(601) == STAGE
    assert [f.name for f in staged_project.raw.iterdir() if not f.name.startswith("Dataset")] == []
    assert sorted(f.name for f in staged_project.preprocessed.iterdir()) == [DATASET, STAGE]


def test_dataset_json(staged_project: Project) -> None:
    found, base = content(raw(staged_project, "dataset.json")), content(staged_project.raw / DATASET / "dataset.json")
    assert found == content(preprocessed(staged_project, "dataset.json"))
    assert (found["name"], found["numTraining"]) == (STAGE, 9)
    for key in ("channel_names", "labels", "file_ending"):
        assert found[key] == base[key]


def test_plans_are_the_base_plans_with_the_settings_in_force(staged_project: Project) -> None:
    found, base = content(preprocessed(staged_project, f"{PLANS}.json")), content(staged_project.plans_file)
    assert found["dataset_name"] == STAGE
    assert (
        found["configurations"][CONFIGURATION].pop("nnssl")
        == open_tiny_run(staged_project).method.with_settings({"student.tau": 0.7}).to_dict()
    )
    base["configurations"][CONFIGURATION].pop("nnssl")
    assert {**found, "dataset_name": DATASET} == base


def test_pool_cases_enter_one_folds_train_list_alone(staged_project: Project) -> None:
    found = content(preprocessed(staged_project, "splits_final.json"))
    base = content(staged_project.preprocessed / DATASET / "splits_final.json")
    assert len(found) == 5
    assert found[1:] == base[1:]
    assert found[0]["val"] == base[0]["val"] == VALIDATION
    assert found[0]["train"] == sorted(base[0]["train"]) + CHOSEN


def test_sidecar_says_what_the_stage_was_made_from(staged_project: Project) -> None:
    found = read_sidecar(raw(staged_project))
    assert found is not None
    assert found == read_sidecar(preprocessed(staged_project))
    run = open_tiny_run(staged_project)
    expected = {
        "schema": 1,
        "base_dataset": DATASET,
        "workspace": f"{DATASET}/TransASPPTeacherTrainer__{PLANS}__{CONFIGURATION}/fold_0/nnssl",
        "teacher": f"TransASPPTeacherTrainer__{PLANS}__{CONFIGURATION}",
        "teacher_fingerprint": run.manifest.teacher_fingerprint,
        "stage": 1,
        "num_stages": 2,
        "num_epochs": 1,
        "fold": 0,
        "labelled_cases": [c for c in LABELLED if c not in VALIDATION],
        "validation_cases": VALIDATION,
        "pool_cases": CHOSEN,
        "accepted": {},
        "num_confidence_channels": 1,
        "num_probability_channels": 3,
        "blind_heads": [],
        "mirroring_axes": [0, 1, 2],
        "agreement_weight": 0.0,
        "label_stage": None,
        "student_fingerprint": None,
        "init": "teacher",
        "init_checkpoint": f"{DATASET}/TransASPPTeacherTrainer__{PLANS}__{CONFIGURATION}/fold_0/checkpoint_final.pth",
    }
    assert found == expected
    method = run.method.with_settings({"student.tau": 0.7})
    assert stage_is_whole(STAGE, run.setup, method, StageSidecar(**expected))
    assert not stage_is_whole(STAGE, run.setup, method, StageSidecar(**{**expected, "pool_cases": CHOSEN[:2]}))
    assert not stage_is_whole(STAGE, run.setup, method.with_settings({"student.tau": 0.8}), StageSidecar(**expected))


def test_nothing_is_copied_that_can_be_linked(staged_project: Project) -> None:
    pairs = [(staged_project.raw / DATASET / "labelsTr" / f"{c}.nii.gz", raw(staged_project, "labelsTr", f"{c}.nii.gz")) for c in LABELLED]
    base, pool = staged_project.preprocessed / DATASET / IDENTIFIER, open_tiny_run(staged_project).pool.folder
    data = preprocessed(staged_project, IDENTIFIER)
    pairs += [(base / f"{c}{part}", data / f"{c}{part}") for c in LABELLED for part in (".b2nd", "_seg.b2nd", ".pkl")]
    pairs += [(pool / f"{c}.b2nd", data / f"{c}.b2nd") for c in CHOSEN]
    for source, linked in pairs:
        assert source.stat().st_ino == linked.stat().st_ino, linked
    for case in CHOSEN:  # these differ from the pool's and must not be written through a link
        for part in ("_seg.b2nd", ".pkl"):
            assert (data / f"{case}{part}").stat().st_ino != (pool / f"{case}{part}").stat().st_ino


# ---- what it says about a pool case


@pytest.mark.parametrize("folder", ["labelsTr", "confidenceTr", "uncertaintyTr"])
@pytest.mark.parametrize("case", CHOSEN)
def test_images_lie_where_the_case_lies(staged_project: Project, folder: str, case: str) -> None:
    image = sitk.ReadImage(str(staged_project.unlabelled / f"{case}_0000.nii.gz"))
    found = sitk.ReadImage(str(raw(staged_project, folder, f"{case}.nii.gz")))
    assert found.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(image, name)(), atol=1e-6)


def test_numbers_of_the_images(staged_project: Project) -> None:
    """Evidence by hand: doubt d, variance d^2 / 4, so the confidence is (1 - d)(1 - d^2)."""
    for number, case in enumerate(CHOSEN):
        doubt = 0.05 + 0.05 * number
        label, confidence, uncertainty = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(raw(staged_project, folder, f"{case}.nii.gz"))))
            for folder in ("labelsTr", "confidenceTr", "uncertaintyTr")
        )
        assert np.array_equal(label, phantom(case)[1])
        np.testing.assert_allclose(confidence, (1 - doubt) * (1 - doubt**2), atol=6e-4)
        np.testing.assert_allclose(uncertainty, doubt**2 / 4, atol=6e-4)
    assert sorted(f.name for f in raw(staged_project, "confidenceTr").iterdir()) == [f"{c}.nii.gz" for c in CHOSEN]


def test_targets(staged_project: Project) -> None:
    folder = preprocessed(staged_project, f"{IDENTIFIER}__nnssl")
    assert sorted(f.name for f in folder.iterdir()) == [f"{c}.b2nd" for c in CHOSEN]
    targets = blosc2.open(str(folder / "pool_2.b2nd"), mode="r")[:]
    label, doubt = phantom("pool_2")[1], 0.15
    assert targets.dtype == np.int16
    assert targets.shape == (1 + 1 + 3, *label.shape)
    assert np.all(targets[0] == 2)
    np.testing.assert_allclose(targets[1], 1e4 * (1 - doubt) * (1 - doubt**2), atol=1)
    for k in range(3):
        np.testing.assert_allclose(targets[2 + k], 1e4 * np.where(label == k, 1 - doubt, doubt / 2), atol=1)


def test_trainers_read_the_stage(staged_project: Project) -> None:
    """The other side of the files."""
    from nnunet_ssl.training.stage import read_stage

    stage = read_stage(STAGE)
    assert stage.split(0) == ([*sorted(set(LABELLED) - set(VALIDATION)), *CHOSEN], VALIDATION)
    assert stage.start_checkpoint is not None
    assert stage.start_checkpoint.is_file()
    with pytest.raises(StateError, match="was written for fold 0, not 1"):
        stage.split(1)


# ---- the labelled dataset


def test_labelled_dataset_is_untouched_byte_for_byte(taught_project: Project) -> None:
    files = taught_project.labelled_files()
    before, times = digests(files), {f: f.stat().st_mtime_ns for f in files}
    listing = sorted(taught_project.raw.joinpath(DATASET).rglob("*"))
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    grow_stage(run)
    shutil.rmtree(taught_project.raw / STAGE)  # nor does deleting a stage harm it
    shutil.rmtree(taught_project.preprocessed / STAGE)
    assert digests(taught_project.labelled_files()) == before
    assert {f: f.stat().st_mtime_ns for f in files} == times
    assert sorted(taught_project.raw.joinpath(DATASET).rglob("*")) == listing


def test_extracting_the_fingerprint_of_a_stage_leaves_the_labelled_datasets(taught_project: Project) -> None:
    """nnU-Net opens the file for writing where it stands."""
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    grow_stage(run)
    own = taught_project.preprocessed / DATASET / "dataset_fingerprint.json"
    before = own.read_bytes()
    assert preprocessed(taught_project, own.name).read_bytes() == before
    with preprocessed(taught_project, own.name).open("w") as file:
        file.write("{}")
    assert own.read_bytes() == before


@pytest.mark.parametrize("part", ["imagesTr/../labelsTr/lab_3.nii.gz", "data"])
def test_lost_file_of_the_labelled_dataset_is_named(taught_project: Project, part: str) -> None:
    lost = taught_project.preprocessed / DATASET / IDENTIFIER / "lab_3.b2nd" if part == "data" else taught_project.raw / DATASET / part
    lost.unlink()
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    with pytest.raises(SetupError, match=rf"{lost.name} of the labelled dataset is missing"):
        grow_stage(run)
    assert not (taught_project.raw / STAGE).exists()
    assert not (taught_project.preprocessed / STAGE).exists()


def test_moved_plans_come_without_fingerprint(taught_project: Project) -> None:
    (taught_project.preprocessed / DATASET / "dataset_fingerprint.json").unlink()
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    grow_stage(run)
    assert not preprocessed(taught_project, "dataset_fingerprint.json").exists()


def test_raw_and_preprocessed_on_different_file_systems(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hard link reaches from one to the other; symbolic links do, and must not name the folder that the stage was written in."""
    hard_link = os.link

    def within_one(source: Path, place: Path) -> None:
        if not all(path.is_relative_to(taught_project.preprocessed) for path in (source, place)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        hard_link(source, place)

    monkeypatch.setattr(os, "link", within_one)
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    record = grow_stage(run)
    for case in (*LABELLED, *record.cases):
        label, truth = (
            folder / f"{case}.nii.gz" for folder in (raw(taught_project, "labelsTr"), preprocessed(taught_project, "gt_segmentations"))
        )
        assert truth.is_symlink()
        assert truth.read_bytes() == label.read_bytes()
    assert not preprocessed(taught_project, IDENTIFIER, "lab_0.b2nd").is_symlink()


# ---- classes are sampled where the labels can be trusted


def test_class_locations_come_from_confident_voxels_alone(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    label = phantom("pool_0")[1]
    sure, unsure = evidence_of(label, doubt=0.02), evidence_of(label, doubt=0.6)
    left = np.broadcast_to(np.arange(label.shape[2]) < 10, label.shape)
    mixed = {name: np.where(left, getattr(sure, name), getattr(unsure, name)) for name in ("mean", "variance", "votes")}
    teacher_store(run).write("pool_0", Evidence(**mixed, num_samples=8, has_regions=False))
    record = grow_stage(open_tiny_run(taught_project, settings={"curriculum.fractions": [1.0]}))
    assert "pool_0" in record.cases
    locations = load_pickle(str(preprocessed(taught_project, IDENTIFIER, "pool_0.pkl")))["class_locations"]
    assert set(locations) == {1, 2}
    for k, found in locations.items():
        expected = np.argwhere((label == k) & left)
        assert {tuple(row[1:]) for row in found} == {tuple(row) for row in expected}
        assert 0 < len(expected) < (label == k).sum()


# ---- places that are taken, and interruptions


@pytest.mark.parametrize("root", ["raw", "preprocessed"])
def test_id_in_use_is_refused(taught_project: Project, root: str) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    (getattr(taught_project, root) / "Dataset601_Heart").mkdir()  # came after the id was allotted
    with pytest.raises(
        StateError, match=r"dataset id 601 is already in use by .*Dataset601_Heart; move it away, or give .* with --first-id"
    ):
        grow_stage(run)
    assert not (taught_project.raw / STAGE).exists()
    # what the message says works
    run = open_tiny_run(taught_project, first_id=701)
    assert grow_stage(run).dataset == "Dataset701_Tiny_f0s1"


def test_stage_of_another_run_is_not_overwritten(staged_project: Project) -> None:
    check_stage_place(STAGE, f"{DATASET}/TransASPPTeacherTrainer__{PLANS}__{CONFIGURATION}/fold_0/nnssl")
    with pytest.raises(StateError, match="id 601 is already in use"):
        check_stage_place(STAGE, f"{DATASET}/nnUNetTrainer__{PLANS}__{CONFIGURATION}/fold_0/nnssl", is_written=True)


@pytest.mark.parametrize("damage", [None, "[]", "{"])
def test_folder_without_sidecar_is_somebody_elses(taught_project: Project, damage: str | None) -> None:
    run = open_tiny_run(taught_project)
    folder = taught_project.raw / STAGE
    folder.mkdir()
    if damage is not None:
        (folder / "nnssl.json").write_text(damage)
    assert read_sidecar(folder) is None
    with pytest.raises(StateError, match="already in use"):
        check_stage_place(STAGE, str(run.workspace))


def forget_stage(project: Project) -> Any:
    """As after a kill between the dataset and the manifest: the stage is on disk, nobody knows of it."""
    run = open_tiny_run(project)
    write_evidence(teacher_store(run))
    before = run.manifest.stages.copy()
    grow_stage(run)
    run.manifest.stages[:] = before
    run.manifest.save(run.workspace)
    return open_tiny_run(project)


def test_stage_that_is_whole_is_not_written_again(taught_project: Project) -> None:
    run = forget_stage(taught_project)
    before = mtimes(raw(taught_project), preprocessed(taught_project))
    record = grow_stage(run)
    assert record.cases == CHOSEN
    assert open_tiny_run(taught_project).manifest.stages == [record]
    assert mtimes(raw(taught_project), preprocessed(taught_project)) == before


def test_stage_that_is_whole_with_other_settings_is_written_again(taught_project: Project) -> None:
    forget_stage(taught_project)
    sidecar = read_sidecar(raw(taught_project))
    record = grow_stage(open_tiny_run(taught_project, settings={"student.tau": 0.95}))
    assert record.tau == 0.95
    assert read_sidecar(raw(taught_project)) == sidecar  # it does not tell the two apart
    assert content(preprocessed(taught_project, f"{PLANS}.json"))["configurations"][CONFIGURATION]["nnssl"]["student"]["tau"] == 0.95
    # every confidence is below that: no voxel of a class is sampled
    locations = load_pickle(str(preprocessed(taught_project, IDENTIFIER, "pool_0.pkl")))["class_locations"]
    assert [len(found) for found in locations.values()] == [0, 0]


@pytest.mark.parametrize("lost", ["raw", "preprocessed", "sidecar"])
def test_stage_that_is_half_there_is_written_again(taught_project: Project, lost: str) -> None:
    run = forget_stage(taught_project)
    if lost == "sidecar":
        path = raw(taught_project, "nnssl.json")
        path.write_text(json.dumps({**content(path), "pool_cases": ["pool_5"]}))
    else:
        shutil.rmtree(getattr(taught_project, lost) / STAGE)
    for root in (taught_project.raw, taught_project.preprocessed):  # what a killed writer leaves
        (root / f"{TEMPORARY_PREFIX}abc" / "stage").mkdir(parents=True)
    grow_stage(run)
    assert read_sidecar(raw(taught_project)) == read_sidecar(preprocessed(taught_project))
    assert get_filenames_of_train_images_and_targets(str(raw(taught_project))).keys() == set(LABELLED + CHOSEN)
    assert sorted(f.name for f in taught_project.raw.iterdir()) == [DATASET, STAGE]
    assert sorted(f.name for f in taught_project.preprocessed.iterdir()) == [DATASET, STAGE]


def test_another_host_leaves_a_stage_that_takes_days(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees the time of the temporary folders alone, into which nothing is written directly."""
    from nnunet_ssl.pseudolabel.pool_labels import PoolLabels

    run, real = open_tiny_run(taught_project), PoolLabels.pseudo_case
    roots = (taught_project.raw, taught_project.preprocessed)

    def days_after_the_case_before(self: Any, case: str, *arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as on_this_host:
            on_this_host.setattr("nnunet_ssl.data.files.this_host", lambda: "here")
            for root in roots:
                remove_leftovers(root)
        for folder in (found for root in roots for found in root.glob(f"{TEMPORARY_PREFIX}*")):
            os.utime(folder, (0, 0))
        return real(self, case, *arguments, **options)

    write_evidence(teacher_store(run))
    monkeypatch.setattr("nnunet_ssl.data.files.this_host", lambda: "elsewhere")
    monkeypatch.setattr(PoolLabels, "pseudo_case", days_after_the_case_before)
    assert grow_stage(run).cases == CHOSEN


def test_failure_while_writing_leaves_nothing(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_ssl.pseudolabel.pool_labels import PoolLabels

    run, seen, real = open_tiny_run(taught_project), [], PoolLabels.pseudo_case

    def fails_at_the_second(self: Any, case: str, *arguments: Any, **options: Any) -> Any:
        seen.append(case)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(self, case, *arguments, **options)

    write_evidence(teacher_store(run))
    monkeypatch.setattr(PoolLabels, "pseudo_case", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        grow_stage(run)
    for root in (taught_project.raw, taught_project.preprocessed):
        assert [f.name for f in root.iterdir()] == [DATASET]
    assert open_tiny_run(taught_project).manifest.stages == []


# ---- other kinds of datasets and folds


def test_final_mode_trains_on_every_label(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, "all", teacher_folds=[0, 1])
    assert run.manifest.teacher_folds == [0, 1]
    for store in run.teacher_stores().values():
        write_evidence(store)
    record = grow_stage(run)
    assert record.dataset == "Dataset601_Tiny_falls1"
    sidecar = read_sidecar(taught_project.raw / record.dataset)
    assert sidecar is not None
    assert sidecar["fold"] == "all"
    assert sidecar["labelled_cases"] == sidecar["validation_cases"] == LABELLED
    assert sidecar["init_checkpoint"].endswith("fold_0/checkpoint_final.pth")
    splits = content(taught_project.preprocessed / record.dataset / "splits_final.json")
    assert splits == content(taught_project.preprocessed / DATASET / "splits_final.json")


@pytest.mark.parametrize(("damage", "says"), [("[{", "cannot be read as JSON"), ("[{}]", "fold 0 has no list of case names under 'train'")])
def test_damaged_splits_in_final_mode(taught_project: Project, damage: str, says: str) -> None:
    """Where the teacher was trained on all labels, too, nothing else reads them."""
    write_teacher(fold="all")
    run = open_tiny_run(taught_project, "all", teacher_folds=["all"])
    write_evidence(teacher_store(run))
    (taught_project.preprocessed / DATASET / "splits_final.json").write_text(damage)
    with pytest.raises(InputError, match=rf"{DATASET}/splits_final\.json:? {says}"):
        grow_stage(run)
    assert not (taught_project.raw / "Dataset601_Tiny_falls1").exists()


def test_regions_have_a_channel_each(taught_project: Project) -> None:
    labels = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    for path in (taught_project.raw / DATASET / "dataset.json", taught_project.preprocessed / DATASET / "dataset.json"):
        path.write_text(json.dumps({**content(path), **labels}))
    run = open_tiny_run(taught_project, settings={"student.init": "scratch"})
    for case in POOL:
        label = phantom(case)[1]
        mean = np.stack([np.where(label > 0, 0.9, 0.2), np.where(label > 1, 0.8, 0.1)])
        evidence = Evidence(mean=mean, variance=np.full_like(mean, 0.05), votes=mean.round(), num_samples=8, has_regions=True)
        teacher_store(run).write(case, evidence)
    record = grow_stage(run)
    case = record.cases[0]
    label = phantom(case)[1]
    targets = blosc2.open(str(preprocessed(taught_project, f"{IDENTIFIER}__nnssl", f"{case}.b2nd")), mode="r")[:]
    assert targets.shape == (1 + 2 + 2, *label.shape)
    # the larger of p and 1 - p, times 1 - 4 v = 0.8
    np.testing.assert_allclose(targets[1], 1e4 * 0.8 * np.where(label > 0, 0.9, 0.8), atol=1)
    np.testing.assert_allclose(targets[2], 1e4 * 0.8 * np.where(label > 1, 0.8, 0.9), atol=1)
    np.testing.assert_allclose(targets[3], 1e4 * np.where(label > 0, 0.9, 0.2), atol=1)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(raw(taught_project, "labelsTr", f"{case}.nii.gz"))))
    assert np.array_equal(written, label)
    confidence = sitk.ReadImage(str(raw(taught_project, "confidenceTr", f"{case}.nii.gz")))
    assert confidence.GetNumberOfComponentsPerPixel() == 2
    assert read_sidecar(raw(taught_project))["num_confidence_channels"] == 2  # type: ignore[index]
    locations = load_pickle(str(preprocessed(taught_project, IDENTIFIER, f"{case}.pkl")))["class_locations"]
    # tau = 0.7: outside the core the second region has 0.72, inside 0.64; so only the rim is trusted in both
    assert [len(v) for _, v in sorted(locations.items(), key=lambda i: -len(i[1]))] == [int((label == 1).sum()), 0]


def test_2d_configurations(project: Project) -> None:
    """The set-up's spacing is 1 everywhere, so the 2D configuration's data are those of the 3D one."""
    base = project.preprocessed / DATASET
    shutil.copytree(base / IDENTIFIER, base / "nnUNetPlans_2d")
    setup = load_setup("137", "2d", "nnUNetPlans")
    pool = prepare_pool(setup, [project.unlabelled], skip_bad=False, num_processes=1)
    assert pool.folder.name.startswith("nnUNetPlans_2d__pool_")
    write_teacher("nnUNetTrainer", plans="nnUNetPlans", configuration="2d")
    method = MethodConfig().with_settings({"student.init": "scratch", "curriculum.fractions": [0.5, 1.0]})
    run = open_run(RunSpec(setup=setup, fold=0, teacher_trainer="nnUNetTrainer", method=method))
    write_evidence(teacher_store(run))
    record = grow_stage(run)
    assert record.cases == CHOSEN
    folder = project.preprocessed / STAGE
    assert infer_dataset_class(str(folder / "nnUNetPlans_2d")) is nnUNetDatasetBlosc2
    targets = blosc2.open(str(folder / "nnUNetPlans_2d__nnssl" / "pool_0.b2nd"), mode="r")
    assert targets.shape == (5, *phantom("pool_0")[1].shape)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(raw(project, "labelsTr", "pool_0.nii.gz"))))
    assert np.array_equal(written, phantom("pool_0")[1])
    found = content(folder / "nnUNetPlans.json")
    assert "nnssl" in found["configurations"]["2d"]
    assert "nnssl" not in found["configurations"][CONFIGURATION]


def test_targets_without_probabilities_where_the_loss_needs_none(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, settings={"student.targets": "hard", "student.unlearning": "bounded"})
    write_evidence(teacher_store(run))
    record = grow_stage(run)
    targets = blosc2.open(str(preprocessed(taught_project, f"{IDENTIFIER}__nnssl", f"{record.cases[0]}.b2nd")), mode="r")
    assert targets.shape[0] == 2
    assert read_sidecar(raw(taught_project))["num_probability_channels"] == 0  # type: ignore[index]
