"""Mixed precision on CPUs that compute in bfloat16: what nnU-Net does on GPUs alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

CAPABILITIES = ("avx512_bf16", "amx_bf16")
"""Instructions without which PyTorch emulates bfloat16, slower than float32."""


def computes_in_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; False also where PyTorch cannot say (before 2.9)."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(known.get(name, False) for name in CAPABILITIES)


def use_bfloat16(network: nn.Module) -> None:
    """Run the network's forward passes in training mode under autocast to bfloat16, from now on.

    Weights, outputs, loss and optimiser stay in float32, and so does everything in evaluation mode. bfloat16 has the range of float32, so
    that the loss needs no scaling.

    Args:
        network: without wrappers; its inputs are on the CPU.
    """
    forward = _AutocastForward()
    network.register_forward_pre_hook(forward.enter)
    network.register_forward_hook(forward.leave, always_call=True)


class _AutocastForward:
    """Opens autocast before a forward pass and closes it after, whether it raised or not."""

    def __init__(self) -> None:
        self._open: list[ExitStack] = []

    def enter(self, network: nn.Module, _inputs: Any) -> None:
        if network.training:
            stack = ExitStack()
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
            self._open.append(stack)

    def leave(self, _network: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self._open:
            return output
        self._open.pop().close()
        if output is None:  # the forward pass raised
            return None
        return output.float() if isinstance(output, Tensor) else [scale.float() for scale in output]
