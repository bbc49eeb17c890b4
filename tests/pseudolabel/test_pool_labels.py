"""Labels of the pool from evidence: the teacher's alone, fused with a student's, and what a stage stores of a case."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from cross_fitted import smaller
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_setup import DATASET, Project, evidence_of, phantom, write_image

from nnunet_ssl.confidence.calibration_map import CalibrationMap, LogitLine
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.pool_index import PoolIndex, load_pool
from nnunet_ssl.data.pseudo_case import preprocessed_files
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.pseudolabel.label_change import label_change
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels, confident_voxels

CASE = "pool_0"


def stores(folder: Path) -> tuple[EvidenceStore, EvidenceStore]:
    return EvidenceStore(folder / "teacher", source="t"), EvidenceStore(folder / "student", source="s")


def labels(project: Project, folder: Path, *, weight: float = 0.0, with_student: bool = True) -> PoolLabels:
    teacher, student = stores(folder)
    return PoolLabels(project.setup(), load_pool(project.setup()), {0: teacher}, student if with_student else None, weight)


@pytest.fixture
def two_opinions(project: Project, tmp_path: Path) -> tuple[Project, Path]:
    """Teacher and student differ where the student sees no core."""
    label = phantom(CASE)[1]
    teacher, student = stores(tmp_path)
    teacher.write(CASE, evidence_of(label, doubt=0.1))
    student.write(CASE, evidence_of(np.minimum(label, 1), doubt=0.2))
    return project, tmp_path


def test_teacher_alone(two_opinions: tuple[Project, Path]) -> None:
    label = phantom(CASE)[1]
    for found in (labels(*two_opinions), labels(*two_opinions, with_student=False, weight=0.5)):
        case = found.labels(CASE)
        assert np.array_equal(case.labels, label)
        assert case.labels.dtype == np.int16
        np.testing.assert_allclose(case.confidence, 0.9 * (1 - 0.01), atol=1e-4)
        assert case.confidence.shape == (1, *label.shape)
        assert case.valid.all()
        assert case.nonzero.all()


def test_student_alone_is_plain_self_training(two_opinions: tuple[Project, Path]) -> None:
    case = labels(*two_opinions, weight=1.0).labels(CASE)
    assert np.array_equal(case.labels, np.minimum(phantom(CASE)[1], 1))
    np.testing.assert_allclose(case.confidence, 0.8 * (1 - 0.04), atol=1e-4)
    assert case.valid.all()


def test_agreement_ignores_what_they_disagree_on(two_opinions: tuple[Project, Path]) -> None:
    label = phantom(CASE)[1]
    case = labels(*two_opinions, weight=0.5).labels(CASE)
    assert np.array_equal(case.valid, label != 2)
    # in the core the teacher has 0.9 for it, the student 0.1; for the rim 0.05 and 0.8
    assert np.array_equal(case.labels, label)
    mean = (0.9 * (1 - 0.01) + 0.8 * (1 - 0.04)) / 2
    np.testing.assert_allclose(case.confidence[0], np.where(label != 2, mean, 0), atol=1e-4)
    np.testing.assert_allclose(case.evidence.mean[2][label == 2], 0.5, atol=1e-4)
    assert case.evidence.num_samples == 16


def test_voxels_on_which_they_disagree_in_one_region_are_ignored(project: Project, tmp_path: Path) -> None:
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    for root in (project.raw, project.preprocessed):
        path = root / DATASET / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **regions}))
    label = phantom(CASE)[1]
    edge, core = (smaller(label, 1) == 0) & (label > 0), label == 2
    for store, inside, doubt in zip(stores(tmp_path), ((label > 0, core), ((label > 0) & ~edge, core & ~core)), (0.1, 0.2), strict=True):
        mean = np.where(np.stack(inside), 1 - doubt, doubt)
        store.write(CASE, Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=8, has_regions=True))
    evidence, confidence, valid = labels(project, tmp_path, weight=0.5).evidence(CASE)
    assert evidence.has_regions
    assert not (edge & core).any()
    assert np.array_equal(valid, ~(edge | core))
    # the mean of 0.9 and 0.8 in the regions that they agree on
    np.testing.assert_allclose(confidence, np.where(np.stack([edge, core]), 0, 0.85), atol=1e-4)


def test_more_weight_for_the_student_changes_the_label(two_opinions: tuple[Project, Path]) -> None:
    label = phantom(CASE)[1]
    case = labels(*two_opinions, weight=0.6).labels(CASE)
    assert np.array_equal(case.labels, np.minimum(label, 1))
    assert np.array_equal(case.valid, label != 2)


def test_change_of_labels(two_opinions: tuple[Project, Path]) -> None:
    label = phantom(CASE)[1]
    before, after = labels(*two_opinions), labels(*two_opinions, weight=0.6)
    change = label_change(before, after, [CASE])
    core, ball = int((label == 2).sum()), int((label > 0).sum())
    assert change.per_class == pytest.approx({"rim": core / ball, "core": 1.0})
    # a voxel that goes from one class to another counts once for each
    assert change.overall == pytest.approx(2 * core / (ball + core))
    assert change.describe().startswith(f"rim {100 * core / ball:.1f} %, core 100.0 % changed; all ")
    none = label_change(before, labels(*two_opinions), [CASE])
    assert (none.overall, none.per_class) == (0.0, {"rim": 0.0, "core": 0.0})


def test_each_fold_is_calibrated_by_its_own_map_before_they_are_averaged(project: Project, tmp_path: Path) -> None:
    """The odds of fold 0 are squared, those of fold 1 go to their square root."""
    label = phantom(CASE)[1]
    seen = smaller(label, 1)
    folds: dict[int | str, EvidenceStore] = {fold: EvidenceStore(tmp_path / f"f{fold}", source=f"t{fold}") for fold in (0, 1)}
    folds[0].write(CASE, evidence_of(label, doubt=0.5))
    folds[1].write(CASE, evidence_of(seen, doubt=0.2))
    maps: dict[int | str, CalibrationMap] = {0: _power_of_odds(2.0), 1: _power_of_odds(0.5)}
    pool = load_pool(project.setup())
    found = PoolLabels(project.setup(), pool, folds, None, 0.0, maps=maps, student_map=_power_of_odds(1.0)).evidence(CASE)
    # fold 0: odds 1, 1/3, 1/3 become 1, 1/9, 1/9, that is 5/7, 1/7, 1/7; fold 1: 4, 1/9, 1/9 become 2, 1/3, 1/3, that is 8/14, 3/14, 3/14
    agreed, missed = [5 / 28, 18 / 28, 5 / 28], [10 / 28, 13 / 28, 5 / 28]
    for voxels, q in ((seen == 1, agreed), ((label == 1) & (seen == 0), missed)):
        np.testing.assert_allclose(found[0].mean[:, voxels].T, np.tile(q, (voxels.sum(), 1)), atol=1e-4)
        np.testing.assert_allclose(found[1][0][voxels], max(q), atol=1e-4)
    # nothing was measured so far from the foreground
    np.testing.assert_allclose(found[0].mean[:, 0, 0, 0], [0.65, 0.175, 0.175], atol=1e-4)


def _power_of_odds(power: float) -> CalibrationMap:
    return CalibrationMap(kind="logistic", has_regions=False, heads=(LogitLine(slope=power),) * 3)


def test_missing_evidence_is_an_error(project: Project, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="evidence of case 'pool_0' is missing"):
        labels(project, tmp_path).labels(CASE)


def test_ignored_voxels_are_marked_in_what_a_stage_stores(two_opinions: tuple[Project, Path]) -> None:
    label = phantom(CASE)[1]
    pseudo = labels(*two_opinions, weight=0.5).pseudo_case(CASE, 0.7, with_probabilities=True)
    assert np.array_equal(pseudo.valid, label != 2)
    assert np.array_equal(pseudo.labels, label)
    assert np.array_equal(pseudo.confident, label != 2)
    assert pseudo.probabilities is not None
    assert pseudo.probabilities.shape == (3, *label.shape)
    np.testing.assert_allclose(pseudo.probabilities.sum(0), 1, atol=1e-4)
    # confidence 0 where they disagree, also in the image
    assert float(pseudo.confidence_image[label == 2].max()) == 0
    assert float(pseudo.uncertainty_image.max()) <= 0.25
    assert labels(*two_opinions).pseudo_case(CASE, 0.7, with_probabilities=False).probabilities is None


def test_rounding_lifts_no_voxel_over_a_threshold_that_nothing_was_measured_for(two_opinions: tuple[Project, Path]) -> None:
    """Of a class that held-out cases never show the threshold is 1, which a manual label reaches, and a pool's voxel must not."""
    label = phantom(CASE)[1]
    project, folder = two_opinions
    pseudo = labels(project, folder).pseudo_case(CASE, (0.5, 0.5, 1.0), with_probabilities=False)
    sure = np.where(label[None] > 0, np.float32(0.99999), np.float32(1))
    properties = load_properties(load_pool(project.setup()).folder, CASE)
    files = preprocessed_files(replace(pseudo, confidence=sure), project.setup(), properties)
    stored = blosc2.ndarray_from_cframe(files.targets)[:][1]
    assert set(np.unique(stored[label > 0])) == {9_999}
    assert set(np.unique(stored[label == 0])) == {10_000}


