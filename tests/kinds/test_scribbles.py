"""Volumes slice by slice, four labelled cases, a third of each under nnU-Net's ignore label, two folds of the user's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_kinds import POOL, manual_label
from kind_commands import NUMBER, STUDENT, TEACHER, KindRun, kind_environment, seed_everything
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_setup import Project, mtimes

from nnunet_ssl.cli import run as run_command
from nnunet_ssl.errors import SetupError
from nnunet_ssl.pseudolabel import held_out_study
from nnunet_ssl.pseudolabel.held_out_study import study_held_out
from nnunet_ssl.training.cutmix import CutMix

pytestmark = pytest.mark.slow

Opened = Callable[[str], KindRun]
IGNORE = 3


# ---- the ignore label


@pytest.mark.parametrize(("dataset", "trainer", "fold"), [(str(NUMBER), TEACHER, 0), ("602", STUDENT, "all")])
def test_ignored_voxels_teach_nothing(opened: Opened, dataset: str, trainer: str, fold: Any) -> None:
    """No output at a voxel under the ignore label receives a gradient, at any scale, pasted into a pool sample or not; others do."""
    kind_run = opened("Scribbles")
    made = get_trainer_from_args(dataset, "2d", fold, trainer, kind_run.plans, device=torch.device("cpu"))
    made.initialize()
    seed_everything(0)
    batches, ignored_voxels = made.get_dataloaders()[0], {"labelled": 0, "pool": 0}
    for _ in range(6):
        batch = next(batches)
        if trainer == STUDENT:
            batch = CutMix(probability=1.0, generator=np.random.default_rng(0))(batch)
        scales = len(made._get_deep_supervision_scales())
        outputs = [torch.randn(2, 3, *t.shape[2:], requires_grad=True) for t in batch["target"][:scales]]
        made.loss(outputs, batch["target"]).backward()
        for output, target in zip(outputs[:-1], batch["target"], strict=False):  # the coarsest scale has no weight
            assert output.grad is not None
            ignored, received = target[:, 0] == IGNORE, output.grad.abs().amax(dim=1)
            assert not received[ignored].any()
            assert received[~ignored].any()
            for case, voxels in zip(batch["keys"], ignored.flatten(1).sum(1), strict=True):
                ignored_voxels["pool" if case in POOL else "labelled"] += int(voxels)
    assert ignored_voxels["labelled"] > 0
    assert (ignored_voxels["pool"] > 0) == (trainer == STUDENT)


def test_ignored_voxels_are_not_counted_for_calibration(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    kind_run = opened("Scribbles")
    run = kind_run.open()
    counted: list[Any] = []
    count = held_out_study.count_held_out

    def watched(*arguments: Any, **options: Any) -> Any:
        counted.append(count(*arguments, **options))
        return counted[-1]

    monkeypatch.setattr(held_out_study, "count_held_out", watched)
    study = study_held_out(run)
    assert study is not None
    assert [case.case for case in study.cases] == ["lab_2", "lab_3", "lab_0", "lab_1"]
    assert study.calibration.map is not None
    # every case twice, before and after its map is known
    assert len(counted) == 2 * len(study.cases)
    for case, counts in zip((*study.cases, *study.cases), counted, strict=True):
        label = manual_label(kind_run.kind, case.case)
        expected = [(label == k).sum() for k in range(3)]
        assert counts.true_voxels.tolist() == expected
        assert sum(expected) == label.size * 14 // 22
        assert counts.predicted_voxels.sum() == sum(expected)
        # each voxel of the band falls in one bin of every head
        assert (counts.totals.sum(axis=1) == counts.totals[0].sum()).all()
        assert counts.totals[0].sum() <= sum(expected)


def test_ignore_label_is_never_a_pseudo_label(opened: Opened) -> None:
    kind_run = opened("Scribbles")
    run = kind_run.open()
    assert run.setup.heads == 3
    for stage in run.manifest.stages:
        for case in stage.cases:
            folder = kind_run.project.preprocessed / stage.dataset / run.setup.data_folder.name
            _, seg, _, properties = nnUNetDatasetBlosc2(str(folder), [case]).load_case(case)
            assert set(np.unique(seg[:])) <= {0, 1, 2}
            # where nnU-Net's loader may centre its crops: no voxel of the pool is ignored here
            assert len(properties["class_locations"][-1, 0, 1, 2]) == seg.shape[1] * seg.shape[2] * seg.shape[3]


# ---- four labelled cases


def test_folds_of_a_splits_file_are_cross_fitted(opened: Opened) -> None:
    kind_run = opened("Scribbles")
    run = kind_run.open()
    assert run.manifest.teacher_folds == [0, 1]
    assert run.held_out_cases == {0: ["lab_2", "lab_3"], 1: ["lab_0", "lab_1"]}
    assert [stage.calibration is None for stage in run.manifest.stages] == [True, False]
    # both teachers see a case of the pool; its evidence is merged by their sums
    first, second = run.teacher_stores().values()
    assert not np.array_equal(first.read(POOL[0]).mean, second.read(POOL[0]).mean)


@pytest.fixture
def without_splits(finished: Callable[[str], KindRun], tmp_path: Path) -> KindRun:
    """The set-up without its splits file, before anything is trained."""
    done = finished("Scribbles")
    project = Project(*(tmp_path / part.name for part in (done.project.raw, done.project.preprocessed, done.project.results)), tmp_path)
    shutil.copytree(done.project.raw / done.kind.dataset, project.raw / done.kind.dataset)
    shutil.copytree(done.preprocessed, project.preprocessed / done.kind.dataset)
    (project.preprocessed / done.kind.dataset / "splits_final.json").unlink()
    project.results.mkdir()
    return KindRun(done.kind, project, done.plans)


TOO_FEW = "Dataset137_Scribbles has 4 labelled cases, too few for nnU-Net's five folds; write {} with folds of your own"


def test_too_few_cases_for_nnunets_own_split(without_splits: KindRun) -> None:
    """Said before anything is trained; `-f all` then has one teacher."""
    splits = without_splits.preprocessed / "splits_final.json"
    with kind_environment(without_splits.project):
        before = mtimes(without_splits.project.raw, without_splits.project.preprocessed, without_splits.project.results)
        for flags in ([], ["--dry-run"]):
            said = without_splits.ours(run_command, "-f", "0", "-device", "cpu", "--stages", "1.0", *flags, code=2)
            (line,) = [line for line in said.splitlines() if line.startswith("nnssl_run: error: ")]
            assert TOO_FEW.format(splits) in line
            assert "Traceback" not in said
        said = without_splits.ours(run_command, "-f", "all", "-device", "cpu", "--dry-run")
        assert "train the teacher (fold all)" in said
        assert "train the teacher (fold 0)" not in said
        assert mtimes(without_splits.project.raw, without_splits.project.preprocessed, without_splits.project.results) == before


def test_teacher_of_too_few_cases_says_what_to_do(without_splits: KindRun) -> None:
    with kind_environment(without_splits.project), pytest.raises(SetupError, match="has 4 labelled cases") as caught:
        without_splits.train(NUMBER, 0, TEACHER)
    assert TOO_FEW.format(without_splits.preprocessed / "splits_final.json") in str(caught.value)
    assert "-f all" in str(caught.value)


def test_fold_that_the_splits_do_not_have(opened: Opened) -> None:
    """nnU-Net would train a random split of its own for it."""
    kind_run = opened("Scribbles")
    before = json.loads((kind_run.preprocessed / "splits_final.json").read_text())
    said = kind_run.ours(run_command, "-f", "4", "-device", "cpu", "--dry-run", code=2)
    assert "fold 4 is not in the 2 splits of Dataset137_Scribbles" in said
    assert json.loads((kind_run.preprocessed / "splits_final.json").read_text()) == before
