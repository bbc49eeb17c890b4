"""Memory of networks as PyTorch itself keeps it, without a GPU: shapes and types of a CUDA device under mixed precision, no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Tensors made on `cuda` have everything but numbers, and operations cast, and attention is computed, as on a GPU."""
    was_enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.float16)
    torch.set_autocast_enabled("cuda", True)  # `torch.autocast` refuses where there is no GPU
    try:
        # which kernel attention takes is decided by looking at the GPU; this is the one for half precision
        with FakeTensorMode(), patch("torch.nn.functional.scaled_dot_product_attention", _flash_attention):
            yield
    finally:
        torch.set_autocast_enabled("cuda", was_enabled)
        torch.set_autocast_dtype("cuda", dtype)
        torch.clear_autocast_cache()


def _flash_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return attended


def kept_for_backward(make: Callable[[], nn.Module], *, batch_size: int, channels: int, size: Sequence[int]) -> int:
    """Bytes that autograd keeps after one forward pass, every storage once; weights left out, their copies in half precision included."""
    with pretended_gpu(), torch.device("cuda"):
        network, x = make(), torch.empty(batch_size, channels, *size)
        weights = {p.untyped_storage()._cdata for p in network.parameters()}
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()._cdata
            if storage not in weights:
                kept.setdefault(storage, tensor)  # which keeps the storage, so that no other gets its number
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(x)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that operations within the block have made, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, storage: int) -> None:
        self.live -= self._sizes.pop(storage)
