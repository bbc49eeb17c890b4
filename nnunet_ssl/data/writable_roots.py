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
    for variable, root in {"nnUNet_raw": raw_root(), "nnUNet_preprocessed": preprocessed_root(), "nnUNet_results": results_root()}.items():
        if not os.access(existing(root), os.W_OK | os.X_OK):
            raise StateError(
                f"{root} cannot be written to, and every stage becomes a dataset there; change its permissions, or let {variable} name a "
                f"folder of your own in which {dataset} is a link (ln -s {root / dataset} FOLDER)."
            )
