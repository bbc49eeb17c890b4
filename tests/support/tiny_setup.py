"""A tiny nnU-Net set-up, planned and preprocessed by nnU-Net itself, with a pool, labels beside it, a teacher and evidence.

Six labelled and six unlabelled images of 20 x 22 x 18 voxels: a ball (class `rim`) with a core (class `core`) in noise.
It is built once per
session; tests work on copies. Evidence is written by hand where a test is about what follows from it, so that nothing has to be trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from quick_nnunet import quick_nnunet

DATASET = "Dataset137_Tiny"
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans_nnssl_tiny"
IDENTIFIER = f"nnUNetPlans_{CONFIGURATION}"
OUR_TEACHER, OUR_STUDENT = "TransASPPTeacherTrainer", "TransASPPStudentTrainer"
LABELLED = [f"lab_{i}" for i in range(6)]
POOL = [f"pool_{i}" for i in range(6)]
VALIDATION = ["lab_0"]
"""Validation case of fold 0; the other labelled cases train."""
SHAPE = (18, 22, 20)
"""Array axes (z, y, x): 20 x 22 x 18 voxels."""
ORIGIN, DIRECTION = (5.0, -3.5, 12.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
PATCH = [16, 16, 16]
LABELS = {"background": 0, "rim": 1, "core": 2}
LENGTH = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1}
OVERLAY: dict[str, Any] = {
    "network": "TransASPPUNet",
    "features": {"base": 4, "max": 8},
    "batch_size": 2,
    "nnssl": {
        "teacher": {"length": {"num_epochs": 1, **LENGTH}, "distillation_epochs": 1, "num_samples": 2},
        "curriculum": {"fractions": [0.5, 1.0]},
        "student": {"length": {"num_epochs": 2, **LENGTH}, "distillation_epochs": 1},
    },
}


@dataclass(frozen=True)
class Project:
    """nnU-Net's folders of one copy of the set-up, which the environment variables name, and the folder of unlabelled images."""

    raw: Path
    preprocessed: Path
    results: Path
    unlabelled: Path

    def setup(self, plans: str = PLANS, dataset: str = "137") -> Any:
        """The `NnunetSetup` of plans."""
        from nnunet_ssl.nnunet_api.load_setup import load_setup

        return load_setup(dataset, CONFIGURATION, plans)

    def prepare_pool(self, **options: Any) -> Any:
        """The pool of `unlabelled`, prepared in this process."""
        from nnunet_ssl.data.pool import prepare_pool

        return prepare_pool(self.setup(), [self.unlabelled], **{"skip_bad": False, "num_processes": 1, **options})

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / DATASET / f"{PLANS}.json"

    def change_plans(self, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        """Edit the plans: `change(plans, configuration)` works in place; what shapes the data is edited in nnU-Net's own plans, too."""
        from nnunet_ssl.nnunet_api.setup import SHAPES_DATA

        plans, base_file = json.loads(self.plans_file.read_text()), self.plans_file.with_name("nnUNetPlans.json")
        change(plans, plans["configurations"][CONFIGURATION])
        self.plans_file.write_text(json.dumps(plans))
        base = json.loads(base_file.read_text())
        for key in ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel"):
            base[key] = plans[key]
        for key in SHAPES_DATA:
            base["configurations"][CONFIGURATION][key] = plans["configurations"][CONFIGURATION][key]
        base_file.write_text(json.dumps(base))

    def labelled_files(self) -> list[Path]:
        """Every file of the labelled dataset, raw and preprocessed, that existed before the plugin came."""
        folders = [self.raw / DATASET, self.preprocessed / DATASET / IDENTIFIER, self.preprocessed / DATASET / "gt_segmentations"]
        tops = [self.preprocessed / DATASET / name for name in ("dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json")]
        return sorted([*(f for folder in folders for f in folder.rglob("*") if f.is_file()), *tops])


def phantom(case: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image and label of a case; the noise grows with the number in its name."""
    number = int(case.rsplit("_", 1)[1])
    random = np.random.default_rng([number, case.startswith("pool")])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    centre = np.array(SHAPE).reshape(3, 1, 1, 1) / 2 + random.uniform(-1.5, 1.5, size=(3, 1, 1, 1))
    distance = np.linalg.norm(grid - centre, axis=0)
    label = (distance < 6.5).astype(np.uint8) + (distance < 3.5)
    return (2 * label + random.normal(0, 0.2 + 0.1 * number, SHAPE) + 3).astype(np.float32), label.astype(np.uint8)


def write_image(array: NDArray[Any], path: Path, *, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    """Write an array (z, y, x) in the geometry of all cases."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_unlabelled(folder: Path) -> None:
    """The pool's images, with their labels beside them under three usual names."""
    for case in POOL:
        image, label = phantom(case)
        write_image(image, folder / f"{case}_0000.nii.gz")
        for name in (f"{case}.nii.gz", f"{case}_seg.nii.gz", f"labelsTr/{case}.nii.gz"):
            write_image(label, folder / name)


def label_files(unlabelled: Path) -> list[Path]:
    """Every label of a pool case below a folder."""
    return sorted(f for f in unlabelled.rglob("*.nii.gz") if not f.name.endswith("_0000.nii.gz"))


def write_raw(raw: Path) -> None:
    """The labelled dataset."""
    folder = raw / DATASET
    for case in LABELLED:
        image, label = phantom(case)
        write_image(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        write_image(label, folder / "labelsTr" / f"{case}.nii.gz")
    content = {"channel_names": {"0": "T1"}, "labels": LABELS, "numTraining": len(LABELLED), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def plan_and_preprocess(project: Project, *, configurations: tuple[str, ...] = (CONFIGURATION,)) -> None:
    """What `nnUNetv2_plan_and_preprocess` does, then a patch smaller than the images and five splits."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    folder = project.preprocessed / DATASET
    folder.mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()), quick_nnunet():
        api.extract_fingerprints([137], num_processes=1, show_progress_bar=False, verbose=False)
        api.plan_experiments([137])
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        plans["configurations"][CONFIGURATION]["patch_size"] = PATCH
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        api.preprocess([137], configurations=configurations, num_processes=[1], show_progress_bar=False)
    splits = [{"train": [c for c in LABELLED if c != held], "val": [held]} for held in LABELLED[:5]]
    (folder / "splits_final.json").write_text(json.dumps(splits))


def lay_overlay(project: Project, overlay: Mapping[str, Any] | None = None) -> str:
    """Plans with the tiny network and lengths; returns their name."""
    from nnunet_ssl.data.overlay import lay_preset

    path = project.results / "tiny.json"
    path.write_text(json.dumps(overlay or OVERLAY))
    name = lay_preset(project.setup("nnUNetPlans"), str(path)).plans_name
    path.unlink()
    return name


def write_teacher(
    trainer_name: str = OUR_TEACHER,
    *,
    plans: str = PLANS,
    fold: int | str = 0,
    dataset: str = DATASET,
    configuration: str = CONFIGURATION,
    seed: int = 0,
    mirroring: tuple[int, ...] | None = (0, 1, 2),
) -> Path:
    """A checkpoint in nnU-Net's own format with random weights, as if the training had ended; returns its fold's folder."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunet_ssl.nnunet_api.external_trainers import external_trainers

    with external_trainers(), contextlib.redirect_stdout(io.StringIO()):
        trainer = get_trainer_from_args(dataset, configuration, fold, trainer_name, plans, device=torch.device("cpu"))
        torch.manual_seed(seed)
        trainer.initialize()
        trainer.inference_allowed_mirroring_axes = mirroring
        folder = Path(trainer.output_folder)
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    plans_file = Path(trainer.preprocessed_dataset_folder_base) / f"{plans}.json"
    shutil.copy(plans_file, folder.parent / "plans.json")
    shutil.copy(plans_file.parent / "dataset.json", folder.parent / "dataset.json")
    return folder


def evidence_of(label: NDArray[Any], *, doubt: float, heads: int = 3, num_samples: int = 8) -> Any:
    """Softmax evidence of a predictor that sees a label map and is in doubt by the same amount everywhere.

    Args:
        label: (X, Y, Z) classes.
        doubt: probability and votes that are not the label's, shared by the other classes; below 2/3.
        heads: classes with background.
        num_samples: K.
    """
    from nnunet_ssl.confidence.evidence import Evidence

    one_hot = np.stack([label == k for k in range(heads)]).astype(np.float32)
    mean = one_hot * (1 - doubt) + (1 - one_hot) * doubt / (heads - 1)
    variance = np.full_like(mean, doubt**2 / 4)
    return Evidence(mean=mean, variance=variance, votes=mean, num_samples=num_samples, has_regions=False)


def write_evidence(
    store: Any, cases: list[str] | None = None, *, doubt: Callable[[str], float] | None = None, label: Any = None, num_samples: int = 8
) -> None:
    """Evidence of every pool case by hand: the true label, in more doubt the higher the number of the case."""
    doubt = doubt or (lambda case: 0.05 + 0.05 * int(case[-1]))
    for case in cases or POOL:
        store.write(case, evidence_of(label(case) if label else phantom(case)[1], doubt=doubt(case), num_samples=num_samples))


def open_tiny_run(project: Project, fold: int | str = 0, **options: Any) -> Any:
    """The run of our teacher, begun if need be; `settings` replaces single settings by dotted path."""
    from nnunet_ssl.pseudolabel.run_spec import RunSpec, settings_in_force
    from nnunet_ssl.pseudolabel.start_run import open_run

    setup, trainer = project.setup(), options.pop("teacher_trainer", OUR_TEACHER)
    if settings := options.pop("settings", None):
        options["method"] = settings_in_force(setup, trainer, fold).with_settings(settings)
    only_looks = options.pop("only_looks", False)
    return open_run(RunSpec(setup=setup, fold=fold, teacher_trainer=trainer, **options), only_looks=only_looks)


def teacher_store(run: Any) -> Any:
    """Evidence of a run's only teacher."""
    (store,) = run.teacher_stores().values()
    return store


def grow_stage(run: Any, **options: Any) -> Any:
    """The next stage, in this process."""
    import torch

    from nnunet_ssl.pseudolabel.grow import grow

    return grow(run, device=torch.device("cpu"), **options)


def pretend_training(model: Any, fold: int | str = 0, *, seed: int = 7, dice: float = 0.5) -> Path:
    """Leave what a finished training leaves: weights that differ from the start's, and nnU-Net's validation summary; without mirroring."""
    import torch

    folder = write_teacher(model.trainer, plans=model.plans, fold=fold, dataset=model.dataset, seed=seed, mirroring=None)
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    for value in checkpoint["network_weights"].values():
        value += 0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    (folder / "validation").mkdir()
    (folder / "validation" / "summary.json").write_text(json.dumps({"foreground_mean": {"Dice": dice}}))
    return folder


def pretend_validated_training(model: Any, fold: int | str, *, number: int) -> None:
    """A finished training with a validation in which every case has a Dice of `number` tenths."""
    folder = pretend_training(model, fold, seed=number)
    figures = {"Dice": number / 10, "IoU": 0.1}
    held_out = LABELLED if fold == "all" else [LABELLED[int(fold)]]
    cases = [{"reference_file": f"x/{case}.nii.gz", "metrics": {"1": figures, "2": figures}} for case in held_out]
    content = {"foreground_mean": figures, "mean": {"1": figures, "2": figures}, "metric_per_case": cases}
    (folder / "validation" / "summary.json").write_text(json.dumps(content))


def write_student(run: Any, stage: int, *, seed: int = 7) -> Path:
    """The student of a stage as if its training had ended."""
    return pretend_training(run.student(stage), run.fold, seed=seed, dice=0.5 + stage / 10)


def digests(files: list[Path]) -> dict[str, str]:
    """SHA-256 of every file."""
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def mtimes(*folders: Path) -> dict[str, int]:
    """Modification time of every file and folder below folders."""
    return {str(f): f.stat().st_mtime_ns for folder in folders for f in sorted(folder.rglob("*"))}


@contextlib.contextmanager
def environment(project: Project, *, workers: int = 1) -> Iterator[None]:
    """nnU-Net's variables for a project, where no function-scoped fixture may set them; `workers` are those of data augmentation."""
    values = {"nnUNet_raw": project.raw, "nnUNet_preprocessed": project.preprocessed, "nnUNet_results": project.results}
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("nnUNet_")]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, str(value))
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_n_proc_DA", str(workers))
        patch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)  # nnU-Net forks twelve processes to list a folder
        _stay_on_one_thread(patch)
        yield


def _stay_on_one_thread(patch: pytest.MonkeyPatch) -> None:
    """Commands on a CPU take all its cores, which is slow on a shared machine; tiny networks need one."""
    import torch

    torch.set_num_threads(1)
    patch.setattr(torch, "set_num_threads", lambda number: None)


def folders(root: Path) -> Project:
    """Empty folders for a set-up."""
    project = Project(*(root / f"nnUNet_{n}" for n in ("raw", "preprocessed", "results")), unlabelled=root / "unlabelled")
    for folder in (project.raw, project.preprocessed, project.results):
        folder.mkdir(parents=True)
    return project


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The set-up with its pool prepared, built once; never to be changed."""
    project = folders(tmp_path_factory.mktemp("built"))
    write_raw(project.raw)
    write_unlabelled(project.unlabelled)
    with environment(project):
        plan_and_preprocess(project)
        assert lay_overlay(project) == PLANS
        project.prepare_pool()
    return project


@pytest.fixture(scope="session")
def built_teacher(built_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nnUNet_results` with our teacher's random weights for folds 0 and 1."""
    results = tmp_path_factory.mktemp("teacher") / "nnUNet_results"
    results.mkdir()
    with environment(Project(built_project.raw, built_project.preprocessed, results, built_project.unlabelled)):
        write_teacher(fold=0, seed=0)
        write_teacher(fold=1, seed=1)
    return results


@pytest.fixture(scope="session")
def built_stage(built_project: Project, built_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The set-up with a run of fold 0 whose first stage is written from evidence by hand; never to be changed."""
    found = folders(tmp_path_factory.mktemp("stage"))
    project = Project(found.raw, found.preprocessed, found.results, built_project.unlabelled)
    for source, target in (
        (built_project.raw, found.raw),
        (built_project.preprocessed, found.preprocessed),
        (built_teacher, found.results),
    ):
        shutil.copytree(source, target, dirs_exist_ok=True)
    with environment(project):
        run = open_tiny_run(project)
        write_evidence(teacher_store(run))
        grow_stage(run)
    return project


@pytest.fixture
def staged_project(built_stage: Project, quiet_machine: None) -> Iterator[Project]:
    """`built_stage` itself, named by the environment variables; not to be changed."""
    with environment(built_stage):
        yield built_stage


@pytest.fixture
def project(built_project: Project, nnunet_environment: Any, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the set-up with its pool, in the test's own nnU-Net folders; the unlabelled images are shared and not to be changed."""
    _stay_on_one_thread(monkeypatch)
    for name in ("raw", "preprocessed"):
        shutil.copytree(getattr(built_project, name), getattr(nnunet_environment, name), dirs_exist_ok=True)
    return Project(nnunet_environment.raw, nnunet_environment.preprocessed, nnunet_environment.results, built_project.unlabelled)


def replace_pool_image(project: Project, case: str, folder: Path) -> None:
    """Let a pool image be another one under the same name, in a copy of the unlabelled images, and prepare the pool again.

    Args:
        project: whose pool.
        case: of the pool.
        folder: for the copy; the images of `project` are shared by all tests.
    """
    from nnunet_ssl.data.pool import prepare_pool

    shutil.copytree(project.unlabelled, folder)
    write_image(phantom(case)[0][::-1].copy(), folder / f"{case}_0000.nii.gz")
    assert prepare_pool(project.setup(), [folder], skip_bad=False, num_processes=1).case_ids == POOL


@pytest.fixture
def fresh_project(project: Project, tmp_path: Path) -> Project:
    """As `project`, without a pool and with unlabelled images of its own, which a test may change."""
    for found in (project.preprocessed / DATASET).glob("*__pool_*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    shutil.copytree(project.unlabelled, tmp_path / "unlabelled")
    return Project(project.raw, project.preprocessed, project.results, tmp_path / "unlabelled")


@pytest.fixture
def taught_project(project: Project, built_teacher: Path) -> Project:
    """As `project`, with our teacher's (random) weights for folds 0 and 1."""
    shutil.copytree(built_teacher, project.results, dirs_exist_ok=True)
    return project
