"""What nnU-Net's distributed training leaves to us: parameters outside the wrapper, and means over processes.

Without a process group every function is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

HEAD = "uncertainty_head."
"""Part of the names of the parameters that only distillation trains."""


def num_processes() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def leave_head_out(network: nn.Module) -> None:
    """Keep DistributedDataParallel from waiting for gradients of the uncertainty head, which `forward` does not use.

    To be called before wrapping, on the very module that will be wrapped (compiled networks carry a prefix in their names).
    """
    names = [name for name, _ in network.named_parameters() if HEAD in name]
    ignore: Any = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(network, names)


def broadcast_parameters(parameters: Iterable[Tensor]) -> None:
    """Give all processes the first one's values; the wrapper does so only for the parameters it knows."""
    if num_processes() > 1:
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average the gradients of parameters outside the wrapper.

    To be called before a gradient scaler looks for overflows, so that all processes come to the same conclusion.
    """
    count = num_processes()
    if count > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= count


def gather(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The mappings of all processes, in their order."""
    if num_processes() == 1:
        return [value]
    gathered: list[Any] = [None] * num_processes()
    distributed.all_gather_object(gathered, value)
    return gathered
