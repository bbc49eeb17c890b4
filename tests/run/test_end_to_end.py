"""The whole method with real trainings of two steps an epoch, each in its own process; then stock nnU-Net on what they leave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from file_watch import watching
from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from real_trainings import copy_project, serve_trainings
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    digests,
    environment,
    grow_stage,
    label_files,
    mtimes,
    open_tiny_run,
    teacher_store,
)

from nnunet_ssl.cli.run import main
from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.nnunet_api.validation_summary import mean_dice
from nnunet_ssl.pseudolabel.publish import published_model
from nnunet_ssl.pseudolabel.run_spec import RunSpec
from nnunet_ssl.pseudolabel.start_run import open_run

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
CALL = ["-d", "137", "-c", CONFIGURATION, "-f", "0", "-p", PLANS, "-device", "cpu", "-np", "1"]
MODEL = f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}"


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        serve_trainings(patch)
        yield patch


@pytest.fixture(scope="module")
def finished(
    built_project: Project, tmp_path_factory: pytest.TempPathFactory, module_patch: pytest.MonkeyPatch
) -> tuple[Project, dict[str, str]]:
    """A run from the first image to the published model; and what the labelled dataset was before."""
    project = copy_project(built_project, tmp_path_factory.mktemp("whole"), with_pool=False)
    with environment(project, workers=0):
        before = digests(project.labelled_files())
        with watching(label_files(project.unlabelled)) as opened:
            assert main([*CALL, "-u", str(project.unlabelled)]) == 0
            assert opened() == set()  # trainings included
    return project, before


@pytest.fixture
def run(finished: tuple[Project, dict[str, str]], quiet_machine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The finished run, its folders named by the environment variables."""
    with environment(finished[0], workers=0):
        monkeypatch.setenv("nnUNet_extTrainer", str(PROJECT / "trainers"))
        yield open_tiny_run(finished[0])


def test_everything_is_there(run: Any, finished: tuple[Project, dict[str, str]]) -> None:
    project, before = finished
    assert digests(project.labelled_files()) == before
    first, second = run.manifest.stages
    assert len(first.cases) == 3
    assert sorted(second.cases) == POOL
    assert set(first.cases) < set(second.cases)
    assert run.manifest.published
    for model in (run.teacher, run.student(1), run.student(2), published_model(run)):
        checkpoint = torch.load(model.checkpoint(0), weights_only=False)
        assert checkpoint["trainer_name"] in (OUR_TEACHER, OUR_STUDENT)
        assert all(torch.isfinite(v).all() for v in checkpoint["network_weights"].values())
        dice = mean_dice(model, 0)
        assert dice is not None
        assert 0 <= dice <= 1
    assert sorted(f.name for f in (run.workspace / "logs").iterdir()) == ["student_1.txt", "student_2.txt", "teacher_fold_0.txt"]
    log = json.loads((run.workspace / "manifest.json").read_text())
    assert log["teacher_fingerprint"] == run.manifest.teacher_fingerprint
    for store in (teacher_store(run), run.student_store(1)):
        for case in POOL:
            evidence = store.read(case)
            np.testing.assert_allclose(evidence.mean.sum(0), 1, atol=1e-3)
    assert not [f for root in (project.raw, project.preprocessed, project.results) for f in root.rglob(f"{TEMPORARY_PREFIX}*")]


def test_students_started_from_the_one_before(run: Any) -> None:
    for stage, start in ((1, run.teacher.checkpoint(0)), (2, run.student(1).checkpoint(0))):
        logs = sorted(run.student(stage).fold_folder(0).glob("training_log_*.txt"))
        assert any(f"Starting from the weights in {start}" in log.read_text() for log in logs)


def logged(run: Any, stage: int) -> Any:
    """What nnU-Net's logger kept of a student."""
    return torch.load(run.student(stage).checkpoint(0), weights_only=False)["logging"]


def test_control_of_equal_stages_on_labels_alone(run: Any, finished: tuple[Project, dict[str, str]], capsys: Any) -> None:
    assert all(np.isfinite(logged(run, stage)["loss_high"]).any() for stage in (1, 2))
    before = mtimes(run.workspace, run.teacher.fold_folder(0), published_model(run).folder)
    assert main([*CALL, "--control", "supervised"]) == 0
    assert "fold 0, 1 validation cases: student 0." in capsys.readouterr().out
    assert mtimes(run.workspace, run.teacher.fold_folder(0), published_model(run).folder) == before
    setup = finished[0].setup(f"{PLANS}_nnssl_control_supervised")
    control = open_run(RunSpec(setup=setup, fold=0, teacher_trainer=OUR_TEACHER))
    first, last = control.manifest.stages
    assert (first.cases, sorted(last.cases)) == (run.manifest.stages[0].cases, POOL)
    for stage in (1, 2):
        terms = logged(control, stage)
        assert np.isfinite(terms["loss_supervised"]).any()
        assert not np.isfinite(terms["loss_high"]).any()
        assert len(terms["loss_supervised"]) == len(logged(run, stage)["loss_supervised"])


