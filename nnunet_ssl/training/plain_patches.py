"""Patches as they are, without augmentation, from cases of several preprocessed folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


class CaseUnion:
    """Several of nnU-Net's datasets as one; cases without class locations, as those of the pool, are cropped at random.

    Args:
        datasets: nnU-Net datasets with different case ids.
        annotated_key: under which nnU-Net looks for annotated voxels if the labels have an ignore label, else None.
    """

    def __init__(self, datasets: Sequence[Any], *, annotated_key: tuple[int, ...] | None) -> None:
        self._of_case = {case: dataset for dataset in datasets for case in dataset.identifiers}
        self._annotated_key = annotated_key
        self.identifiers = sorted(self._of_case)

    def __getitem__(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """One case in nnU-Net's order, with class locations in its properties."""
        data, segmentation, previous, properties = self._of_case[identifier].load_case(identifier)
        locations = properties.setdefault("class_locations", {})
        if self._annotated_key is not None and self._annotated_key not in locations:
            anywhere = [0, *(np.random.randint(n) for n in data.shape[1:])]  # noqa: NPY002 (the generator nnU-Net's loaders use)
            locations[self._annotated_key] = np.array([anywhere])
        return data, segmentation, previous, properties


def plain_patch_loader(trainer: Any, datasets: Sequence[Any]) -> SingleThreadedAugmenter:
    """Batches of un-augmented patches of a trainer's patch and batch size, read in this process.

    Args:
        trainer: nnU-Net trainer; its validation transforms are used, which only bring the segmentation into form.
        datasets: nnU-Net datasets to draw from, every case with the same probability.
    """
    labels, patch_size = trainer.label_manager, trainer.configuration_manager.patch_size
    key = (-1, *labels.all_labels) if labels.has_ignore_label else None
    transforms = trainer.get_validation_transforms(
        None,
        is_cascaded=trainer.is_cascaded,
        foreground_labels=labels.foreground_labels,
        regions=labels.foreground_regions if labels.has_regions else None,
        ignore_label=labels.ignore_label,
    )
    cases = CaseUnion(datasets, annotated_key=key)
    loader = nnUNetDataLoader(
        cases,
        trainer.batch_size,
        patch_size,
        patch_size,
        labels,
        oversample_foreground_percent=trainer.oversample_foreground_percent,
        transforms=transforms,
    )
    return SingleThreadedAugmenter(loader, None)
