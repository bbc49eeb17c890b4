"""An existing nnU-Net set-up: dataset, plans and configuration, resolved and checked once."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.errors import ConfigError, InputError, SetupError
from nnunet_ssl.locations import preprocessed_root, raw_root, results_root
from nnunet_ssl.names import check_names
from nnunet_ssl.nnunet_api.plans_check import check_dataset_json, check_plans
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
OWN_PLANS = "nnUNetTransASPPPlans"
"""Plans that our planner made: the name begins so."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: if the file is unreadable or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__} where a JSON object is expected.")
    return content


def resolve_dataset(name_or_id: str) -> str:
    """The dataset folder name for `137`, `Dataset137_BraTS2021` or alike.

    Raises:
        SetupError: if no dataset, or more than one, has that id.
    """
    if name_or_id.startswith("Dataset"):
        if not re.fullmatch(r"Dataset\d{3}_[^/\\]+", name_or_id):
            raise SetupError(f"'{name_or_id}' is no dataset of nnU-Net; its name would be like Dataset137_BraTS2021.")
        if not (raw_root() / name_or_id).is_dir() and not (preprocessed_root() / name_or_id).is_dir():
            raise SetupError(f"no dataset '{name_or_id}' in {raw_root()} or {preprocessed_root()}.")
        return name_or_id
    if not name_or_id.isdecimal():
        raise SetupError(f"'{name_or_id}' is neither a dataset id such as 137 nor a name such as Dataset137_BraTS2021.")
    results_root()
    candidates = [str(name) for name in find_candidate_datasets(int(name_or_id))]
    if not candidates:
        raise SetupError(f"no dataset with id {name_or_id} in {raw_root()}; make {raw_root()}/Dataset{int(name_or_id):03d}_NAME first.")
    if len(candidates) > 1:
        raise SetupError(f"id {name_or_id} names several datasets ({', '.join(sorted(candidates))}); rename all but one.")
    return candidates[0]


def check_written_names(setup: NnunetSetup, plans_file: Path, dataset_file: Path) -> None:
    """See that what becomes part of the names of our files leads nowhere else.

    Raises:
        InputError: if the file ending or the data identifier is no plain name.
    """
    check_names([setup.dataset_json.get("file_ending")], "file_ending", dataset_file)
    check_names([setup.configuration_manager.data_identifier], "data_identifier", plans_file)


@dataclass(frozen=True)
class LabelledCase:
    """A case of the labelled dataset D: where its image channels and its manual label are."""

    case: str
    images: tuple[str, ...]
    label: str


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

    @cached_property
    def plans_manager(self) -> PlansManager:
        return PlansManager(self.plans)

    @cached_property
    def configuration_manager(self) -> ConfigurationManager:
        return self.plans_manager.get_configuration(self.configuration)

    @cached_property
    def label_manager(self) -> LabelManager:
        return self.plans_manager.get_label_manager(self.dataset_json)

    @cached_property
    def method(self) -> MethodConfig:
        """The `nnssl` section of the configuration, or the defaults.

        Raises:
            ConfigError: if it is damaged or of a newer schema.
        """
        section = self.configuration_manager.configuration.get("nnssl")
        try:
            return MethodConfig.from_dict(section)
        except ConfigError as error:
            raise ConfigError(f"{self.preprocessed_folder / self.plans_name}.json, {self.configuration}: {error}") from error

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
        return tuple(sorted(labels, key=lambda name: int(labels[name])))

    @cached_property
    def labelled_cases(self) -> dict[str, LabelledCase]:
        """Every case of D with its files, sorted by case id; no file is opened.

        Raises:
            SetupError: if the raw dataset is gone.
            InputError: if dataset.json lists cases in a way that nnU-Net does not understand.
        """
        if not self.raw_folder.is_dir():
            raise SetupError(f"{self.raw_folder} is missing: stage datasets link its labels and name its images; put the raw dataset back.")
        if "dataset" not in self.dataset_json:
            return self._listed_cases()
        try:
            check_names(self.dataset_json["dataset"], "case id", self.raw_folder / "dataset.json")
            listed = get_filenames_of_train_images_and_targets(str(self.raw_folder), json.loads(json.dumps(self.dataset_json)))
            cases = {case: LabelledCase(case, tuple(listed[case]["images"]), str(listed[case]["label"])) for case in sorted(listed)}
        except InputError:
            raise
        except Exception as error:  # whatever nnU-Net raises on a list that is none
            path = self.preprocessed_folder / "dataset.json"
            raise InputError(f"{path} lists no cases with 'images' and 'label' under 'dataset' ({error!r}); correct it.") from error
        return cases

    def _listed_cases(self) -> dict[str, LabelledCase]:
        """Cases of `imagesTr` as nnU-Net names them; its own function starts a pool of processes for that, which takes seconds."""
        pattern = re.compile(r"(.+)_\d{4}" + re.escape(self.file_ending))
        images: dict[str, list[str]] = {}
        for path in sorted((self.raw_folder / "imagesTr").glob(f"*{self.file_ending}")):
            if match := pattern.fullmatch(path.name):
                images.setdefault(match[1], []).append(str(path))
        labels = self.raw_folder / "labelsTr"
        return {case: LabelledCase(case, tuple(images[case]), str(labels / f"{case}{self.file_ending}")) for case in sorted(images)}

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


