"""A dataset like BraTS as planning sees it: `dataset.json` and a fingerprint, no images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATASET = "Dataset138_BratsLike"
CROPPED = [137, 165, 136]
"""Median voxels of the nonzero part of a BraTS image of 155 x 240 x 240, 1 mm (9 cases of BraTS 2021)."""
NUM_CASES = 100


def write_brats_like(raw: Path, preprocessed: Path, *, shape: list[int] = CROPPED, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    """Write the two files into nnU-Net's folders; the images they name do not exist."""
    cases = {f"case_{i:03d}": {"images": [f"{i}_{c}.nii.gz" for c in range(4)], "label": f"{i}.nii.gz"} for i in range(NUM_CASES)}
    content: dict[str, Any] = {
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3},
        "numTraining": NUM_CASES,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": cases,
    }
    intensities = {str(channel): {"mean": 1.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 2.0} for channel in range(4)}
    fingerprint = {
        "spacings": [list(spacing)] * NUM_CASES,
        "shapes_after_crop": [shape] * NUM_CASES,
        "median_relative_size_after_cropping": 0.35,
        "foreground_intensity_properties_per_channel": intensities,
    }
    for folder, name, written in ((raw, "dataset.json", content), (preprocessed, "dataset_fingerprint.json", fingerprint)):
        (folder / DATASET).mkdir(parents=True, exist_ok=True)
        (folder / DATASET / name).write_text(json.dumps(written))
