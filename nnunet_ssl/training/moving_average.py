"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.errors import StateError

_SHORTEST, _LONGEST = 0.98, 0.999


def default_decay(steps: int) -> float:
    """One minus the inverse of a twentieth of the training's steps, within [0.98, 0.999]."""
    return min(max(1 - 20 / max(1, steps), _SHORTEST), _LONGEST)


class MovingAverage:
    """Average of everything in a network's state: weights exponentially, whatever is not floating point by the latest value.

    Args:
        network: the network without wrappers; its present weights are the average's start.
        decay: weight of the past in each update. Early updates use (1 + t) / (10 + t) where that is less, so that the start is forgotten.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._places = _places(network)
        self._averaged = {name: value.clone() for name, value in self._current().items()}

    def _current(self) -> dict[str, Tensor]:
        """The network's state with every tensor once; asked for at every step, so that modules are looked for beforehand."""
        return {name: tensors[key].detach() for name, (tensors, key) in self._places.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network's weights after an optimiser step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = self._current()
        floating = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._averaged[n] for n in floating], [current[n] for n in floating], 1 - decay)
        for name in current.keys() - set(floating):
            self._averaged[name].copy_(current[name])

    def reset(self) -> None:
        """Start over from the network's present weights."""
        self.num_updates = 0
        self.follow()

    def follow(self) -> None:
        """Set the average to the network's present weights."""
        for name, value in self._current().items():
            self._averaged[name].copy_(value)

    def commit(self) -> None:
        """Set the network's weights to the average."""
        for name, value in self._current().items():
            value.copy_(self._averaged[name])

    def swap(self) -> None:
        """Exchange the network's weights with the average, in place; a second call undoes the first."""
        current, averaged = list(self._current().values()), list(self._averaged.values())
        held = [value.clone() for value in current]
        torch._foreach_copy_(current, averaged)
        torch._foreach_copy_(averaged, held)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network carries the average while the block runs."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the averaged weights, which are its `network_weights`; to be called while nothing is swapped."""
        return {"raw_weights": {name: value.cpu() for name, value in self._current().items()}, "num_updates": self.num_updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint whose `network_weights` the network has just loaded.

        Raises:
            StateError: if the raw weights are not this network's.
        """
        raw: dict[str, Tensor] = state["raw_weights"]
        current = self._current()
        if raw.keys() != current.keys():
            raise StateError("the checkpoint's raw weights are not this network's; continue with the plans it was trained with.")
        self.follow()
        self.num_updates = int(state["num_updates"])
        for name, value in current.items():
            value.copy_(raw[name])


def _places(network: nn.Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Where each tensor of a network's state is kept, once each; nnU-Net's decoders list the encoder's weights under a second name."""
    saved = network.state_dict().keys()
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for kind, named in (("_parameters", network.named_parameters()), ("_buffers", network.named_buffers())):
        for name in (name for name, _ in named if name in saved):
            module, _, key = name.rpartition(".")
            found[name] = (getattr(network.get_submodule(module), kind), key)
    return found
