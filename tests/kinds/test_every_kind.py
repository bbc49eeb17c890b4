"""What holds for every kind of dataset: from raw images to a student that stock nnU-Net predicts with, labels where the images lie."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dataset_kinds import KINDS, POOL, scene
from kind_commands import STUDENT, TEACHER, KindRun, kind_environment
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from tiny_setup import Project

from nnunet_ssl.cli import report
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.locations import ModelLocation

pytestmark = pytest.mark.slow

Opened = Callable[[str], KindRun]


def read(path: Path) -> NDArray[Any]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def geometry(path: Path) -> tuple[Any, ...]:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), *(tuple(np.round(v, 5)) for v in (image.GetSpacing(), image.GetOrigin(), image.GetDirection()))


def foreground_dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(2 * ((a > 0) & (b > 0)).sum() / ((a > 0).sum() + (b > 0).sum()))


def logged(model: ModelLocation, fold: int | str) -> dict[str, list[Any]]:
    """What nnU-Net's logger had at the end of a training."""
    values: dict[str, list[Any]] = torch.load(model.checkpoint(fold), weights_only=False)["logging"]
    return values


@pytest.mark.parametrize("name", KINDS)
def test_teacher_and_students_have_trained(opened: Opened, name: str) -> None:
    kind_run = opened(name)
    run = kind_run.open()
    assert run.manifest.published
    assert [len(stage.cases) for stage in run.manifest.stages] == [int(share * len(POOL)) for share in kind_run.kind.stages]
    for fold in run.manifest.teacher_folds:
        values = logged(run.teacher, fold)
        assert len(values["train_losses"]) == 2
        assert np.isfinite(values["train_losses"]).all()
        assert np.isfinite(values["loss_uncertainty"][-1])
    for stage in run.manifest.stages:
        values = logged(run.student(stage.stage), run.fold)
        for term in ("train_losses", "loss_supervised", "loss_high", "loss_low"):
            assert np.isfinite(values[term]).all(), term
        assert run.student(stage.stage).validation_summary(run.fold).is_file()


@pytest.mark.parametrize("name", KINDS)
def test_pool_is_found_by_the_datasets_file_ending(opened: Opened, name: str) -> None:
    kind_run = opened(name)
    pool = load_pool(kind_run.open().setup)
    files = 1 if kind_run.kind.ending == ".png" else len(kind_run.kind.channels)
    folder, ending = kind_run.project.unlabelled, kind_run.kind.ending
    assert pool.images == {case: tuple(str(folder / f"{case}_{i:04d}{ending}") for i in range(files)) for case in POOL}


@pytest.mark.parametrize("name", KINDS)
def test_stock_nnunet_predicts_with_the_published_student(opened: Opened, name: str, tmp_path: Path) -> None:
    kind_run = opened(name)
    kind = kind_run.kind
    kind_run.predict(STUDENT, [kind.fold], tmp_path)
    classes = {value for group in kind.labels.values() for value in np.atleast_1d(group)} - {kind.ignore_label}
    for case in POOL:
        found = tmp_path / f"{case}{kind.ending}"
        assert geometry(found) == geometry(kind_run.project.unlabelled / f"{case}_0000{kind.ending}")
        assert set(np.unique(read(found))) <= classes


def stock_mean_probabilities(kind_run: KindRun, run: Any, out: Path) -> None:
    """A stock prediction of the teacher, which averages its network's outputs, with probabilities (regions: less 1/2) for logits."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(run.teacher.folder), tuple(run.manifest.teacher_folds), "checkpoint_final.pth")
    regions = run.setup.has_regions
    predictor.network.register_forward_hook(lambda _, __, logits: logits.sigmoid() - 0.5 if regions else logits.softmax(1))
    predictor.predict_from_files_sequential(str(kind_run.project.unlabelled), str(out))


@pytest.mark.parametrize("name", KINDS)
def test_labels_of_a_stage_are_a_stock_prediction_voxel_by_voxel(opened: Opened, name: str, tmp_path: Path) -> None:
    """Two samples are as many as the mirrored views, without dropout: the same mean as nnU-Net's, which it takes in half precision."""
    kind_run = opened(name)
    run, ending = kind_run.open(), kind_run.kind.ending
    stock_mean_probabilities(kind_run, run, tmp_path)
    stage = run.manifest.stages[0]
    assert stage.calibration is None
    for case in stage.cases:
        label, stock = kind_run.project.raw / stage.dataset / "labelsTr" / f"{case}{ending}", tmp_path / f"{case}{ending}"
        assert geometry(label) == geometry(stock) == geometry(kind_run.project.unlabelled / f"{case}_0000{ending}")
        ours, theirs = read(label), read(stock)
        assert np.mean(ours != theirs) < 5e-3
        assert foreground_dice(ours, scene(kind_run.kind, case)[1].reshape(ours.shape)) > 0.6
        for axis in range(ours.ndim):
            assert foreground_dice(np.flip(ours, axis), theirs) < 0.97  # a wrong orientation would show


@pytest.mark.parametrize("name", KINDS)
def test_maps_of_a_stage_lie_on_its_labels(opened: Opened, name: str) -> None:
    kind_run = opened(name)
    run = kind_run.open()
    ending = ".nii.gz" if kind_run.kind.ending == ".png" else kind_run.kind.ending
    heads = run.setup.heads if run.setup.has_regions else 1
    for stage in run.manifest.stages:
        raw = kind_run.project.raw / stage.dataset
        assert sorted(f.name for f in (raw / "labelsTr").iterdir()) == sorted(
            f"{case}{kind_run.kind.ending}" for case in [*kind_run.kind.labelled, *stage.cases]
        )
        for case in stage.cases:
            shape = read(raw / "labelsTr" / f"{case}{kind_run.kind.ending}").shape
            for folder, most in (("confidenceTr", 1.0), ("uncertaintyTr", 0.25)):
                found = sitk.ReadImage(str(raw / folder / f"{case}{ending}"))
                values = sitk.GetArrayFromImage(found)
                assert found.GetNumberOfComponentsPerPixel() == heads
                assert values.shape[-len(shape) - (heads > 1) :][: len(shape)] == shape
                assert 0 <= values.min() < values.max() <= most


@pytest.mark.parametrize("name", KINDS)
def test_report_is_written(finished: Callable[[str], KindRun], tmp_path: Path, name: str) -> None:
    done = finished(name)
    project = Project(done.project.raw, done.project.preprocessed, tmp_path / "results", done.project.unlabelled)
    shutil.copytree(done.project.results, project.results)  # the report lies in the workspace
    kind_run = KindRun(done.kind, project, done.plans)
    with kind_environment(project):
        assert "report.html" in kind_run.ours(report, "-f", done.kind.fold, "-tr", TEACHER)
        page = (kind_run.open().workspace / "report" / "report.html").read_text()
    for label in (name for name in done.kind.labels if name not in ("background", "ignore")):
        assert label in page
