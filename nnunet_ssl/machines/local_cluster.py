"""Dask workers of this machine, one process each, every one with a GPU of its own where there are GPUs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import SpecCluster

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def is_local(address: str) -> bool:
    """Whether an address of `--dask` asks for workers of this machine: `local`, or `local:N`; `localhost:8786` is a scheduler's."""
    return re.fullmatch(r"local(:\d+)?", address) is not None


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    names = os.environ.get(GPU_VARIABLE)
    count = torch.cuda.device_count()
    return [str(number) for number in range(count)] if names is None else [name.strip() for name in names.split(",")][:count]


def local_cluster(gpus: Sequence[str | None]) -> SpecCluster:
    """Start a scheduler and workers, which a nanny starts again when they die.

    Args:
        gpus: the GPU of each worker; None leaves it none to choose.

    Returns:
        The cluster; as a context manager it ends with its block.
    """
    from distributed import Nanny, Scheduler, SpecCluster

    options = {
        "nthreads": 1,
        "memory_limit": 0,
        "host": "127.0.0.1",
        "silence_logs": logging.WARNING,
    }  # Dask's own limit would end a worker at its share of the memory
    workers = {
        number: {"cls": Nanny, "options": {**options, "env": {} if gpu is None else {GPU_VARIABLE: gpu}}} for number, gpu in enumerate(gpus)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.WARNING)