def test_single_pass_has_the_heads_uncertainty(project: Project, tmp_path: Path) -> None:
    """Where one deterministic pass is all there is, the network's head says how uncertain it is."""
    label = phantom(CASE)[1]
    sampled = evidence_of(label, doubt=0.1)
    log = np.where(label > 0, np.log(0.2), np.log(0.01))[None]
    teacher, _ = stores(tmp_path)
    evidence = Evidence(
        mean=sampled.mean, variance=sampled.mean * 0, votes=sampled.votes, num_samples=1, has_regions=False, log_variance=log
    )
    teacher.write(CASE, evidence)
    pseudo = labels(project, tmp_path).pseudo_case(CASE, 0.7, with_probabilities=False)
    np.testing.assert_allclose(pseudo.uncertainty_image, np.where(label > 0, 0.2, 0.01), atol=1e-4)
    # 0.9 (1 - 4 exp(U))
    np.testing.assert_allclose(pseudo.confidence[0], np.where(label > 0, 0.9 * 0.2, 0.9 * 0.96), atol=1e-3)


# ---- images that are not whole, or not on the network's grid


@pytest.fixture
def odd_case(fresh_project: Project) -> tuple[Project, PoolIndex]:
    """A pool of one image with an empty border, which is cropped, and an empty corner, which the mask leaves out."""
    image = phantom(CASE)[0]
    image[:3], image[:, :, 15:], image[:8, :8] = 0, 0, 0
    for found in fresh_project.unlabelled.iterdir():
        if found.is_file():
            found.unlink()
    write_image(image, fresh_project.unlabelled / f"{CASE}_0000.nii.gz", spacing=(1.2, 1.0, 0.9))
    fresh_project.change_plans(lambda plans, configuration: configuration.update(use_mask_for_norm=[True]))
    return fresh_project, fresh_project.prepare_pool()


