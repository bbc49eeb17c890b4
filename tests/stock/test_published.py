"""What nnU-Net's other commands make of a published student: prediction, ensembles, the best configuration, post-processing, export."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from kind_commands import stock
from numpy.typing import NDArray
from stock_models import StockModels
from tiny_setup import CONFIGURATION, DATASET, OUR_STUDENT, OUR_TEACHER, PLANS

pytestmark = pytest.mark.slow

CPU = ("-device", "cpu", "-npp", 0, "-nps", 0)
WITH_WORKERS = ("-device", "cpu", "-npp", 1, "-nps", 1)
"""`nnUNetv2_predict_from_modelfolder` cannot do without."""
CASES = ("pool_0",)


def read(path: Path) -> NDArray[Any]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.fixture
def images(stock_models: StockModels, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for case in CASES:
        (folder / f"{case}_0000.nii.gz").symlink_to(stock_models.project.unlabelled / f"{case}_0000.nii.gz")
    return folder


def predict(trainer: str, images: Path, out: Path, *flags: object) -> None:
    setup = ("-d", 137, "-c", CONFIGURATION, "-p", PLANS, "-tr", trainer)
    stock("nnUNetv2_predict", *setup, "-f", 0, 1, "-i", images, "-o", out, "--disable_tta", *CPU, *flags)


def test_predictions_and_their_ensemble(stock_models: StockModels, images: Path, tmp_path: Path) -> None:
    """Two folds at once, by name and by folder alike; teacher and student as an ensemble."""
    student, teacher, same, both = (tmp_path / name for name in ("student", "teacher", "same", "both"))
    predict(OUR_STUDENT, images, student, "--save_probabilities")
    predict(OUR_TEACHER, images, teacher, "--save_probabilities")
    model = stock_models.fold(OUR_STUDENT, 0).parent
    stock("nnUNetv2_predict_from_modelfolder", "-m", model, "-f", 0, 1, "-i", images, "-o", same, "--disable_tta", *WITH_WORKERS)
    stock("nnUNetv2_ensemble", "-i", student, teacher, "-o", both, "-np", 1)
    for case in CASES:
        assert np.array_equal(read(same / f"{case}.nii.gz"), read(student / f"{case}.nii.gz"))
        members = [np.load(folder / f"{case}.npz")["probabilities"].astype(np.float32) for folder in (student, teacher)]
        assert not np.array_equal(*members)
        assert np.array_equal(read(both / f"{case}.nii.gz"), np.mean(members, axis=0).argmax(0))


def test_best_configuration_post_processing_and_evaluation(stock_models: StockModels, tmp_path: Path) -> None:
    """Figures of two folds of teacher, published student and their ensemble, on the cases that each fold holds out."""
    setup = (137, "-p", PLANS, "-c", CONFIGURATION, "-tr", OUR_TEACHER, OUR_STUDENT, "-f", 0, 1, "-np", 1)
    said = stock("nnUNetv2_find_best_configuration", *setup)
    found = json.loads((stock_models.project.results / DATASET / "inference_information.json").read_text())
    assert len(found["all_results"]) == 3
    name = f"{OUR_STUDENT}__{PLANS}__{CONFIGURATION}"
    assert f"{name}: {found['all_results'][name]}" in said
    merged = stock_models.project.results / DATASET / name / "crossval_results_folds_0_1"
    assert sorted(path.name for path in merged.glob("*.nii.gz")) == ["lab_0.nii.gz", "lab_1.nii.gz"]
    summaries = [json.loads((stock_models.fold(OUR_STUDENT, f) / "validation" / "summary.json").read_text()) for f in (0, 1)]
    per_case = [case["metrics"] for summary in summaries for case in summary["metric_per_case"]]
    expected = np.mean([case[label]["Dice"] for case in per_case for label in ("1", "2")])
    assert found["all_results"][name] == pytest.approx(expected)

    best, out = found["best_model_or_ensemble"], tmp_path / "post-processed"
    source, plans, dataset_json = Path(best["postprocessing_file"]).parent, best["some_plans_file"], merged / "dataset.json"
    flags = ("-pp_pkl_file", best["postprocessing_file"], "-np", 1, "-plans_json", plans, "-dataset_json", dataset_json)
    stock("nnUNetv2_apply_postprocessing", "-i", source, "-o", out, *flags)
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["lab_0.nii.gz", "lab_1.nii.gz"]
    truth = stock_models.project.raw / DATASET / "labelsTr"
    stock("nnUNetv2_evaluate_folder", truth, out, "-djfile", dataset_json, "-pfile", plans, "-np", 1, "--chill")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == pytest.approx(best["result_on_crossval_post_pp"])


def test_export_and_installation_elsewhere(
    stock_models: StockModels, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine has the archive, nnunet-ssl and its trainers' folder in the variable, and neither raw nor preprocessed data."""
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "model.zip"
    predict(OUR_STUDENT, images, here)
    setup = ("-d", 137, "-c", CONFIGURATION, "-tr", OUR_STUDENT, "-p", PLANS, "-f", 0, 1)
    stock("nnUNetv2_export_model_to_zip", *setup, "-o", archive)
    with zipfile.ZipFile(archive) as file:
        assert f"{DATASET}/{OUR_STUDENT}__{PLANS}__{CONFIGURATION}/fold_1/checkpoint_final.pth" in file.namelist()
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folder = tmp_path / "elsewhere" / variable
        folder.mkdir(parents=True)
        monkeypatch.setenv(variable, str(folder))
    stock("nnUNetv2_install_pretrained_model_from_zip", archive)
    predict(OUR_STUDENT, images, there)
    for case in CASES:
        assert np.array_equal(read(there / f"{case}.nii.gz"), read(here / f"{case}.nii.gz"))
    monkeypatch.delenv("nnUNet_extTrainer")
    with pytest.raises(RuntimeError, match=OUR_STUDENT):
        predict(OUR_STUDENT, images, tmp_path / "without")
