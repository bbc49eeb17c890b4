"""3D with four channels, regions, an empty frame, thick slices along the last axis: crop, transposition, and every region by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dataset_kinds import POOL, Kind, scene
from kind_commands import STUDENT, KindRun, seed_everything
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from numpy.typing import NDArray

from nnunet_ssl.confidence.calibration import calibrated
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.data.pool_index import load_pool

pytestmark = pytest.mark.slow

Opened = Callable[[str], KindRun]
REGIONS = ("whole tumour", "tumour core", "enhancing tumour")


def stored(folder: Path, case: str) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    image, seg, _, properties = nnUNetDatasetBlosc2(str(folder), [case]).load_case(case)
    return image[:], seg[:][0], properties


def content(kind: Kind) -> tuple[slice, ...]:
    """What the frame of zeros leaves of an image, axes (z, y, x)."""
    return tuple(slice(before, before + length) for (before, _), length in zip(kind.frame, kind.shape, strict=True))


def targets(kind_run: KindRun, stage: str, case: str) -> NDArray[np.int16]:
    (folder,) = (kind_run.project.preprocessed / stage).glob("*__nnssl")
    return np.asarray(blosc2.open(str(folder / f"{case}.b2nd"), mode="r")[:])


# ---- geometry


def test_thick_slices_come_first_and_zeros_go(opened: Opened) -> None:
    kind_run = opened("Tumours")
    setup = kind_run.open().setup
    assert setup.plans["transpose_forward"] == [2, 0, 1]
    assert setup.configuration_manager.spacing == [3.0, 1.0, 1.0]
    for case in POOL[:2]:  # whose spacing is the plans' own
        image, _, properties = stored(load_pool(setup).folder, case)
        z, y, x = kind_run.kind.shape
        assert image.shape == (4, x, z, y)
        # kept in the transposed order
        frame = [(s.start, s.stop) for s in content(kind_run.kind)]
        assert [tuple(b) for b in properties["bbox_used_for_cropping"]] == [frame[2], frame[0], frame[1]]
    resampled, _, _ = stored(load_pool(setup).folder, POOL[2])
    assert resampled.shape == (4, 7, 20, 22)  # 8 x 20 x 18 voxels of 2.5 x 1 x 1.2 mm on a grid of 3 x 1 x 1 mm


def test_unscanned_corner_is_outside_the_nonzero_mask(opened: Opened) -> None:
    """Normalised without it, background there for certain, and the student sees it as nnU-Net's own training would."""
    kind_run = opened("Tumours")
    kind, run = kind_run.kind, kind_run.open()
    assert run.setup.configuration_manager.configuration["use_mask_for_norm"] == [True] * 4
    for stage in run.manifest.stages:
        for case in set(stage.cases) & set(POOL[:2]):
            image, seg, _ = stored(load_pool(run.setup).folder, case)
            scanned = scene(kind, case)[0][(slice(None), *content(kind))].transpose(0, 3, 1, 2)
            outside = ~scanned.any(axis=0)
            assert outside.sum() == kind.unscanned**3
            assert np.array_equal(seg == -1, outside)
            for channel, values in zip(image, scanned, strict=True):
                inside = values[~outside]
                np.testing.assert_allclose(channel[~outside], (inside - inside.mean()) / inside.std(), atol=1e-3)
                assert not channel[outside].any()
            label = stored(kind_run.project.preprocessed / stage.dataset / run.setup.data_folder.name, case)[1]
            assert np.array_equal(label == -1, outside)
            written = targets(kind_run, stage.dataset, case)
            assert (written[1:4][:, outside] == 10_000).all()
            assert not written[4:][:, outside].any()


def test_what_is_cropped_away_is_background_for_certain(opened: Opened) -> None:
    kind_run = opened("Tumours")
    cropped = np.ones([sum(pair) + n for pair, n in zip(kind_run.kind.frame, kind_run.kind.shape, strict=True)], dtype=bool)
    cropped[content(kind_run.kind)] = False
    for stage in kind_run.open().manifest.stages:
        raw = kind_run.project.raw / stage.dataset
        for case in stage.cases:
            label, confidence, uncertainty = (
                sitk.GetArrayFromImage(sitk.ReadImage(str(raw / folder / f"{case}.nii.gz")))
                for folder in ("labelsTr", "confidenceTr", "uncertaintyTr")
            )
            assert not label[cropped].any()
            assert (confidence[cropped] == 1).all()
            assert not uncertainty[cropped].any()
            assert label.any()
            assert uncertainty[~cropped].any()


# ---- regions