def test_background_outside_the_nonzero_mask_is_certain_and_foreground_stays(odd_case: tuple[Project, PoolIndex], tmp_path: Path) -> None:
    """As in nnU-Net's own training data: a cyst, or air, may be empty in every channel."""
    project, pool = odd_case
    _, seg, _, properties = nnUNetDatasetBlosc2(str(pool.folder), [CASE]).load_case(CASE)
    outside = seg[:][0] < 0
    assert 0 < outside.sum() < outside.size
    teacher, _ = stores(tmp_path)
    label = np.ones(outside.shape, np.int16)
    label[:, ::2] = 0
    empty = outside & (label == 0)
    assert 0 < empty.sum() < outside.sum()
    teacher.write(CASE, evidence_of(label, doubt=0.4))
    found = labels(project, tmp_path, with_student=False)
    case = found.labels(CASE)
    assert np.array_equal(case.labels, np.where(empty, -1, label))
    assert np.array_equal(case.nonzero, ~outside)
    assert np.array_equal(case.empty, empty)
    pseudo = found.pseudo_case(CASE, 0.55, with_probabilities=True)
    assert pseudo.probabilities is not None
    assert np.all(pseudo.confidence[0][empty] == 1)
    assert np.all(pseudo.probabilities[:, empty].T == [1, 0, 0])
    kept = outside & ~empty
    np.testing.assert_allclose(pseudo.confidence[0][kept], pseudo.confidence[0][(label == 1) & ~outside][0], atol=1e-4)
    np.testing.assert_allclose(pseudo.probabilities[:, kept].T, np.tile([0.2, 0.6, 0.2], (kept.sum(), 1)), atol=1e-4)
    assert np.array_equal(pseudo.labels, case.labels)
    # what is written for the viewer says the same, on the image's grid (z, y, x): background outside the crop
    assert pseudo.labels_image.shape == properties["shape_before_cropping"] == (18, 22, 20)
    assert not pseudo.labels_image[:3].any()
    assert not pseudo.labels_image[:, :, 15:].any()
    assert np.all(pseudo.confidence_image[:3] == 1)
    assert np.all(pseudo.uncertainty_image[:3] == 0)


