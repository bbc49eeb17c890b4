"""Where everything lies: nnU-Net's three folders, and our pool, workspace and stage datasets inside them.

Nothing here imports nnunetv2 or torch, so that `--help` and `nnssl_trainers` are instant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.errors import SetupError

OUR_TEACHER, OUR_STUDENT = "TransASPPTeacherTrainer", "TransASPPStudentTrainer"
"""Names of the trainers that build TransASPPUNet themselves; `-tr` of nnU-Net."""
DEFAULT_PLANS = "nnUNetPlans"
DEFAULT_DEVICE = "cuda"
"""nnU-Net's own default of `-p`."""
STUDY_FILE = "held_out.json"
"""In the workspace: everything measured on held-out cases."""
AUDIT_FILE = "audit.json"
"""In the workspace: findings of the audit, the study of held-out cases among them."""
PUBLISHED_MARKER = "nnssl_published.json"
"""In the fold of a published model: which student it is, and which run it comes from."""
PREDICTIONS = "predictions"
"""Stands where a trainer's name would, if predictions from elsewhere are the teacher."""
MANIFEST_FILE = "manifest.json"
"""In the workspace: the state of the run; without it the run has not begun."""
_WORKSPACE = "nnssl"
STAGE_SIDECAR = "nnssl.json"
"""Provenance of a stage dataset: in its raw folder and beside its preprocessed data."""


def _environment_folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        raise SetupError(f"the environment variable {variable} is not set; point it at your nnU-Net folder (export {variable}=...).")
    return Path(value).absolute()  # nnU-Net takes a path in a dataset.json that is not absolute as one from that dataset's folder


def raw_root() -> Path:
    """nnU-Net's folder of raw datasets (`nnUNet_raw`)."""
    return _environment_folder("nnUNet_raw")


def preprocessed_root() -> Path:
    """nnU-Net's folder of preprocessed datasets (`nnUNet_preprocessed`)."""
    return _environment_folder("nnUNet_preprocessed")


def results_root() -> Path:
    """nnU-Net's folder of trained models (`nnUNet_results`)."""
    return _environment_folder("nnUNet_results")


def _shipped_folder(name: str) -> Path:
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise SetupError(
        f"the folder '{name}' of nnunet-ssl is missing beside {package}; install the package again (pip install . in a checkout of it)."
    )


def trainers_folder() -> Path:
    """The folder for `nnUNet_extTrainer`: re-exports of our trainers, installed or in a source checkout."""
    return _shipped_folder("trainers")


def presets_folder() -> Path:
    """The folder of plans overlays (`plans/*.json`)."""
    return _shipped_folder("plans")


def plans_flag(plans: str) -> str:
    """`-p` as it stands in a command to type next; nothing for nnU-Net's default."""
    return "" if plans == DEFAULT_PLANS else f" -p {plans}"


def device_flag(device: str) -> str:
    """`-device` as it stands in a command to type next; nothing for the default of nnU-Net's commands and ours."""
    return "" if device == DEFAULT_DEVICE else f" -device {device}"


def dataset_number(name: str) -> int:
    """`137` of `Dataset137_BraTS2021`, as nnU-Net's commands take it."""
    return int(name[7:10])


def fold_name(fold: int | str) -> str:
    """nnU-Net's folder name of a fold, `fold_0` or `fold_all`."""
    return f"fold_{fold}"


@dataclass(frozen=True, kw_only=True)
class ModelLocation:
    """One trained nnU-Net model: `nnUNet_results/<dataset>/<trainer>__<plans>__<configuration>`."""

    dataset: str
    """Dataset folder name, for instance `Dataset137_BraTS2021`."""
    trainer: str
    """Trainer class name."""
    plans: str
    """Plans name, for instance `nnUNetPlans`."""
    configuration: str
    """Configuration name, for instance `3d_fullres`."""

    @property
    def name(self) -> str:
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    @property
    def folder(self) -> Path:
        return results_root() / self.dataset / self.name

    def fold_folder(self, fold: int | str) -> Path:
        return self.folder / fold_name(fold)

    def checkpoint(self, fold: int | str) -> Path:
        """The final checkpoint of a fold; `checkpoint_best` may stem from the teacher's first phase, with an untrained head."""
        return self.fold_folder(fold) / "checkpoint_final.pth"

    def validation_summary(self, fold: int | str) -> Path:
        """nnU-Net's metrics on the fold's validation cases."""
        return self.fold_folder(fold) / "validation" / "summary.json"

    def workspace(self, fold: int | str) -> Path:
        """Where a run that uses this model as its teacher keeps its manifest, evidence and rankings."""
        return self.fold_folder(fold) / _WORKSPACE


def manifests_below(folder: Path, pattern: str = "") -> Iterator[Path]:
    """The manifests of all runs whose teachers stand in a folder.

    Args:
        folder: of a model.
        pattern: of models' folders below it, if it is not one itself.
    """
    return folder.glob(f"{pattern}fold_*/{_WORKSPACE}/{MANIFEST_FILE}")


def start_over(workspace: Path) -> str:
    """How a run is started over, for messages."""
    return f"remove {workspace / MANIFEST_FILE} to start over"


def pool_folder(dataset: str, data_identifier: str, data_hash: str) -> Path:
    """Preprocessed images of the pool; nothing but data lies in it."""
    return preprocessed_root() / dataset / f"{data_identifier}__pool_{data_hash}"


def pool_index(dataset: str, data_identifier: str, data_hash: str) -> Path:
    """JSON beside the pool folder: the pool's cases, where their images are, and what was skipped."""
    return preprocessed_root() / dataset / f"{data_identifier}__pool_{data_hash}.json"


def stage_dataset_name(dataset_id: int, base_dataset: str, fold: int | str, stage: int) -> str:
    """Name of a stage dataset, for instance `Dataset601_BraTS2021_f0s1` for stage 1 of `Dataset137_BraTS2021`, fold 0."""
    base = base_dataset.split("_", 1)[1] if "_" in base_dataset else base_dataset
    return f"Dataset{dataset_id:03d}_{base}_f{fold}s{stage}"


def targets_folder(stage_dataset: str, data_identifier: str) -> Path:
    """Targets, confidence and validity of a stage's cases, beside (never inside) its preprocessed data."""
    return preprocessed_root() / stage_dataset / f"{data_identifier}__nnssl"
