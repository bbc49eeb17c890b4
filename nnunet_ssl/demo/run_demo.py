"""`nnssl_demo`: the whole method on a synthetic dataset, against a supervised control, in minutes on a CPU."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.overlay import laid_before, lay_preset
from nnunet_ssl.demo.demo_folders import demo_folders
from nnunet_ssl.demo.stock_command import run_stock_command
from nnunet_ssl.demo.synthetic import DATASET_ID, DATASET_NAME, SyntheticDataset, write_synthetic_dataset
from nnunet_ssl.demo.true_dice import EvaluatedModel, format_true_dice, write_true_dice
from nnunet_ssl.locations import DEFAULT_PLANS, OUR_TEACHER, ModelLocation, preprocessed_root
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.report.validation import foreground_keys, read_summary
from nnunet_ssl.report.write_report import write_report
from nnunet_ssl.run.from_scratch import begin_from_scratch, from_scratch_step
from nnunet_ssl.run.pipeline import execute, pipeline
from nnunet_ssl.run.run_request import RunRequest, Step
from nnunet_ssl.run.stage_table import format_table, stage_rows
from nnunet_ssl.run.steps import steps_until

logger = logging.getLogger(__name__)

LABELLED, POOL, TEST = 8, 24, 8
"""Cases of the synthetic dataset."""
CONFIGURATION = "3d_fullres"
PRESET = "demo"
FOLD = "all"


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """What `nnssl_demo` was asked to do."""

    folder: Path
    """Everything is written below it."""
    seed: int
    """Of the synthetic images."""
    device: str
    with_report: bool


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo has made."""

    true_dice: str
    """Table as text."""
    true_dice_file: Path
    page: Path | None
    """The report; None where it was not wanted."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A trained model that predicts the test set."""

    name: str
    model: ModelLocation
    steps: int


def run_demo(request: DemoRequest) -> DemoResult:
    """Do everything that is not done yet; the files in the folder decide.

    Raises:
        StateError: if a step fails, or the folder holds a demo with another seed.
    """
    folder = request.folder.absolute()
    dataset = write_synthetic_dataset(folder, labelled=LABELLED, pool=POOL, test=TEST, seed=request.seed)
    logs = folder / "logs"
    with demo_folders(folder):
        execute([_plan(logs)])
        setup = _laid_setup(PRESET)
        run_request = _run_request(setup, dataset, request.device)
        execute(pipeline(run_request))
        run = run_request.open()
        logger.info("%s", format_table(stage_rows(run)))
        control = begin_from_scratch(run)
        candidates = [*_models_of(run), _Candidate(name="supervised control", model=control.model, steps=control.steps)]
        predictions = {c.name: folder / "predictions" / c.name.replace(" ", "_") for c in candidates}
        steps = [from_scratch_step(control, device=request.device, logs=logs)]
        steps += [_predict(c, dataset, predictions[c.name], request.device, logs) for c in candidates]
        execute(steps)
        keys = foreground_keys(setup)
        tested = [EvaluatedModel(c.name, c.steps, read_summary(predictions[c.name] / "summary.json", keys)) for c in candidates]
        write_true_dice(folder / "true_dice.csv", tested)
        page = write_report(setup, FOLD, OUR_TEACHER, folder / "report")[1] if request.with_report else None
    return DemoResult(true_dice=format_true_dice(tested), true_dice_file=folder / "true_dice.csv", page=page)


def _plan(logs: Path) -> Step:
    flags = ("-d", DATASET_ID, "-c", CONFIGURATION, "-npfp", 1, "-np", 1)
    command = shlex.join(map(str, ("nnUNetv2_plan_and_preprocess", *flags)))

    def work() -> None:
        run_stock_command("nnUNetv2_plan_and_preprocess", *flags, log=logs / "plan_and_preprocess.txt")

    return Step("plan and preprocess the labelled cases", command, is_preprocessed, work)


def is_preprocessed() -> bool:
    """Whether nnU-Net has planned the synthetic dataset and every labelled case is whole (its properties are written last)."""
    folder = preprocessed_root() / DATASET_NAME
    properties = folder / f"{DEFAULT_PLANS}_{CONFIGURATION}"
    return (folder / f"{DEFAULT_PLANS}.json").is_file() and len(list(properties.glob("*.pkl"))) == LABELLED


def _laid_setup(preset: str) -> NnunetSetup:
    """The synthetic dataset with an overlay over nnU-Net's plans; one that is laid already stays as it is."""
    base = load_setup(DATASET_NAME, CONFIGURATION, DEFAULT_PLANS)
    return laid_before(base, preset) or lay_preset(base, preset)


def _run_request(setup: NnunetSetup, dataset: SyntheticDataset, device: str) -> RunRequest:
    return RunRequest(
        setup=setup,
        fold=FOLD,
        unlabelled=(dataset.pool_images,),
        teacher_trainer=OUR_TEACHER,
        teacher_folds=(FOLD,),  # cross-fitted teachers would take five times as long
        student_trainer=None,
        method=setup.method,
        device=device,
        skip_bad=False,
        num_processes=1,  # a second process would take longer to start than all these small images take
        first_id=None,
    )


def _models_of(run: Run) -> list[_Candidate]:
    """The teacher and every student."""
    models = [_Candidate(name="teacher", model=run.teacher, steps=steps_until(run, 0))]
    for record in run.manifest.stages:
        steps = steps_until(run, record.stage)
        models.append(_Candidate(name=f"student {record.stage}", model=run.student(record.stage), steps=steps))
    return models


def _predict(candidate: _Candidate, dataset: SyntheticDataset, out: Path, device: str, logs: Path) -> Step:
    """Stock prediction of the test images and stock evaluation against the true labels."""
    model, summary = candidate.model, out / "summary.json"
    log = logs / f"predict_{out.name}.txt"
    flags: list[object] = ["-d", model.dataset, "-c", CONFIGURATION, "-f", FOLD, "-tr", model.trainer, "-p", model.plans]
    # no worker processes: starting them takes longer than the work
    flags += ["-i", dataset.test_images, "-o", out, "-device", device, "-npp", 0, "-nps", 0, "--disable_progress_bar"]
    files = ["-djfile", out / "dataset.json", "-pfile", out / "plans.json"]

    def work() -> None:
        run_stock_command("nnUNetv2_predict", *flags, log=log)
        run_stock_command("nnUNetv2_evaluate_folder", dataset.test_labels, out, *files, "-np", 1, log=log)

    command = shlex.join(map(str, ("nnUNetv2_predict", *flags)))
    return Step(f"predict the test set with the {candidate.name}", command, is_newer(summary, model.checkpoint(FOLD)), work)


def is_newer(product: Path, source: Path) -> Callable[[], bool]:
    """Whether, when asked, the product is there and not older than what it was made from."""
    return lambda: product.is_file() and product.stat().st_mtime_ns >= source.stat().st_mtime_ns