def test_disagreement_outside_the_nonzero_mask_is_ignored(odd_case: tuple[Project, PoolIndex], tmp_path: Path) -> None:
    project, pool = odd_case
    outside = nnUNetDatasetBlosc2(str(pool.folder), [CASE]).load_case(CASE)[1][:][0] < 0
    teacher, student = stores(tmp_path)
    background = np.zeros(outside.shape, np.uint8)
    disputed = outside.copy()
    disputed[:, :4] = False
    assert 0 < disputed.sum() < outside.sum()
    teacher.write(CASE, evidence_of(background, doubt=0.2))
    student.write(CASE, evidence_of(np.where(disputed, 2, background), doubt=0.4))
    case = labels(project, tmp_path, weight=0.5).labels(CASE)
    assert np.array_equal(case.valid, ~disputed)
    assert np.array_equal(case.empty, outside & ~disputed)


# ---- where a label can be trusted


def test_confident_voxels() -> None:
    confidence = np.array([0.7, 0.69, 0.9, 0.5], np.float32).reshape(1, 4, 1, 1)
    predicted = np.array([0, 0, 1, 1]).reshape(4, 1, 1)
    found: Any = confident_voxels(confidence, predicted, 0.7)
    assert found.ravel().tolist() == [True, False, True, False]
    found = confident_voxels(confidence, predicted, (0.6, 0.95))
    assert found.ravel().tolist() == [True, True, False, False]


def test_confident_voxels_of_regions_are_so_in_all() -> None:
    confidence = np.array([[0.9, 0.9, 0.6], [0.8, 0.6, 0.9]], np.float32).reshape(2, 3, 1, 1)
    predicted = np.ones((2, 3, 1, 1), dtype=bool)
    assert confident_voxels(confidence, predicted, 0.7).ravel().tolist() == [True, False, False]
    assert confident_voxels(confidence, predicted, (0.5, 0.7)).ravel().tolist() == [True, False, True]


def test_memory_does_not_grow_with_the_folds(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (40, 60, 60)
    sure = evidence_of(np.ones(shape, dtype=np.uint8), doubt=0.1)
    monkeypatch.setattr(EvidenceStore, "read", lambda *_: replace(sure, mean=sure.mean.copy(), votes=sure.votes.copy()))
    monkeypatch.setattr(PoolLabels, "_nonzero", lambda *_: np.ones(shape, dtype=bool))
    line = CalibrationMap(kind="logistic", has_regions=False, heads=(LogitLine(slope=1.5),) * 3)
    peaks = {}
    for number in (3, 6):
        teacher = dict.fromkeys(range(number), stores(tmp_path)[0])
        found = PoolLabels(
            project.setup(), load_pool(project.setup()), teacher, None, 0.0, maps=dict.fromkeys(teacher, line), student_map=line
        )
        tracemalloc.start()
        found.evidence(CASE)
        peaks[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[3] > 4 * sure.mean.nbytes
    assert peaks[6] < 1.1 * peaks[3]
