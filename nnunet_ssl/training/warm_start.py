"""Start a student from trained weights, every layer of them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.nnunet_api.finite_weights import require_finite_weights
from nnunet_ssl.nnunet_api.training_fold import refuse_other_fold


def load_all_weights(network: nn.Module, path: Path, fold: int | str) -> None:
    """Copy the weights of a checkpoint into a network, segmentation heads included (nnU-Net's `-pretrained_weights` leaves them out).

    Args:
        network: the network without wrappers.
        path: a checkpoint of nnU-Net; nothing in it is executed.
        fold: fold of the student; with `all` nothing is held out, and weights of any fold will do.

    Raises:
        SetupError: if the file is missing.
        StateError: if it is damaged, was trained on another fold, or its weights are not exactly those of the network, or are NaN.
    """
    checkpoint = load_checkpoint(path)
    if fold != "all":
        refuse_other_fold(checkpoint, path, fold)
    weights = checkpoint["network_weights"]
    current = network.state_dict()
    if different := sorted(weights.keys() ^ current.keys()):
        name = different[0]
        owner = "the checkpoint" if name in weights else "the network"
        raise StateError(f"{path} does not fit the student's network: only {owner} has '{name}'; {_HINT}")
    for name, value in current.items():
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)} instead of {tuple(value.shape)}"
            raise StateError(f"{path} does not fit the student's network: '{name}' has shape {shapes}; {_HINT}")
    require_finite_weights(weights, path)
    network.load_state_dict(weights)


_HINT = "use the plans the weights were trained with, or set student.init to 'scratch'."
