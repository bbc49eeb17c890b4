"""The cases of the labelled dataset D, found as nnU-Net finds them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_ssl.errors import InputError
from nnunet_ssl.names import check_names


@dataclass(frozen=True)
class LabelledCase:
    """A case of the labelled dataset D: where its image channels and its manual label are."""

    case: str
    images: tuple[str, ...]
    label: str


def find_labelled_cases(raw_folder: Path, dataset_json: dict[str, Any], dataset_file: Path) -> dict[str, LabelledCase]:
    """Every case of D with its files, sorted by case id; no file is opened.

    Args:
        raw_folder: it exists.
        dataset_json: content of `dataset_file`.
        dataset_file: for messages.

    Raises:
        InputError: if dataset.json lists cases in a way that nnU-Net does not understand.
    """
    if "dataset" not in dataset_json:
        return _cases_of_folder(raw_folder, str(dataset_json["file_ending"]))
    try:
        check_names(dataset_json["dataset"], "case id", raw_folder / "dataset.json")
        listed = get_filenames_of_train_images_and_targets(str(raw_folder), json.loads(json.dumps(dataset_json)))
        cases = {case: LabelledCase(case, tuple(listed[case]["images"]), str(listed[case]["label"])) for case in sorted(listed)}
    except InputError:
        raise
    except Exception as error:  # whatever nnU-Net raises on a list that is none
        raise InputError(f"{dataset_file} lists no cases with 'images' and 'label' under 'dataset' ({error!r}); correct it.") from error
    return cases


def _cases_of_folder(raw_folder: Path, file_ending: str) -> dict[str, LabelledCase]:
    """Cases of `imagesTr` as nnU-Net names them; its own function starts a pool of processes for that, which takes seconds."""
    pattern = re.compile(r"(.+)_\d{4}" + re.escape(file_ending))
    images: dict[str, list[str]] = {}
    for path in sorted((raw_folder / "imagesTr").glob(f"*{file_ending}")):
        if match := pattern.fullmatch(path.name):
            images.setdefault(match[1], []).append(str(path))
    labels = raw_folder / "labelsTr"
    return {case: LabelledCase(case, tuple(images[case]), str(labels / f"{case}{file_ending}")) for case in sorted(images)}
