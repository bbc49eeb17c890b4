"""CT in NRRD files, at the low resolution of a cascade."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from dataset_kinds import POOL, scene
from kind_commands import STUDENT, KindRun
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ssl.data.pool_index import load_pool

pytestmark = pytest.mark.slow

Opened = Callable[[str], KindRun]


def test_pool_is_normalised_with_the_statistics_of_labelled_cases_alone(opened: Opened) -> None:
    kind_run = opened("Organs")
    run = kind_run.open()
    (statistics,) = json.loads((kind_run.preprocessed / "dataset_fingerprint.json").read_text())[
        "foreground_intensity_properties_per_channel"
    ].values()
    inside = {
        name: np.concatenate([image[0][label > 0] for image, label in (scene(kind_run.kind, case) for case in cases)])
        for name, cases in (("labelled", kind_run.kind.labelled), ("pool", POOL))
    }
    assert statistics["mean"] == pytest.approx(inside["labelled"].mean(), rel=0.01)
    assert statistics["std"] == pytest.approx(inside["labelled"].std(), rel=0.05)
    assert inside["pool"].mean() > 1.3 * statistics["mean"]
    assert run.setup.configuration_manager.normalization_schemes == ["CTNormalization"]
    configuration, low, high = run.setup.configuration_manager, statistics["percentile_00_5"], statistics["percentile_99_5"]
    for case in POOL:
        image = nnUNetDatasetBlosc2(str(load_pool(run.setup).folder), [case]).load_case(case)[0][:]
        normalised = (scene(kind_run.kind, case)[0].clip(low, high) - statistics["mean"]) / statistics["std"]
        expected = configuration.resampling_fn_data(normalised, image.shape[1:], [1.0, 1.0, 1.0], configuration.spacing)
        np.testing.assert_allclose(image, expected, atol=1e-4)


def test_low_resolution(opened: Opened) -> None:
    kind_run = opened("Organs")
    run = kind_run.open()
    for case in POOL:
        image = nnUNetDatasetBlosc2(str(load_pool(run.setup).folder), [case]).load_case(case)[0]
        assert image.shape == (1, 16, 17, 19)  # 24 x 26 x 28 at 1.5 mm
        assert run.teacher_stores()[0].read(case).mean.shape == (2, 16, 17, 19)


def test_second_stage_of_the_cascade_is_left_out(opened: Opened) -> None:
    """nnU-Net's validation of a first stage also predicts for the second, whose data neither D nor a stage dataset has here."""
    kind_run = opened("Organs")
    run = kind_run.open()
    assert run.setup.configuration_manager.next_stage_names == ["3d_cascade_fullres"]
    assert not (kind_run.preprocessed / "nnUNetPlans_3d_fullres").exists()
    (log,) = run.teacher.fold_folder(0).glob("training_log_*.txt")
    assert "Nothing is predicted for 3d_cascade_fullres: its data are not preprocessed" in log.read_text()
    stage = run.manifest.stages[0].dataset
    plans = json.loads((kind_run.project.preprocessed / stage / f"{kind_run.plans}.json").read_text())
    assert plans["configurations"]["3d_lowres"]["next_stage"] is None
    for model in (run.teacher, run.student(1)):
        assert not (model.folder / "predicted_next_stage").exists()
        assert model.validation_summary(0).is_file()
    assert run.manifest.student_trainer == STUDENT
