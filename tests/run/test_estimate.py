"""What a run will need on disk, against what a run has used."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_setup
import torch
from scipy.ndimage import gaussian_filter
from tiny_setup import (
    DATASET,
    IDENTIFIER,
    LENGTH,
    OUR_TEACHER,
    OVERLAY,
    POOL,
    Project,
    environment,
    folders,
    lay_overlay,
    plan_and_preprocess,
    teacher_store,
    write_raw,
    write_unlabelled,
)

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.external_trainers import external_trainers
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.run.estimate import estimate_disk, of_all_folds
from nnunet_ssl.run.pipeline import execute, pipeline
from nnunet_ssl.run.run_request import RunRequest


def request(setup: Any, *, fold: int | str = 0, unlabelled: tuple[Path, ...] = (), **settings: Any) -> RunRequest:
    return RunRequest(
        setup=setup,
        fold=fold,
        unlabelled=unlabelled,
        teacher_trainer=OUR_TEACHER,
        teacher_folds=None,
        student_trainer=None,
        method=setup.method.with_settings({k.replace("__", "."): v for k, v in settings.items()}),
        device="cpu",
        skip_bad=False,
        num_processes=1,
        first_id=None,
    )


@pytest.fixture
def larger_project(tmp_path: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The set-up with images of 36 x 40 x 38 voxels, beside which headers do not count, a larger network and a single stage."""
    monkeypatch.setattr(tiny_setup, "SHAPE", (38, 40, 36))
    monkeypatch.setattr(tiny_setup, "PATCH", [24, 24, 24])
    project = folders(tmp_path)
    write_raw(project.raw)
    write_unlabelled(project.unlabelled)
    with environment(project):
        plan_and_preprocess(project)
        sections = {
            "teacher": {"length": {"num_epochs": 1, **LENGTH}, "distillation_epochs": 0},
            "curriculum": {"fractions": [1.0]},
            "student": {"length": {"num_epochs": 1, **LENGTH}, "distillation_epochs": 0},
        }
        lay_overlay(project, {**OVERLAY, "features": {"base": 8, "max": 64}, "nnssl": sections})
        yield project


