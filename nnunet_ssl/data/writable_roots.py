"""nnU-Net's three folders, all of which a run writes into."""

from __future__ import annotations

import os

from nnunet_ssl.disk import existing
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import preprocessed_root, raw_root, results_root


def require_writable_roots(dataset: str) -> None:
    """See, where a run begins, that it can make its datasets and models in nnU-Net's folders; raw ones are written days after the start.

    Args:
        dataset: name of the labelled dataset.

    Raises:
        StateError: for the first folder that cannot be written to.
    """
    places = {
        "nnUNet_raw": (raw_root(), f"in which {dataset} is a link (ln -s {raw_root() / dataset} FOLDER)"),
        "nnUNet_preprocessed": (preprocessed_root(), f"with a copy of {dataset} (cp -r {preprocessed_root() / dataset} FOLDER)"),
        "nnUNet_results": (results_root(), f"with a copy of {dataset} if it has models that you need"),
    }
    for variable, (root, with_dataset) in places.items():
        if not os.access(existing(root), os.W_OK | os.X_OK):
            raise StateError(
                f"{root} cannot be written to, and the run writes there; change its permissions, or let {variable} name a folder of your "
                f"own {with_dataset}."
            )