def test_every_region_is_calibrated_by_itself(opened: Opened) -> None:
    run = opened("Tumours").open()
    assert run.setup.class_names == REGIONS
    study = json.loads((run.workspace / "held_out.json").read_text())
    assert sorted(case["case"] for case in study["cases"]) == ["lab_2", "lab_3", "lab_4", "lab_5"]
    for case in study["cases"]:
        assert set(case["dice"]) == set(REGIONS)
    fitted = CalibrationMap.from_dict(study["calibration"]["map"])
    assert fitted.has_regions
    assert len({str(head) for head in fitted.heads}) == 3
    assert len(study["tau"]) == 3
    assert run.manifest.stages[1].tau == study["tau"]


def test_evidence_is_of_each_region(opened: Opened) -> None:
    """Regions hold one another: probabilities do not sum to one."""
    run = opened("Tumours").open()
    for case in POOL:
        evidence = run.teacher_stores()[0].read(case)
        assert evidence.has_regions
        assert evidence.mean.shape == evidence.variance.shape == evidence.votes.shape
        assert len(evidence.mean) == 3
        assert evidence.mean.sum(axis=0).max() > 1.5
        predicted = evidence.predicted_labels()
        assert predicted.shape == evidence.mean.shape
        assert (predicted[0] & predicted[1]).any()


def test_second_stage_is_agreed_upon_region_by_region(opened: Opened) -> None:
    """Stored targets of stage 2: per region the mean of the calibrated teacher and student, and the larger of q and 1 - q."""
    kind_run = opened("Tumours")
    run = kind_run.open()
    record = run.manifest.stages[1]
    assert (record.label_stage, record.agreement_weight) == (1, 0.5)
    assert set(record.change or {}) == set(REGIONS)
    fitted = CalibrationMap.from_dict(json.loads((run.workspace / "held_out.json").read_text())["calibration"]["map"])
    (teacher,), student = run.teacher_stores().values(), run.student_store(1)
    for case in record.cases:
        written = targets(kind_run, record.dataset, case) / 10_000
        q = (calibrated(teacher.read(case), fitted) + calibrated(student.read(case), fitted)) / 2
        inside = stored(load_pool(run.setup).folder, case)[1] == 0
        assert written.shape == (1 + 3 + 3, *inside.shape)
        np.testing.assert_allclose(written[4:][:, inside], q[:, inside], atol=1e-3)
        np.testing.assert_allclose(written[1:4][:, inside], np.maximum(q, 1 - q)[:, inside], atol=1e-3)
        label = stored(kind_run.project.preprocessed / record.dataset / run.setup.data_folder.name, case)[1]
        expected = np.zeros_like(label)
        for value, region in zip(kind_run.kind.regions_class_order or (), q > 0.5, strict=True):
            expected[region] = value
        assert np.array_equal(label[inside], expected[inside])


def test_dual_loss_treats_every_region_by_itself(opened: Opened) -> None:
    """Doubt about one region, in every other plane, changes what its own output learns from the pool, and nothing else."""
    kind_run = opened("Tumours")
    trainer = get_trainer_from_args("602", "3d_fullres", 0, STUDENT, kind_run.plans, device=torch.device("cpu"))
    trainer.initialize()
    seed_everything(0)
    trainer.loss.config = replace(trainer.loss.config, unlearning_gradient_ratio=None)  # a common factor for all regions
    trainer.loss.blind_heads = []
    batch = next(trainer.get_dataloaders()[0])
    scales = len(batch["target"]) // 2
    pool = [i for i, case in enumerate(batch["keys"]) if case in POOL]
    assert batch["target"][0].shape[1] == 3
    assert batch["target"][scales].shape[1] == 1 + 3 + 3
    outputs = [torch.randn(t.shape, generator=torch.Generator().manual_seed(i)) for i, t in enumerate(batch["target"][:scales])]

    def gradient(doubted: int | None) -> torch.Tensor:
        target = [t.clone() for t in batch["target"]]
        for extra in target[scales:]:
            extra[pool, 1:4] = 10_000
            if doubted is not None:
                extra[pool, 1 + doubted, ..., ::2] = 100
        logits = [o.clone().requires_grad_() for o in outputs]
        trainer.loss(logits, target).backward()
        assert logits[0].grad is not None
        return logits[0].grad[pool]

    certain = gradient(None)
    for region in range(3):
        changed = (gradient(region) - certain).abs().flatten(2).amax(dim=(0, 2))
        assert changed[region] > 1e-7
        assert changed[[r for r in range(3) if r != region]].max() < 1e-9


def test_students_log_has_every_region(opened: Opened) -> None:
    run = opened("Tumours").open()
    for stage in run.manifest.stages:
        values = torch.load(run.student(stage.stage).checkpoint(0), weights_only=False)["logging"]["confident_share_per_class"]
        assert all(len(epoch) == 3 for epoch in values)
