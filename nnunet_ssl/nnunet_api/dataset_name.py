"""Datasets by id or name, as nnU-Net's commands take them."""

from __future__ import annotations

import re

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import preprocessed_root, raw_root, results_root


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
