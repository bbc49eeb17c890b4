"""Running statistics of batch normalisation, which a forward pass changes and no optimiser can leave out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Remembers the running statistics of a network before a step, and puts them back where the step is left out.

    nnU-Net's own networks have instance normalisation and so none; nothing is done for them.

    Args:
        network: without wrappers.
    """

    def __init__(self, network: nn.Module) -> None:
        normalising = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
        self._buffers: list[Tensor] = [buffer for module in normalising for buffer in module.buffers(recurse=False)]
        self._before: list[Tensor] = []

    def remember(self) -> None:
        """Before a step."""
        self._before = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """As they were before the step."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
