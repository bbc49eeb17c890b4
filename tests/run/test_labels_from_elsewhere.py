"""`nnssl_pseudolabel` and `nnssl_run` with predictions and labels that somebody gives, nnU-Net's own files, and trainings of two steps."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from given_labels import IGNORE, declare_ignore, partly, write_labels, write_predictions
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    IDENTIFIER,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    POOL,
    SHAPE,
    Project,
    grow_stage,
    mtimes,
    open_tiny_run,
    phantom,
    pretend_training,
    teacher_store,
    write_evidence,
    write_teacher,
)

from nnunet_ssl.cli import pseudolabel, report, run
from nnunet_ssl.data import image_fingerprints
from nnunet_ssl.data.pseudo_case import CODE_POOL
from nnunet_ssl.pseudolabel.accept import accept
from nnunet_ssl.run import pipeline
from nnunet_ssl.training.extra_channels import CODE_LABELLED, CODE_PADDING

CALL = ["-d", "137", "-c", CONFIGURATION, "-f", "0", "-p", PLANS, "-device", "cpu"]
STAGE = "Dataset601_Tiny_f0s1"


def corrected(case: str) -> Any:
    return np.minimum(phantom(case)[1], 1)


def call(command: Any, capsys: Any, *flags: str, code: int = 0) -> str:
    assert command([*CALL, *flags]) == code
    captured = capsys.readouterr()
    return str(captured.out if code == 0 else captured.err)


# ---- commands


def test_stages_from_predictions(project: Project, tmp_path: Path, capsys: Any) -> None:
    folder = write_predictions(tmp_path / "ensemble")
    out = call(pseudolabel.main, capsys, "--from-predictions", str(folder))
    assert "stage 1: 3 of 6 pool cases in Dataset601_Tiny_f0s1" in out
    assert f"next: nnUNetv2_train 601 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu\n" in out
    # found again by its folder or by its name
    for flags in (["--from-predictions", str(folder)], ["-tr", "predictions"]):
        assert "stage 1 is written (Dataset601_Tiny_f0s1); its student is not trained yet" in call(pseudolabel.main, capsys, *flags)
    assert "no run of fold 0 has begun" not in call(run.main, capsys, "-tr", "predictions", "--status")


def test_no_image_is_read_to_see_that_predictions_are_taken(
    project: Project, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each of them was read."""
    folder = write_predictions(tmp_path / "ensemble")
    call(pseudolabel.main, capsys, "--from-predictions", str(folder))
    monkeypatch.setattr(image_fingerprints, "fingerprint_of_values", lambda path: pytest.fail(f"{path} was read"))
    assert "[done] predictions" in call(run.main, capsys, "--from-predictions", str(folder), "--status")


def test_accepted_labels_enter_the_next_stage(taught_project: Project, tmp_path: Path, capsys: Any) -> None:
    folder = write_labels(tmp_path / "corrected", {"pool_5": corrected("pool_5")})
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    out = call(pseudolabel.main, capsys, "--accept", str(folder))
    assert "accepted labels: 1 new, 1 in all" in out
    assert "stage 1: 2 of 5 pool cases in Dataset601_Tiny_f0s1\n  and 1 with accepted labels, as labelled cases\n" in out
    # while the student is not trained more labels can come in
    more = write_labels(tmp_path / "more", {"pool_0": corrected("pool_0")})
    out = call(pseudolabel.main, capsys, "--accept", str(more))
    assert "accepted labels: 1 new, 2 in all" in out
    assert "its student is not trained yet" in out
    out = call(run.main, capsys, "--status")
    assert "accepted labels: 2 of 6 pool cases, 0 of them partial" in out
    out = call(pseudolabel.main, capsys, "--accept", str(tmp_path / "none"), code=2)
    assert out.startswith("nnssl_pseudolabel: error: ")


