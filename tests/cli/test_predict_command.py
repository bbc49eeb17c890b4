"""`nnssl_predict` from end to end: against nnU-Net's own command, with everything that it writes, continued, and refused in one line."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from cross_fitted import begin, rising
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from prediction_kinds import make_lively, pretend_distillation
from tiny_setup import CONFIGURATION, DATASET, OUR_TEACHER, PLANS, Project, mtimes, phantom, write_image, write_teacher

from nnunet_ssl.cli.predict import main
from nnunet_ssl.cli.run import main as run
from nnunet_ssl.prediction.output_folder import COLUMNS
from nnunet_ssl.pseudolabel.in_force import in_force

MODEL = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS, "-device", "cpu"]
MODEL_NAME = f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}"
SPACING = (0.9, 1.2, 1.7)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two new patients, on another grid than the network's."""
    for case in ("new_0", "new_1"):
        write_image(phantom(case)[0][2:, :, 3:], tmp_path / "in" / f"{case}_0000.nii.gz", spacing=SPACING)
    return tmp_path / "in"


def shrink(path: Path) -> None:
    """A few features in nnU-Net's own plans."""
    plans = json.loads(path.read_text())
    kwargs = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4] * kwargs["n_stages"]
    path.write_text(json.dumps(plans))


def call(capsys: Any, *flags: str | Path, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*MODEL, *map(str, flags)]) == code
    return capsys.readouterr()