def too_few_for_folds(dataset: str, num_cases: int) -> SetupError:
    """What to do where nnU-Net cannot make its five folds."""
    splits = preprocessed_root() / dataset / "splits_final.json"
    return SetupError(
        f"{dataset} has {num_cases} labelled cases, too few for nnU-Net's five folds; write {splits} with folds of your own "
        '([{"train": [CASES], "val": [CASES]}, ...]), or use -f all.'
    )


def checked_setup(
    dataset: str,
    plans_name: str,
    configuration: str,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    *,
    folder: Path,
    plans_file: Path,
) -> NnunetSetup:
    """A set-up whose plans and dataset.json have all that is read of them.

    Args:
        dataset: folder name.
        plans_name: plans name.
        configuration: configuration name.
        plans: content of `plans_file`.
        dataset_json: content of dataset.json in `folder`.
        folder: where dataset.json lies.
        plans_file: where the plans lie.

    Raises:
        SetupError: if there is no such configuration, or it is part of a cascade.
        InputError, ConfigError: if something is missing or cannot be.
    """
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        raise InputError(f"{plans_file} has no 'configurations'; restore it, or make it again with nnU-Net.")
    if configuration not in configurations:
        raise SetupError(f"{plans_file} has no configuration '{configuration}'; it has: {', '.join(configurations)}.")
    check_plans(plans, configuration, plans_file)
    check_dataset_json(dataset_json, plans, folder / "dataset.json")
    setup = NnunetSetup(dataset, plans_name, configuration, plans, dataset_json)
    check_written_names(setup, plans_file, folder / "dataset.json")
    if setup.configuration_manager.previous_stage_name is not None:
        raise SetupError(
            f"'{configuration}' is the second stage of a cascade, which nnunet-ssl does not support; use 3d_lowres or 3d_fullres."
        )
    try:
        _ = setup.method
    except ConfigError as error:
        raise ConfigError(f"{plans_file}: {error}") from error
    return setup


def _check_number_of_cases(setup: NnunetSetup) -> None:
    """Cases that were lost or forgotten show in `numTraining`."""
    said, found = setup.dataset_json.get("numTraining"), len(setup.labelled_cases)
    if isinstance(said, bool) or said != found:
        raise InputError(
            f"{setup.preprocessed_folder / 'dataset.json'} has the 'numTraining' {said!r}, {setup.raw_folder} has {found} labelled cases; "
            "put back what is missing, or correct the number in both dataset.json and preprocess cases that are new."
        )


def load_setup(dataset: str, configuration: str, plans_name: str) -> NnunetSetup:
    """Resolve and check a set-up.

    Args:
        dataset: id or name, as for `nnUNetv2_train`.
        configuration: for instance `3d_fullres`.
        plans_name: for instance `nnUNetPlans`.

    Raises:
        SetupError: if a variable, the dataset, its plans or its preprocessed data are missing (the message says which command makes them),
            or the configuration is part of a cascade.
        InputError, ConfigError: if plans or dataset.json are broken.
    """
    raw_root(), preprocessed_root(), results_root()
    name = resolve_dataset(dataset)
    number = int(name[7:10])
    folder = preprocessed_root() / name
    plans_file = folder / f"{plans_name}.json"
    if not plans_file.is_file():
        if plans_name.startswith(OWN_PLANS):
            raise SetupError(f"{plans_file} is missing; run: nnssl_plan -d {number} -gpu_memory_target GB")
        raise SetupError(f"{plans_file} is missing; run: nnUNetv2_plan_and_preprocess -d {number} -c {configuration}")
    plans, dataset_json = read_json(plans_file), read_json(folder / "dataset.json")
    setup = checked_setup(name, plans_name, configuration, plans, dataset_json, folder=folder, plans_file=plans_file)
    if not setup.data_folder.is_dir():
        raise SetupError(
            f"{setup.data_folder} is missing; run: nnUNetv2_preprocess -d {number} -plans_name {plans_name} -c {configuration}"
        )
    if not any(setup.data_folder.glob("*.b2nd")):
        raise SetupError(
            f"{setup.data_folder} holds no .b2nd files (written by nnU-Net before 2.6?); preprocess again with nnU-Net 2.8: "
            f"nnUNetv2_preprocess -d {number} -plans_name {plans_name} -c {configuration}"
        )
    if setup.raw_folder.is_dir():
        _check_number_of_cases(setup)
    return setup
