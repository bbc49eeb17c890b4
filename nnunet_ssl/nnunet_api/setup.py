"""An existing nnU-Net set-up: dataset, plans and configuration, resolved and checked once."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import ModelLocation, preprocessed_root, raw_root
from nnunet_ssl.nnunet_api.labelled_cases import LabelledCase, find_labelled_cases
from nnunet_ssl.nnunet_api.splits_file import read_splits

SHAPES_DATA = (
    "data_identifier",
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
"""What a configuration of the plans says of its preprocessed data."""


@dataclass(frozen=True)
class NnunetSetup:
    """Dataset D with one plans file and one configuration, as `nnUNetv2_train` would use them."""

    dataset: str
    """Dataset folder name."""
    plans_name: str
    configuration: str
    plans: dict[str, Any]
    """Content of the plans file; never changed."""
    dataset_json: dict[str, Any]

    @property
    def raw_folder(self) -> Path:
        return raw_root() / self.dataset

    @property
    def preprocessed_folder(self) -> Path:
        return preprocessed_root() / self.dataset

    @property
    def data_folder(self) -> Path:
        """nnU-Net's preprocessed files of this configuration."""
        return self.preprocessed_folder / str(self.configuration_manager.data_identifier)

    def model(self, trainer: str) -> ModelLocation:
        """Where a trainer's model of this dataset stands, trained or not."""
        return ModelLocation(dataset=self.dataset, trainer=trainer, plans=self.plans_name, configuration=self.configuration)

    @cached_property
    def plans_manager(self) -> PlansManager:
        return PlansManager(self.plans)

    @cached_property
    def configuration_manager(self) -> ConfigurationManager:
        return self.plans_manager.get_configuration(self.configuration)

    def resolved_configuration(self) -> dict[str, Any]:
        """A copy of the configuration in the plans, with what it inherits written out."""
        configuration: dict[str, Any] = copy.deepcopy(self.configuration_manager.configuration)
        configuration.pop("inherits_from", None)
        return configuration

    @cached_property
    def label_manager(self) -> LabelManager:
        return self.plans_manager.get_label_manager(self.dataset_json)

    @cached_property
    def method(self) -> MethodConfig:
        """The `nnssl` section of the configuration, or the defaults.

        Raises:
            ConfigError: if it is damaged or of a newer schema.
        """
        return MethodConfig.from_dict(self.configuration_manager.configuration.get("nnssl"))

    @property
    def file_ending(self) -> str:
        return str(self.dataset_json["file_ending"])

    @property
    def num_channels(self) -> int:
        """Input channels of an image."""
        return len(self.dataset_json.get("channel_names", self.dataset_json.get("modality", {})))

    @property
    def num_files(self) -> int:
        """Image files per case: as many as channels, or fewer where a file holds several, as RGB images do."""
        labelled = next(iter(self.labelled_cases.values()), None)
        return len(labelled.images) if labelled is not None else self.num_channels

    @property
    def heads(self) -> int:
        """H: network outputs; classes with background, or regions."""
        return int(self.label_manager.num_segmentation_heads)

    @property
    def has_regions(self) -> bool:
        return bool(self.label_manager.has_regions)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of every head, in the order of the network's outputs."""
        labels = {k: v for k, v in self.dataset_json["labels"].items() if k != "ignore"}
        if self.has_regions:
            return tuple(name for name in labels if name != "background")
        return tuple(sorted(labels, key=lambda name: label_value(labels[name])))

    @property
    def foreground_names(self) -> tuple[str, ...]:
        """Name of every class without background, or of every region, in the order of the network's outputs."""
        return self.class_names if self.has_regions else self.class_names[1:]

    @cached_property
    def labelled_cases(self) -> dict[str, LabelledCase]:
        """Every case of D with its files, sorted by case id; no file is opened.

        Raises:
            SetupError: if the raw dataset is gone.
            InputError: if dataset.json lists cases in a way that nnU-Net does not understand.
        """
        if not self.raw_folder.is_dir():
            raise SetupError(f"{self.raw_folder} is missing: stage datasets link its labels and name its images; put the raw dataset back.")
        return find_labelled_cases(self.raw_folder, self.dataset_json, self.preprocessed_folder / "dataset.json")

    def shaping(self) -> dict[str, Any]:
        """Everything in the plans that shapes preprocessed images."""
        configuration = self.configuration_manager.configuration
        shaping = {key: configuration.get(key) for key in SHAPES_DATA}
        shaping["transpose_forward"] = self.plans["transpose_forward"]
        shaping["image_reader_writer"] = self.plans["image_reader_writer"]
        shaping["intensities"] = self.plans_manager.foreground_intensity_properties_per_channel
        shaping["channels"] = self.num_channels
        return shaping

    def data_hash(self) -> str:
        """Eight hexadecimal digits over `shaping`."""
        canonical = json.dumps(self.shaping(), sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def splits(self) -> list[dict[str, list[str]]]:
        """The splits of D: its `splits_final.json`, or the one nnU-Net would create (not written).

        Raises:
            SetupError: if there is no file and too few cases for nnU-Net's five-fold split.
            InputError: if the file is damaged or contradicts itself or the dataset.
        """
        path = self.preprocessed_folder / "splits_final.json"
        if path.is_file():
            return read_splits(path, self.labelled_cases if self.raw_folder.is_dir() else None)
        cases = list(self.labelled_cases)
        if len(cases) < 5:
            raise too_few_for_folds(self.dataset, len(cases))
        splits: list[dict[str, list[str]]] = generate_crossval_split(cases, seed=12345, n_splits=5)
        return [{part: [str(c) for c in split[part]] for part in ("train", "val")} for split in splits]

    def fold_cases(self, fold: int | str) -> tuple[list[str], list[str]]:
        """Labelled training and validation cases of a fold; for `all`, every case trains and none validates.

        Raises:
            SetupError: if the fold is not in the splits.
        """
        if fold == "all":
            return list(self.labelled_cases), []
        splits = self.splits()
        if not 0 <= int(fold) < len(splits):
            raise SetupError(f"fold {fold} is not in the {len(splits)} splits of {self.dataset}; use -f 0 to {len(splits) - 1} or -f all.")
        return sorted(splits[int(fold)]["train"]), sorted(splits[int(fold)]["val"])


def label_value(entry: int | list[int]) -> int:
    """The value of a class in dataset.json, where nnU-Net takes a list of one for a number as well."""
    return int(entry[0] if isinstance(entry, list | tuple) else entry)


def too_few_for_folds(dataset: str, num_cases: int) -> SetupError:
    """What to do where nnU-Net cannot make its five folds."""
    splits = preprocessed_root() / dataset / "splits_final.json"
    return SetupError(
        f"{dataset} has {num_cases} labelled cases, too few for nnU-Net's five folds; write {splits} with folds of your own "
        '([{"train": [CASES], "val": [CASES]}, ...]), or use -f all.'
    )