def train_here(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
    """A real training of a few steps, without a process of its own."""
    from nnunetv2.run.run_training import get_trainer_from_args

    with external_trainers(), contextlib.redirect_stdout(io.StringIO()):
        device_here = torch.device(device)
        trainer = get_trainer_from_args(model.dataset, model.configuration, fold, model.trainer, model.plans, device=device_here)
        trainer.run_training()
        trainer.perform_actual_validation()


def sweep_by_intensity(predictor: Any, image: torch.Tensor, *, seed: int) -> torch.Tensor:
    """What a trained network would find, which a training of four steps does not: classes by the smoothed intensity, in eight samples."""
    smooth = torch.from_numpy(gaussian_filter(image[0].numpy(), 1.2))
    brightest = smooth.max()
    centres = torch.tensor([smooth.median(), (smooth.median() + brightest) / 2, brightest])
    logits = -20 * (smooth[None] - centres.reshape(-1, 1, 1, 1)).square() / (brightest - smooth.median()).square() * 3
    random, total = torch.Generator().manual_seed(seed), 0.0
    for _ in range(8):
        p = (logits + 0.3 * torch.randn(logits.shape, generator=random)).softmax(0)
        votes = torch.nn.functional.one_hot(p.argmax(0), len(p)).movedim(-1, 0)
        total = total + torch.cat([p, p.square(), votes]) / 8
    return total


def used_by(files: Iterable[Path], seen: set[int]) -> float:
    """Megabytes of files that are not seen yet; a file with several names counts once."""
    stats = [file.stat() for file in files if file.is_file() and not file.is_symlink()]
    new = {stat.st_ino: stat.st_size for stat in stats if stat.st_ino not in seen}
    seen.update(new)
    return sum(new.values()) / 1e6


@pytest.mark.thorough
def test_a_run_uses_what_was_estimated(larger_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project = larger_project
    asked = request(project.setup(), unlabelled=(project.unlabelled,))
    estimated = estimate_disk(asked, len(POOL))
    seen: set[int] = set()
    used_by(project.raw.parent.rglob("*"), seen)
    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", train_here)
    monkeypatch.setattr("nnunet_ssl.nnunet_api.evidence_predictor.EvidencePredictor.sweep", sweep_by_intensity)
    execute(pipeline(asked))
    used = {
        "pool": used_by(project.preprocessed.glob("*/*__pool_*/*"), seen),
        "evidence": used_by(project.results.glob("*/*/fold_0/nnssl/evidence/*/*"), seen),
        "stages": used_by([f for root in (project.raw, project.preprocessed) for f in root.glob("Dataset6*/**/*")], seen),
        "trainings": used_by(project.results.rglob("*"), seen),  # the ranking, the manifest and what is published among them
    }
    assert estimated.total == pytest.approx(sum(used.values()), rel=0.2)
    assert estimated.pool == pytest.approx(used["pool"], rel=0.2)
    assert estimated.trainings == pytest.approx(used["trainings"], rel=0.2)
    assert estimated.stages == pytest.approx(used["stages"], rel=0.5)
    without_trainings = sum(used.values()) - used["trainings"]
    assert estimated.total - estimated.trainings == pytest.approx(without_trainings, rel=0.25)
    # how certain a network becomes, nobody knows before; the stand-in is more so than networks are
    assert used["evidence"] / 3 < estimated.evidence < used["evidence"] * 3
    # with evidence of its own the run knows better
    assert estimate_disk(asked, len(POOL)).evidence == pytest.approx(used["evidence"], rel=0.2)


def test_pool_resembles_the_labelled_cases(project: Project) -> None:
    found = estimate_disk(request(project.setup()), 10)
    (pool,) = (f for f in (project.preprocessed / DATASET).glob("*__pool_*") if f.is_dir())
    used = sum(f.stat().st_size for f in pool.iterdir()) / len(POOL) * 10 / 1e6
    assert found.pool == pytest.approx(used, rel=0.2)
    assert found.total == found.pool + found.evidence + found.stages + found.trainings


def test_cases_whose_names_begin_alike_are_not_counted_twice(project: Project) -> None:
    folder = project.preprocessed / DATASET / IDENTIFIER
    before = estimate_disk(request(project.setup()), 1).pool
    (folder / "lab_10.b2nd").write_bytes(b"0" * 10**6)
    assert estimate_disk(request(project.setup()), 1).pool == before


def test_every_predictor_stage_and_training_counts(project: Project) -> None:
    setup = project.setup()

    def estimate(**settings: Any) -> Any:
        return estimate_disk(request(setup, **settings), len(POOL))

    plain = estimate()
    assert estimate(agreement__weight=0.0).evidence == pytest.approx(plain.evidence / 2)  # the teacher's alone
    one_stage = estimate(curriculum__fractions=[1.0])
    assert one_stage.stages < plain.stages
    assert one_stage.evidence == pytest.approx(plain.evidence / 2)
    assert estimate(student__targets="hard", student__unlearning="off").stages < plain.stages
    assert one_stage.trainings < plain.trainings < estimate(student__optimizer="adamw").trainings
    assert estimate(student__ema=False).trainings < plain.trainings
    final = estimate(fold="all")
    assert final.evidence == pytest.approx(plain.evidence * (5 * len(POOL) + len(POOL) + 6) / (2 * len(POOL)))
    assert final.trainings > plain.trainings
    both = of_all_folds([plain, final])
    assert (both.pool, both.trainings) == (plain.pool, plain.trainings + final.trainings)


def test_student_of_a_run_that_has_begun(project: Project) -> None:
    """A trainer named at the first call, here with the plans' own network, need not be named again."""
    setup = project.setup("nnUNetPlans")
    tiny_setup.write_teacher(plans="nnUNetPlans")
    named = replace(request(setup), student_trainer="SemiSupervisedStudentTrainer")
    wanted, default = (estimate_disk(asked, len(POOL)).trainings for asked in (named, request(setup)))
    assert wanted != pytest.approx(default, rel=0.05)
    replace(named, method=named.method.with_settings({"curriculum.fractions": [0.5, 1.0]})).open()
    assert request(setup).student == "SemiSupervisedStudentTrainer"
    assert estimate_disk(request(setup), len(POOL)).trainings == wanted


def test_images_that_came_later_are_no_part_of_a_run(taught_project: Project) -> None:
    asked = request(taught_project.setup())
    before = estimate_disk(asked, len(POOL))
    tiny_setup.open_tiny_run(taught_project)
    later = estimate_disk(asked, 2 * len(POOL))
    assert later.pool == 2 * before.pool
    assert (later.evidence, later.stages) == (before.evidence, before.stages)


def test_slices_of_a_2d_configuration_count(project: Project) -> None:
    setup = project.setup()
    shutil.copytree(setup.data_folder, setup.data_folder.with_name("nnUNetPlans_2d"))  # the same: the spacing is 1 everywhere
    flat = load_setup("137", "2d", setup.plans_name)
    assert estimate_disk(replace(request(flat), method=setup.method), 5).evidence == pytest.approx(
        estimate_disk(request(setup), 5).evidence
    )


# ---- too little room


def message(error: pytest.ExceptionInfo[BaseException], what: str) -> None:
    assert str(error.value).startswith(f"{what} needs about ")
    assert ", and 0.0 MB are free on its file system " in str(error.value)


def test_no_room_is_known_before_each_step(fresh_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_ssl.errors import StateError
    from nnunet_ssl.report.write_report import write_report

    project = fresh_project
    setup = project.setup()
    asked = request(setup, unlabelled=(project.unlabelled,), evidence__num_samples=2)
    trained: list[str] = []

    def pretend(model: ModelLocation, fold: int | str, **_: Any) -> None:
        trained.append(model.dataset)
        tiny_setup.pretend_training(model, fold)

    def files() -> list[str]:
        return sorted(str(f) for root in (project.raw, project.preprocessed, project.results) for f in root.rglob("*"))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    rooms = {
        "pool": "the pool (6 cases to be preprocessed)",
        "teacher": f"the training of {DATASET} with {OUR_TEACHER}",
        "stage-1": "evidence of the teacher (6 cases)",
        "student-1": "the training of Dataset601_Tiny_f0s1 with TransASPPStudentTrainer",
        "stage-2": "evidence of the student of stage 1 (6 cases)",
        "student-2": "the training of Dataset602_Tiny_f0s2 with TransASPPStudentTrainer",
        "publish": "the published model",
    }
    steps = {step.key: step for step in pipeline(asked)}
    assert list(steps) == list(rooms)
    for key, step in steps.items():
        if key.startswith("stage"):
            asked.open()  # begins the run
        before, done = files(), len(trained)
        with monkeypatch.context() as full:
            full.setattr("nnunet_ssl.disk.free_bytes", lambda path: 10)
            with pytest.raises(StateError) as raised:
                step.work()
        message(raised, rooms[key])
        assert files() == before
        assert len(trained) == done
        step.work()
    for summary in project.results.rglob("summary.json"):
        summary.unlink()  # pretended ones have no figures of classes
    with monkeypatch.context() as full:
        full.setattr("nnunet_ssl.disk.free_bytes", lambda path: 10)
        with pytest.raises(StateError) as raised:
            write_report(setup, 0, OUR_TEACHER)
        message(raised, "the report")
        assert not (asked.open().workspace / "report").exists()


def test_no_room_for_a_stage(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_ssl.errors import StateError

    run = tiny_setup.open_tiny_run(taught_project)
    tiny_setup.write_evidence(teacher_store(run))
    monkeypatch.setattr("nnunet_ssl.disk.free_bytes", lambda path: 10)
    with pytest.raises(StateError) as raised:
        tiny_setup.grow_stage(run)
    message(raised, "stage 1 (3 pool cases)")
    assert not list(taught_project.raw.glob("Dataset601_*"))
    assert run.manifest.load(run.workspace).stages == []