def test_report_counts_them(taught_project: Project, tmp_path: Path, capsys: Any) -> None:
    declare_ignore(taught_project)
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    labels = {"pool_5": partly(corrected("pool_5")), "pool_4": corrected("pool_4")}
    call(pseudolabel.main, capsys, "--accept", str(write_labels(tmp_path / "corrected", labels)))
    assert report.main([*CALL[:-2], "-o", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<dt>Accepted labels</dt><dd>2 of the pool&#x27;s cases, 1 of them in part</dd>" in page
    rows = (tmp_path / "report" / "stages.csv").read_text().splitlines()
    assert rows[0].startswith("model,fraction,labelled_cases,pool_cases,total_cases")
    assert [row.split(",")[2:5] for row in rows[1:]] == [["5", "0", "5"], ["7", "2", "9"]]


def test_report_on_predictions(project: Project, tmp_path: Path, capsys: Any) -> None:
    assert report.main([*CALL[:-2], "-tr", "predictions"]) == 2
    assert "no run of fold 0 has begun with predictions" in capsys.readouterr().err
    folder = write_predictions(tmp_path / "ensemble")
    call(pseudolabel.main, capsys, "--from-predictions", str(folder))
    assert report.main([*CALL[:-2], "-tr", "predictions", "-o", str(tmp_path / "report")]) == 0
    assert "next: nnssl_run -d 137 -c 3d_fullres -f 0 -p nnUNetPlans_nnssl_tiny -tr predictions" in capsys.readouterr().out
    assert f"<dt>Teacher</dt><dd>predictions in {folder}</dd>" in (tmp_path / "report" / "report.html").read_text()
    rows = (tmp_path / "report" / "stages.csv").read_text().splitlines()
    assert rows[1].startswith("teacher,,,0,,")
    assert rows[1].endswith(",predictions")


def test_predictions_are_of_one_fold(project: Project, tmp_path: Path, capsys: Any) -> None:
    folds = [*CALL[:4], "-f", "0", "1", *CALL[6:]]
    for flags in (["--from-predictions", str(tmp_path)], ["-tr", "predictions"]):
        assert run.main([*folds, *flags]) == 2
        assert "predictions are the teacher of one fold at a time" in capsys.readouterr().err


def test_whole_run(project: Project, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nnssl_run` with both: no teacher is trained, and the same command again does nothing."""
    trained: list[str] = []

    def pretend(model: Any, fold: int | str, **_: Any) -> None:
        trained.append(model.dataset)
        pretend_training(model, fold, seed=len(trained))

    monkeypatch.setattr(pipeline, "train", pretend)
    folder = write_predictions(tmp_path / "ensemble")
    labels = write_labels(tmp_path / "corrected", {"pool_0": corrected("pool_0")})
    flags = ["--from-predictions", str(folder), "--accept", str(labels), "--set", "evidence.num_samples=1"]
    out = call(run.main, capsys, *flags, "--dry-run")
    line = f"nnssl_pseudolabel -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr {OUR_TEACHER} --from-predictions {folder}"
    line += " --set evidence.num_samples=1 -device cpu"
    assert f"  1. [ to do] predictions  take the predictions: {line}\n" in out
    assert f"  2. [ to do] accept       accept labels: {line} --accept {labels}\n" in out
    for command in (run.main, pseudolabel.main):
        assert "--accept-unchanged is about the labels of --accept" in call(command, capsys, "--accept-unchanged", code=2)
    planned = call(run.main, capsys, *flags, "--accept-unchanged", "--dry-run")
    assert f"accept labels: {line} --accept {labels} --accept-unchanged\n" in planned
    assert not (project.results / DATASET).exists()
    out = call(run.main, capsys, *flags)
    assert trained == ["Dataset601_Tiny_f0s1", "Dataset602_Tiny_f0s2"]
    assert "[7/7] publish the last student" in out
    assert "accepted labels: 1 of 6 pool cases, 0 of them partial" in out
    assert out.endswith(f"  or: nnssl_report -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr predictions\n")
    before = mtimes(project.raw, project.preprocessed, project.results)
    assert call(run.main, capsys, *flags).count("done before") == 7
    assert call(run.main, capsys, "-tr", "predictions").count("done before") == 6
    assert mtimes(project.raw, project.preprocessed, project.results) == before
    assert len(trained) == 2


# ---- nnU-Net's own files, and trainings of two steps


def trained(name: str, dataset: str) -> Any:
    """A training in this process, without the validation that follows."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = get_trainer_from_args(dataset, CONFIGURATION, 0, name, PLANS, device=torch.device("cpu"))
        trainer.logger.plot_progress_png = lambda folder: None
        trainer.run_training()
    return trainer


def predicted(model: Path, project: Project, out: Path) -> Path:
    """What `nnUNetv2_predict --save_probabilities` writes for the pool."""
    out.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
        images = [[str(project.unlabelled / f"{case}_0000.nii.gz")] for case in POOL]
        predictor.predict_from_files_sequential(images, str(out), save_probabilities=True)
    return out


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our trainers, and no worker processes for augmentation."""
    from nnunet_ssl.locations import trainers_folder

    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.mark.slow
def test_student_of_a_foreign_model(project: Project, tmp_path: Path, trainers: None) -> None:
    """A model of nnU-Net's own trainer and plans, which is gone when the run begins."""
    model = write_teacher("nnUNetTrainer", plans="nnUNetPlans", mirroring=None).parent
    folder = predicted(model, project, tmp_path / "predicted")
    assert {f.suffix for f in folder.glob("pool_0*")} == {".npz", ".pkl", ".gz"}
    for path in sorted(model.rglob("*.pth")):
        path.unlink()
    settings = {"student.length.num_epochs": 1, "curriculum.fractions": [0.5], "student.distillation_epochs": 0}
    begun = open_tiny_run(project, teacher_trainer="nnUNetTrainer", predictions=[folder], settings=settings)
    record = grow_stage(begun)
    for case in record.cases:
        evidence = teacher_store(begun).read(case)
        saved = np.load(folder / f"{case}.npz")["probabilities"]
        assert saved.shape == (3, *SHAPE)
        np.testing.assert_allclose(evidence.mean, saved, atol=1 / 65535)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(project.raw / STAGE / "labelsTr" / f"{case}.nii.gz")))
        assert (written != label).mean() < 1e-3  # ties of probabilities stored in fixed point
    student = trained("SemiSupervisedStudentTrainer", STAGE)
    assert begun.is_trained(1)
    log = student.logger.local_logger.my_fantastic_logging
    assert np.isfinite(log["train_losses"]).all()
    assert np.isfinite(log["loss_high"][0])


def test_ensemble_of_nnunets_own(project: Project, tmp_path: Path) -> None:
    """`nnUNetv2_ensemble --save_npz` writes the mean of its members: as evidence, that of two samples without their spread."""
    members = [predicted(write_teacher("nnUNetTrainer", seed=s, mirroring=None).parent, project, tmp_path / f"member_{s}") for s in (0, 1)]
    setup, out = project.setup(), tmp_path / "merged"
    out.mkdir()
    reader, labels = setup.plans_manager.image_reader_writer_class(), setup.label_manager
    for case in POOL:
        merge_files([str(m / f"{case}.npz") for m in members], str(out / case), ".nii.gz", reader, labels, True)
    merged, apart = (open_tiny_run(project, fold, predictions=f) for fold, f in ((0, [out]), (1, members)))
    for begun in (merged, apart):
        grow_stage(begun)
    one, two = (teacher_store(begun).read("pool_0") for begun in (merged, apart))
    np.testing.assert_allclose(one.mean, two.mean, atol=3 / 65535)
    assert (one.num_samples, two.num_samples) == (1, 2)
    assert not one.variance.any()
    assert two.variance.any()


@pytest.mark.slow
def test_student_of_a_case_that_is_annotated_in_part(taught_project: Project, tmp_path: Path, trainers: None) -> None:
    project = taught_project
    declare_ignore(project, preprocess=True)
    settings = {"student.length.num_epochs": 1, "curriculum.fractions": [0.5], "student.distillation_epochs": 0, "student.cutmix": 0.0}
    begun = open_tiny_run(project, settings=settings)
    write_evidence(teacher_store(begun))
    accept(begun, write_labels(tmp_path / "given", {"pool_4": partly(phantom("pool_4")[1])}))
    record = grow_stage(begun)
    assert "pool_4" not in record.cases
    with contextlib.redirect_stdout(io.StringIO()):
        student = get_trainer_from_args(STAGE, CONFIGURATION, 0, OUR_STUDENT, PLANS, device=torch.device("cpu"))
        student.logger.plot_progress_png = lambda folder: None
        student.initialize()
        training, validation = student.get_tr_and_val_datasets()
        assert "pool_4" in training.labelled
        assert "pool_4" not in training.pool
        assert validation.identifiers == ["lab_0"]
        seen = watch_batches(student, only="pool_4")
        student.run_training()
    assert begun.is_trained(1)
    log = student.logger.local_logger.my_fantastic_logging
    assert np.isfinite(log["train_losses"]).all()
    assert np.isfinite(log["loss_supervised"][0])
    assert len(seen) == 2
    for keys, segmentation, code in seen:
        labelled = [i for i, key in enumerate(keys) if key == "pool_4"]
        assert len(labelled) == 1
        assert set(keys) - {"pool_4"} <= set(record.cases)
        (own,) = labelled
        assert (segmentation[own] == IGNORE).any()
        # what is not annotated teaches nothing, by nnU-Net's own ignore label
        assert set(code[own].unique().tolist()) <= {CODE_PADDING, CODE_LABELLED}
        assert (code[own][segmentation[own] == IGNORE] == CODE_PADDING).float().mean() > 0.9
        assert (code[1 - own] >= CODE_POOL).all()
        assert not (segmentation[1 - own] == IGNORE).any()


def watch_batches(student: Any, *, only: str) -> list[tuple[Any, torch.Tensor, torch.Tensor]]:
    """Draw labelled samples from one case, and keep what each step learns from: cases, segmentation and code at full resolution."""
    seen: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    datasets, step = student.get_tr_and_val_datasets, student.train_step

    def chosen() -> Any:
        training, validation = datasets()
        training.labelled = np.array([only])
        return training, validation

    def watched(batch: dict[str, Any]) -> Any:
        targets = batch["target"]
        seen.append((list(batch["keys"]), targets[0][:, 0].clone(), targets[len(targets) // 2][:, 0].clone()))
        return step(batch)

    student.get_tr_and_val_datasets, student.train_step = chosen, watched
    return seen


def test_stage_dataset_is_whole_for_nnunet(taught_project: Project, tmp_path: Path, capsys: Any) -> None:
    """Image, label and preprocessed files of every listed case are there, accepted ones among them."""
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    call(pseudolabel.main, capsys, "--accept", str(write_labels(tmp_path / "corrected", {"pool_0": corrected("pool_0")})))
    listed = json.loads((taught_project.raw / STAGE / "dataset.json").read_text())
    assert listed["numTraining"] == len(listed["dataset"]) == 6 + 1 + 2
    for case, entry in listed["dataset"].items():
        assert all(Path(image).is_file() for image in entry["images"])
        assert (taught_project.raw / STAGE / entry["label"]).is_file()
        for part in (".b2nd", "_seg.b2nd", ".pkl"):
            assert (taught_project.preprocessed / STAGE / IDENTIFIER / f"{case}{part}").is_file()