def stock(images: Path, out: Path, *flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nnUNetv2_predict` with the same flags."""
    arguments = ["nnUNetv2_predict", *MODEL, "-i", str(images), "-o", str(out), "-npp", "0", "-nps", "0", *flags]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda number: None)
    predict_entry_point()


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "cases.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def same_labels(out: Path, other: Path, cases: tuple[str, ...] = ("new_0", "new_1")) -> None:
    for case in cases:
        ours, theirs = (sitk.ReadImage(str(folder / f"{case}.nii.gz")) for folder in (out, other))
        assert (sitk.GetArrayFromImage(ours) == sitk.GetArrayFromImage(theirs)).all()
        for found, expected in ((ours.GetOrigin(), theirs.GetOrigin()), (ours.GetSpacing(), theirs.GetSpacing())):
            assert found == expected
        assert ours.GetDirection() == theirs.GetDirection()
        assert ours.GetPixelID() == theirs.GetPixelID()
        assert len(np.unique(sitk.GetArrayFromImage(ours))) > 1


def test_teacher_of_a_run(cross_fitted: Project, images: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Calibrated, with dropout samples beside nnU-Net's views, and continued."""
    make_lively(cross_fitted.results / DATASET / MODEL_NAME)
    run = begin(cross_fitted, doubt=rising, evidence__num_samples=16)
    in_force(run)
    out, flags = tmp_path / "out", ("-f", "1", "-tr", OUR_TEACHER, "-i", images, "-o", tmp_path / "out")
    said = call(capsys, *flags, "--save_probabilities")
    stock(images, tmp_path / "stock", "-f", "1", "-tr", OUR_TEACHER, monkeypatch=monkeypatch)
    same_labels(out, tmp_path / "stock")
    assert (json.loads((out / "dataset.json").read_text()), json.loads((out / "plans.json").read_text())) == (
        json.loads((tmp_path / "stock" / "dataset.json").read_text()),
        json.loads((tmp_path / "stock" / "plans.json").read_text()),
    )
    rows = table(out)
    assert list(rows) == ["new_0", "new_1"]
    assert list(rows["new_0"]) == [*COLUMNS, "volume_ml_rim", "volume_ml_core"]
    limit = float(said.out.partition("predicted Dice below ")[2].split()[0])
    for case, row in rows.items():
        assert (row["calibration"], row["samples"], row["score_name"]) == ("calibrated", "16", "pairwise_dice")
        assert float(row["predicted_dice_low"]) <= float(row["predicted_dice"]) <= float(row["predicted_dice_high"])
        assert row["review"] == ("yes" if float(row["predicted_dice"]) < limit else "no")
        labels = read(out / f"{case}.nii.gz")
        assert float(row["volume_ml_core"]) == pytest.approx((labels == 2).sum() * np.prod(SPACING) / 1000, abs=1e-4)
        q = np.stack([read(out / "probabilities" / f"{case}_{k:04d}.nii.gz") for k in range(3)])
        np.testing.assert_allclose(q.sum(0), 1, atol=2e-3)  # stored with three decimals
        confidence = read(out / "confidence" / f"{case}_confidence.nii.gz")
        assert confidence.dtype == np.float32
        assert labels.shape == confidence.shape == read(out / "uncertainty" / f"{case}_uncertainty.nii.gz").shape
    assert "calibrated by the" in said.out
    assert said.out.splitlines()[-1].startswith("next, where there are reference labels: nnUNetv2_evaluate_folder REFERENCE_FOLDER ")

    before = mtimes(out)
    said = call(capsys, *flags)
    assert f"predicted now: 0; in {out} in all: 2; failed: 0" in said.out
    unchanged = [path for path in before if not path.endswith((".json", "cases.csv", "out", "nnssl_predict"))]
    assert {path: mtimes(out)[path] for path in unchanged} == {path: before[path] for path in unchanged}
    write_image(phantom("new_2")[0][2:, :, 3:], images / "new_1_0000.nii.gz", spacing=SPACING)  # another image under its name
    (out / "confidence" / "new_0_confidence.nii.gz").unlink()
    assert "predicted now: 2" in call(capsys, *flags).out
    assert table(out)["new_1"]["score"] != rows["new_1"]["score"]
    assert {k: v for k, v in table(out)["new_0"].items() if k != "seconds"} == {k: v for k, v in rows["new_0"].items() if k != "seconds"}

    err = call(capsys, *flags, "--num-samples", "8", code=2).err
    assert err.count("\n") == 2
    assert "warning: not calibrated, confidence is the paper's: 8 samples are asked for, the run's held-out cases have 16" in err
    assert "holds cases that were predicted otherwise (another held_out, samples); choose another -o" in err


def test_any_model_without_a_run(project: Project, images: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """nnU-Net's own trainer: its views are the samples, nothing is calibrated and nothing pretends to be."""
    shrink(project.preprocessed / DATASET / "nnUNetPlans.json")
    for fold in (0, 1):
        write_teacher("nnUNetTrainer", fold=fold, seed=fold, plans="nnUNetPlans", mirroring=(0, 2))
    make_lively(project.results / DATASET / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}")
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name)
    flags = ("-p", "nnUNetPlans", "-f", "0", "1", "-tr", "nnUNetTrainer", "-i", images, "-o", tmp_path / "out")
    said = call(capsys, *flags)
    stock(images, tmp_path / "stock", "-p", "nnUNetPlans", "-f", "0", "1", "-tr", "nnUNetTrainer", monkeypatch=monkeypatch)
    same_labels(tmp_path / "out", tmp_path / "stock")
    assert "nnssl_predict: warning: not calibrated, confidence is the paper's: the model belongs to no run of nnssl_run" in said.err
    line = f"run: nnssl_run -d 137 -c {CONFIGURATION} -f all --teacher-folds 0 1 -tr nnUNetTrainer -u FOLDER --audit -device cpu"
    assert next(text for text in said.out.splitlines() if text.startswith("no threshold for review: ")).endswith(line)
    row = table(tmp_path / "out")["new_0"]
    assert (row["calibration"], row["samples"], row["predicted_dice"], row["review"]) == ("not calibrated", "8", "", "")
    assert 0 < float(row["score"]) < 1
    model = ("-p", "nnUNetPlans", "-f", "0", "-tr", "nnUNetTrainer")
    err = call(capsys, *model, "-i", images, "-o", tmp_path / "fast", "--fast", code=2).err
    assert err.count("\n") == 1
    assert "--fast needs a network with an uncertainty head, and that of nnUNetTrainer__nnUNetPlans__3d_fullres has none" in err
    assert not (tmp_path / "fast").exists()


def test_the_audit_that_is_printed_is_of_the_model(project: Project, images: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """It trains nothing, has held-out cases, and they are those of the folds that are predicted with."""
    shrink(project.preprocessed / DATASET / "nnUNetPlans.json")
    for fold in (0, 1):
        write_teacher("nnUNetTrainer", fold=fold, seed=fold, plans="nnUNetPlans")
    make_lively(project.results / DATASET / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}")
    (images / "new_1_0000.nii.gz").unlink()
    monkeypatch.delattr("nnunet_ssl.run.pipeline.train")
    for folds in (("0",), ("0", "1")):
        flags = ("-p", "nnUNetPlans", "-f", *folds, "-tr", "nnUNetTrainer", "-i", images, "-o")
        said = call(capsys, *flags, tmp_path / "before" / "".join(folds)).out
        command = said.partition("; run: nnssl_run ")[2].partition("\n")[0].replace("FOLDER", str(project.unlabelled))
        assert run(command.split()) == 0
        said = call(capsys, *flags, tmp_path / "after" / "".join(folds)).out
        assert f"no threshold for review: {len(folds)} held-out cases are too few\n" in said


def test_single_pass(taught_project: Project, images: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    flags = ("-f", "0", "-tr", OUR_TEACHER, "-i", images, "-o", tmp_path / "out", "--fast")
    assert "has never learnt (distillation_epochs was 0); leave --fast out" in call(capsys, *flags, code=2).err
    make_lively(taught_project.results / DATASET / MODEL_NAME)
    pretend_distillation(taught_project.results / DATASET / MODEL_NAME)
    said = call(capsys, *flags)
    stock(images, tmp_path / "stock", "-f", "0", "-tr", OUR_TEACHER, "--disable_tta", monkeypatch=monkeypatch)
    same_labels(tmp_path / "out", tmp_path / "stock")
    row = table(tmp_path / "out")["new_1"]
    assert (row["score_name"], row["samples"], row["calibration"], row["review"]) == ("foreground", "1", "not calibrated", "")
    assert "not calibrated" in said.err
    uncertainty = read(tmp_path / "out" / "uncertainty" / "new_1_uncertainty.nii.gz")
    assert 0 < uncertainty.max() <= 0.25


def test_bad_cases_are_named_and_the_others_go_on(taught_project: Project, images: Path, tmp_path: Path, capsys: Any) -> None:
    array = phantom("new_3")[0]
    array[3, 3, 3] = np.nan
    write_image(array, images / "nan_0000.nii.gz")
    shutil.copy(images / "new_0_0000.nii.gz", images / "surplus_0000.nii.gz")
    shutil.copy(images / "new_0_0000.nii.gz", images / "surplus_0001.nii.gz")
    (images / "new_1_0000.nii.gz").unlink()
    said = call(capsys, "-f", "0", "-tr", OUR_TEACHER, "-i", images, "-o", tmp_path / "out", "--num-samples", "2", code=2)
    bad = [line for line in said.err.splitlines() if line.startswith("nnssl_predict: warning: case ")]
    assert len(bad) == 2
    assert "surplus_0001.nii.gz is one channel too many (1 are expected)" in bad[0]
    assert "1 NaN or infinite voxels; repair or remove it" in bad[1]
    assert "predicted now: 1" in said.out
    rows = table(tmp_path / "out")
    assert {case: row["review"] for case, row in rows.items()} == {"nan": "yes", "new_0": "", "surplus": "yes"}
    assert "NaN" in rows["nan"]["reason"]
    assert not (tmp_path / "out" / "nan.nii.gz").exists()
    write_image(phantom("new_4")[0], tmp_path / "others" / "new_4_0000.nii.gz")
    said = call(capsys, "-f", "0", "-tr", OUR_TEACHER, "-i", tmp_path / "others", "-o", tmp_path / "out", "--num-samples", "2")
    assert f"predicted now: 1; in {tmp_path / 'out'} in all: 2; failed: 0" in said.out
    assert "failed before, in another folder of images: nan, surplus\n" in said.out
    assert "review: nan, surplus\n" in said.out
    assert table(tmp_path / "out")["nan"] == rows["nan"]
    (images / "nan_0000.nii.gz").unlink()
    (images / "surplus_0001.nii.gz").unlink()
    said = call(capsys, "-f", "0", "-tr", OUR_TEACHER, "-i", images, "-o", tmp_path / "out", "--num-samples", "2")
    assert f"predicted now: 1; in {tmp_path / 'out'} in all: 3; failed: 0" in said.out
    assert "failed before" not in said.out
    assert list(table(tmp_path / "out")) == ["new_0", "new_4", "surplus"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-f", "7"], "fold_7/checkpoint_final.pth is missing"),
        (["-f", "0", "-tr", "nnUNetTrainer"], f"there are: {MODEL_NAME} (check -tr, -p, -c)"),
        (["-f", "0", "-d", "138"], "no model of a dataset with id 138"),
        (["-f", "0", "1", "--fast"], "give one fold to -f"),
        (["-f", "0", "--fast", "--num-samples", "4"], "leave --num-samples out"),
        (["-f", "0", "--num-samples", "0"], "at least one sample is needed"),
        (["-f", "0", "-i", "nowhere"], "nowhere is not a folder; -i takes the folder of the images"),
    ],
)
def test_what_is_refused(taught_project: Project, images: Path, tmp_path: Path, capsys: Any, flags: list[str], message: str) -> None:
    err = call(capsys, "-tr", OUR_TEACHER, "-i", images, "-o", tmp_path / "out", *flags, code=2).err
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out").exists()


def test_empty_and_equal_folders(taught_project: Project, images: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    model = ("-f", "0", "-tr", OUR_TEACHER)
    assert "holds no image named <case>_0000.nii.gz" in call(capsys, *model, "-i", tmp_path / "empty", "-o", tmp_path / "o", code=2).err
    assert "choose another folder for the output" in call(capsys, *model, "-i", images, "-o", images, code=2).err