def test_second_call_does_nothing(run: Any, finished: tuple[Project, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    project, _ = finished
    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", lambda *_, **__: pytest.fail("a training was started"))
    before = mtimes(project.raw, project.preprocessed, project.results, project.unlabelled)
    assert main([*CALL, "-u", str(project.unlabelled)]) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 7
    for flag in ("--status", "--dry-run"):
        assert main([*CALL, "-u", str(project.unlabelled), flag]) == 0
        assert capsys.readouterr().out.count("[done]") == 7
    assert mtimes(project.raw, project.preprocessed, project.results, project.unlabelled) == before


def test_stock_inference_on_the_users_dataset(run: Any, finished: tuple[Project, dict[str, str]], tmp_path: Path) -> None:
    """What `nnUNetv2_predict -d 137 -tr TransASPPStudentTrainer` does."""
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    folder = get_output_folder(137, OUR_STUDENT, PLANS, CONFIGURATION)
    assert Path(folder) == published_model(run).folder
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(folder, (0,), "checkpoint_final.pth")
    image = finished[0].unlabelled / "pool_3_0000.nii.gz"
    (tmp_path / "out").mkdir()
    predictor.predict_from_files_sequential([[str(image)]], str(tmp_path / "out"))
    written = sitk.ReadImage(str(tmp_path / "out" / "pool_3.nii.gz"))
    assert written.GetSize() == sitk.ReadImage(str(image)).GetSize()
    assert written.GetOrigin() == sitk.ReadImage(str(image)).GetOrigin()


def test_stock_evaluation_of_the_published_model(run: Any, tmp_path: Path) -> None:
    """What `nnUNetv2_find_best_configuration` does with a model's folds."""
    accumulate_cv_results(str(published_model(run).folder), str(tmp_path / "merged"), (0,), num_processes=1)
    summary = json.loads((tmp_path / "merged" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == pytest.approx(mean_dice(published_model(run), 0), abs=1e-6)


# ---- stock trainers


@pytest.fixture
def two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A trainer of nnU-Net's own with one epoch of two steps, in a folder of the user's."""
    source = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_2steps(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
"""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "two_steps_trainer.py").write_text(source)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path / "mine"), str(PROJECT / "trainers")]))
    return "nnUNetTrainer_2steps"


def trained(name: str, dataset: str, plans: str = PLANS) -> Any:
    """A training in this process, without the validation that follows."""
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(dataset, CONFIGURATION, 0, name, plans, device=torch.device("cpu"))
    trainer.logger.plot_progress_png = lambda folder: None
    trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()
    return trainer


def test_stock_trainer_on_a_stage_dataset(staged_project: Project, tmp_path: Path, two_steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = trained(two_steps, "Dataset601_Tiny_f0s1")
    training, validation = trainer.get_tr_and_val_datasets()
    assert len(training.identifiers) == 5 + 3
    assert validation.identifiers == ["lab_0"]
    log = trainer.logger.local_logger.my_fantastic_logging
    assert np.isfinite(log["train_losses"]).all()


def test_stock_teacher_and_the_plans_own_network(project: Project, two_steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any trained nnU-Net model can be the teacher; its student keeps the network of the plans."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    teacher = trained(two_steps, DATASET)
    for name in ("plans.json", "dataset.json"):
        assert (Path(teacher.output_folder_base) / name).is_file()
    run = open_tiny_run(project, teacher_trainer=two_steps, settings={"curriculum.fractions": [0.5], "student.length.num_epochs": 1})
    record = grow_stage(run)
    assert run.manifest.student_trainer == "SemiSupervisedStudentTrainer"
    assert teacher_store(run).read(record.cases[0]).num_samples == 8
    student = trained("SemiSupervisedStudentTrainer", record.dataset)
    assert run.is_trained(1)
    assert type(student.network) is type(teacher.network)
    log = student.logger.local_logger.my_fantastic_logging
    assert np.isfinite(log["loss_high"][0])
    assert np.isfinite(log["train_losses"]).all()
