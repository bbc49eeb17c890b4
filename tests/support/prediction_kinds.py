"""Kinds of set-ups with a network of one convolution, by plans written out here: nothing is planned, preprocessed or trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.prediction.findings import DEFAULT_SCORE, Findings, no_findings
from nnunet_ssl.prediction.prepared_model import PreparedModel

DATASET = "Dataset137_Kind"
SPACING = (1.0, 1.3, 2.5)
"""(x, y, z) in millimetres: the network's grid is another."""
ORIGIN, DIRECTION = (5.0, -3.5, 12.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
SHAPE = (9, 17, 21)
"""Array axes (z, y, x)."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What differs."""

    configuration: str = "3d_fullres"
    channels: tuple[str, ...] = ("T1",)
    labels: dict[str, Any]
    regions_class_order: tuple[int, ...] | None = None
    ending: str = ".nii.gz"
    reader: str = "SimpleITKIO"
    forward: tuple[int, int, int] = (0, 1, 2)
    grid: tuple[float, ...] = (2.0, 1.0, 1.0)
    patch: tuple[int, ...] = (8, 12, 12)


CLASSES = {"background": 0, "rim": 1, "core": 2}
KINDS = {
    "classes, two channels, transposed axes": Kind(labels=CLASSES, channels=("T1", "T2"), forward=(1, 2, 0), grid=(1.2, 0.8, 2.2)),
    "regions": Kind(labels={"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=(1, 2)),
    "ignore label, slice by slice": Kind(labels={**CLASSES, "ignore": 3}, configuration="2d", grid=(1.0, 1.1), patch=(12, 12)),
    "photographs": Kind(
        labels=CLASSES,
        configuration="2d",
        channels=("R", "G", "B"),
        ending=".png",
        reader="NaturalImage2DIO",
        grid=(1.0, 1.0),
        patch=(12, 12),
    ),
}


def setup_of(kind: Kind) -> NnunetSetup:
    """Plans as nnU-Net would write them."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{kind.configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        "patch_size": list(kind.patch),
        "spacing": list(kind.grid),
        "normalization_schemes": ["ZScoreNormalization"] * len(kind.channels),
        "use_mask_for_norm": [False] * len(kind.channels),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
    }
    plans = {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "transpose_forward": list(kind.forward),
        "transpose_backward": [kind.forward.index(axis) for axis in range(3)],
        "image_reader_writer": kind.reader,
        "configurations": {kind.configuration: configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): {"mean": 0.0, "std": 1.0} for c in range(len(kind.channels))},
    }
    content: dict[str, Any] = {
        "channel_names": {str(c): name for c, name in enumerate(kind.channels)},
        "labels": kind.labels,
        "numTraining": 1,
        "file_ending": kind.ending,
    }
    if kind.regions_class_order is not None:
        content["regions_class_order"] = list(kind.regions_class_order)
    return NnunetSetup(DATASET, "nnUNetPlans", kind.configuration, plans, content)


def write_case(kind: Kind, folder: Path, case: str, seed: int = 0) -> list[str]:
    """Noise with a frame of zeros, which nnU-Net crops away."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if kind.ending == ".png":
        file = folder / f"{case}_0000.png"
        Image.fromarray(random.integers(0, 256, (*SHAPE[1:], 3), dtype=np.uint8)).save(file)
        return [str(file)]
    files = []
    for channel in range(len(kind.channels)):
        array = np.zeros(SHAPE, np.float32)
        array[1:-2, 2:-1, 1:-3] = random.normal(3, 1, (SHAPE[0] - 3, SHAPE[1] - 3, SHAPE[2] - 4))
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        image.SetDirection(DIRECTION)
        files.append(str(folder / f"{case}_{channel:04d}{kind.ending}"))
        sitk.WriteImage(image, files[-1])
    return files


def network_of(setup: NnunetSetup, seed: int = 0) -> nn.Module:
    """Kernels without symmetry; blurred input, so that labels hang together a little."""
    torch.manual_seed(seed)
    convolution = nn.Conv2d if setup.configuration == "2d" else nn.Conv3d
    made = convolution(setup.num_channels, setup.heads, 3, padding=1)
    nn.init.normal_(made.weight, std=0.5)
    return made.eval()


def prepared(setup: NnunetSetup, network: nn.Module, findings: Findings | None = None, *, num_samples: int = 8) -> PreparedModel:
    """The network as `prepare_model` would have it, with mirroring along every axis."""
    axes = (0, 1) if setup.configuration == "2d" else (0, 1, 2)
    predictor = EvidencePredictor(num_samples=num_samples, device=torch.device("cpu"))
    predictor.use_network(network, setup.plans_manager, setup.configuration_manager, None, setup.dataset_json, "nnUNetTrainer", axes)
    return PreparedModel(
        model=ModelLocation(dataset=DATASET, trainer="nnUNetTrainer", plans="nnUNetPlans", configuration=setup.configuration),
        folds=["all"],
        setup=setup,
        origins=["none"],
        predictor=predictor,
        findings=findings or no_findings("nothing is known", DEFAULT_SCORE),
        is_fast=False,
    )


def make_lively(model: Path) -> None:
    """Logits so far apart that random weights predict every class somewhere."""
    for path in model.glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(path, weights_only=False)
        for name, value in checkpoint["network_weights"].items():
            if "decoder.seg_layers" in name:
                generator = torch.Generator().manual_seed(value.numel())
                value.copy_(torch.randn(value.shape, generator=generator) if name.endswith("weight") else torch.zeros_like(value))
        torch.save(checkpoint, path)


def pretend_distillation(model: Path) -> None:
    """Let the checkpoints say that the uncertainty head has learnt."""
    for path in model.glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(path, weights_only=False)
        checkpoint["logging"]["loss_uncertainty"] = [-4.0]
        torch.save(checkpoint, path)


def stock_labels_of(made: PreparedModel, files: list[str], out: Path) -> Path:
    """What nnU-Net writes for the case; returns the file."""
    predictor = made.predictor
    stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    stock.manual_initialization(
        predictor.network,
        predictor.plans_manager,
        predictor.configuration_manager,
        [predictor.network.state_dict()],
        predictor.dataset_json,
        "",
        predictor.allowed_mirroring_axes,
    )
    out.mkdir(parents=True, exist_ok=True)
    stock.predict_from_files_sequential([files], str(out))
    (written,) = out.glob(f"*{made.setup.file_ending}")
    return written


def read(path: Path) -> NDArray[Any]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
