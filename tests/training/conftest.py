"""A tiny preprocessed dataset with a pool and a stage, in nnU-Net's own formats, and trainers on it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DATASET = "Dataset137_Tiny"
STAGE = "Dataset901_Tiny_f0s1"
LABELLED, VALIDATION, POOL = ["lab_0", "lab_1"], ["lab_2"], ["pool_0", "pool_1"]
SIDE = 20
"""Voxels a side of an image; patches of 16 are cut from it, after augmentation ones of more, so that padding occurs."""


@dataclass
class Tiny:
    """Folders, plans and labels of the tiny dataset."""

    preprocessed: Path
    results: Path
    configuration: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    sidecar: dict[str, Any] = field(default_factory=dict)

    @property
    def identifier(self) -> str:
        return self.plans["configurations"][self.configuration]["data_identifier"]

    def folder(self, dataset: str) -> Path:
        return self.preprocessed / dataset

    def write_sidecar(self, **changes: Any) -> None:
        self.sidecar |= changes
        (self.folder(STAGE) / "nnssl.json").write_text(json.dumps(self.sidecar))

    def trainer(
        self, kind: Callable[..., Any], dataset: str = STAGE, *, fold: int | str = 0, settings: dict[str, Any] | None = None
    ) -> Any:
        """A trainer of that class, as `nnUNetv2_train` would make it, on the CPU and without the slow progress plot."""
        plans = copy.deepcopy(self.plans)
        plans |= {"dataset_name": dataset, "continue_training": False}
        if settings is not None:
            plans["configurations"][self.configuration]["nnssl"] = settings
        trainer = kind(
            plans=plans,
            configuration=self.configuration,
            fold=fold,
            dataset_json=copy.deepcopy(self.dataset_json),
            device=torch.device("cpu"),
        )
        trainer.logger.plot_progress_png = lambda folder: None
        return trainer


def settings(
    *, epochs: int = 2, teacher: dict[str, Any] | None = None, student: dict[str, Any] | None = None, iterations: int = 2
) -> dict[str, Any]:
    """An `nnssl` section for trainings of seconds."""
    length = {"num_epochs": epochs, "iterations_per_epoch": iterations, "val_iterations_per_epoch": 1}
    return {
        "teacher": {"length": length, "num_samples": 2, "distillation_epochs": 0, **(teacher or {})},
        "student": {"length": length, **(student or {})},
    }


def _architecture(dim: int) -> dict[str, Any]:
    per_stage = 3
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": per_stage,
            "features_per_stage": [4, 8, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * per_stage,
            "strides": [[1] * dim, [2] * dim, [2] * dim],
            "n_conv_per_stage": [1] * per_stage,
            "n_conv_per_stage_decoder": [1] * (per_stage - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _plans(dim: int, patch: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    configuration = "2d" if dim == 2 else "3d_fullres"
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    return configuration, {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [SIDE] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"max": 3.0, "mean": 1.0, "median": 1.0, "min": -1.0, "percentile_00_5": -1.0, "percentile_99_5": 3.0, "std": 1.0}
        },
        "configurations": {
            configuration: {
                "data_identifier": f"nnUNetPlans_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "median_image_size_in_voxels": [float(SIDE)] * dim,
                "spacing": [1.0] * dim,
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
                "resampling_fn_probabilities_kwargs": resampling,
                "architecture": _architecture(dim),
                "batch_dice": False,
            }
        },
    }


def _image_and_label(case: str, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """A blob with a core, brighter than its noisy surroundings."""
    random = np.random.default_rng(sum(map(ord, case)))
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    distance = np.linalg.norm(grid - random.uniform(7, 13, size=(3, 1, 1, 1)), axis=0)
    label = (distance < 6).astype(np.uint8) + (distance < 3) * np.uint8(labels > 2)
    return (label + random.normal(0, 0.3, label.shape) + 1).astype(np.float32), label


def _write_case(tiny: Tiny, case: str, labels: int, folder: Path) -> None:
    manager = PlansManager(tiny.plans)
    configuration = manager.get_configuration(tiny.configuration)
    image, label = _image_and_label(case, labels)
    files = tiny.preprocessed.parent / "files"
    files.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(image), str(files / f"{case}_0000.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(label), str(files / f"{case}.nii.gz"))
    seg = None if case in POOL else str(files / f"{case}.nii.gz")
    preprocessor = configuration.preprocessor_class(verbose=False)
    preprocessor.run_case_save(
        str(folder / case), [str(files / f"{case}_0000.nii.gz")], seg, manager, configuration, copy.deepcopy(tiny.dataset_json)
    )


def write_pool_case(tiny: Tiny, case: str, num_outputs: int, probability_channels: int, has_regions: bool) -> None:
    """Segmentation, properties and targets of a pool case: its true label, half of the voxels confident, one corner without validity."""
    folder, targets = tiny.folder(STAGE) / tiny.identifier, tiny.folder(STAGE) / f"{tiny.identifier}__nnssl"
    _, label = _image_and_label(case, 3)
    label = np.minimum(label, 2 if len(tiny.dataset_json["labels"]) > 2 else 1).astype(np.int16)
    blosc2.asarray(np.ascontiguousarray(label[None]), urlpath=str(folder / f"{case}_seg.b2nd"), mode="w")
    properties = load_pickle(str(folder / f"{case}.pkl"))
    properties["class_locations"] = {
        (tuple(c) if isinstance(c, list) else c): np.argwhere(np.isin(label[None], c))
        for c in tiny.dataset_json["labels"].values()
        if c != 0
    }
    if "ignore" in tiny.dataset_json["labels"]:
        properties["class_locations"][-1, 0, 1, 2] = np.argwhere(label[None] < 3)
    write_pickle(properties, str(folder / f"{case}.pkl"))
    regions = [np.isin(label, c) for n, c in tiny.dataset_json["labels"].items() if n not in ("background", "ignore")]
    num_confidence = num_outputs if has_regions else 1
    confidence = np.where(np.arange(SIDE) % 2 == 0, 9500, 6000).astype(np.int16)
    channels = [np.full(label.shape, 2, np.int16), *[np.broadcast_to(confidence, label.shape)] * num_confidence]
    channels[0][:4, :4, :4] = 3
    if probability_channels:
        heads = regions if has_regions else [label == k for k in range(num_outputs)]
        channels += [np.where(h, 8000, 2000 // max(1, num_outputs - 1)).astype(np.int16) for h in heads]
    blosc2.asarray(np.ascontiguousarray(np.stack(channels)), urlpath=str(targets / f"{case}.b2nd"), mode="w")


def build(root: Path, *, dim: int = 3, patch: tuple[int, ...] = (16, 16, 16), regions: bool = False, ignore: bool = False) -> Tiny:
    """Write everything below a folder."""
    preprocessed, results = root / "nnUNet_preprocessed", root / "nnUNet_results"
    labels: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": [2]} if regions else {"background": 0, "rim": 1, "core": 2}
    if ignore:
        labels["ignore"] = 3
    configuration, plans = _plans(dim, patch)
    dataset_json = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    if regions:
        dataset_json["regions_class_order"] = [1, 2]
    tiny = Tiny(preprocessed, results, configuration, plans, dataset_json)
    outputs = 2 if regions else 3
    probability_channels = outputs
    for dataset in (DATASET, STAGE):
        folder = tiny.folder(dataset)
        (folder / tiny.identifier).mkdir(parents=True)
        (folder / "gt_segmentations").mkdir()
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        (folder / "nnUNetPlans.json").write_text(json.dumps({**plans, "dataset_name": dataset}))
        (folder / "dataset_fingerprint.json").write_text("{}")
    for case in LABELLED + VALIDATION + POOL:
        _write_case(tiny, case, 3, tiny.folder(STAGE) / tiny.identifier)
    (tiny.folder(STAGE) / f"{tiny.identifier}__nnssl").mkdir()
    for case in LABELLED + VALIDATION:
        for part in (".b2nd", "_seg.b2nd", ".pkl"):
            shutil.copy(tiny.folder(STAGE) / tiny.identifier / f"{case}{part}", tiny.folder(DATASET) / tiny.identifier)
        for dataset in (DATASET, STAGE):
            shutil.copy(preprocessed.parent / "files" / f"{case}.nii.gz", tiny.folder(dataset) / "gt_segmentations")
    for case in POOL:
        write_pool_case(tiny, case, outputs, probability_channels, regions)
    (tiny.folder(DATASET) / "splits_final.json").write_text(json.dumps([{"train": LABELLED, "val": VALIDATION}] * 5))
    (tiny.folder(STAGE) / "splits_final.json").write_text(json.dumps([{"train": LABELLED + POOL, "val": VALIDATION}] * 5))
    tiny.write_sidecar(
        schema=1,
        stage=1,
        num_stages=2,
        num_epochs=2,
        fold=0,
        labelled_cases=LABELLED,
        validation_cases=VALIDATION,
        pool_cases=POOL,
        num_confidence_channels=outputs if regions else 1,
        num_probability_channels=probability_channels,
        blind_heads=[],
        init="scratch",
        init_checkpoint=None,
    )
    return tiny


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds each variant once; tests work on copies."""
    variants: dict[str, Path] = {}

    def get(**options: Any) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in variants:
            variants[key] = tmp_path_factory.mktemp("tiny")
            build(variants[key], **options)
        return variants[key]

    return get


@pytest.fixture
def make_tiny(built: Callable[..., Path], nnunet_environment: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """Makes a `Tiny` in the test's own nnU-Net folders; loaders run in the test's process."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def make(**options: Any) -> Tiny:
        source = built(**options)
        shutil.copytree(source / "nnUNet_preprocessed", nnunet_environment.preprocessed, dirs_exist_ok=True)
        dim = options.get("dim", 3)
        configuration, plans = _plans(dim, options.get("patch", (16, 16, 16)))
        folder = nnunet_environment.preprocessed / STAGE
        return Tiny(
            nnunet_environment.preprocessed,
            nnunet_environment.results,
            configuration,
            plans,
            json.loads((folder / "dataset.json").read_text()),
            json.loads((folder / "nnssl.json").read_text()),
        )

    return make


@pytest.fixture
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
    """The plain variant: 3D, two foreground classes."""
    return make_tiny()


@pytest.fixture(scope="session")
def short() -> Callable[..., dict[str, Any]]:
    """The function that makes `nnssl` sections for trainings of seconds."""
    return settings
