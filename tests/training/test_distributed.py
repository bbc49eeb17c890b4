"""What distributed training needs from us, on two CPU processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

from nnunet_ssl.training.distributed import average_gradients, broadcast_parameters, gather, leave_head_out, num_processes
from nnunet_ssl.training.epoch_terms import EpochTerms


class WithHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(1, 1, bias=False)
        self.uncertainty_head = nn.Linear(1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x)  # type: ignore[no-any-return]


def _work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    try:
        _train(rank)
    finally:
        distributed.destroy_process_group()


def _train(rank: int) -> None:
    torch.manual_seed(rank)
    network = WithHead()
    compiled = torch.compile(network, backend="eager")
    for candidate in (network, compiled):
        leave_head_out(candidate)
        wrapped = nn.parallel.DistributedDataParallel(candidate)
        for _ in range(3):
            wrapped(torch.tensor([[float(rank)]])).sum().backward()
        assert network.uncertainty_head.weight.grad is None
        network.zero_grad(set_to_none=True)

    head = list(network.uncertainty_head.parameters())
    broadcast_parameters(head)
    (network.uncertainty_head.weight * (1 + 2 * rank)).sum().backward()
    average_gradients(head)
    assert network.uncertainty_head.weight.grad.item() == 2.0
    values = gather({"weight": head[0].item()})
    assert len(values) == 2
    assert values[0] == values[1]

    terms = EpochTerms({"a": 1, "b": 2})
    means = terms.epoch_means([terms.complete({"a": float(rank), "b": [float(rank), np.nan]})])
    assert means["a"] == 0.5
    assert means["b"][0] == 0.5
    assert np.isnan(means["b"][1])


def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_work, args=(str(tmp_path),), nprocs=2, start_method="fork")


def test_alone_everything_is_the_identity() -> None:
    parameter: Any = nn.Parameter(torch.ones(1))
    average_gradients([parameter])
    broadcast_parameters([parameter])
    assert parameter.grad is None
    assert gather({"a": 1}) == [{"a": 1}]
    assert num_processes() == 1


@pytest.mark.parametrize("module", [WithHead(), torch.compile(WithHead(), backend="eager")])
def test_names_left_out_are_those_of_the_wrapped_module(module: Any) -> None:
    leave_head_out(module)
    names = module._ddp_params_and_buffers_to_ignore
    assert set(names) <= {name for name, _ in module.named_parameters()}
    assert len(list(names)) == 1
