"""One training step on the CPU in a process of its own; prints the bytes that it added to the process's peak memory.

Usage: python training_step.py '{"arch": {...}, "patch": [48, 48, 48], "batch": 2, "channels": 1, "classes": 3}'
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ssl.networks import TransASPPUNet


def step(network: nn.Module, images: Tensor) -> None:
    outputs: list[Tensor] = network(images)
    loss = sum(functional.cross_entropy(out, torch.zeros_like(out[:, 0], dtype=torch.long)) for out in outputs)
    torch.as_tensor(loss).backward()
    network.zero_grad(set_to_none=True)


def peak_bytes() -> int:
    """The most memory this process has had; Linux's `ru_maxrss` would begin with that of the process which started this one."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main(settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dim = len(settings["patch"])
    layers = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dim]
    arch = settings["arch"] | {"conv_op": layers[0], "norm_op": layers[1], "nonlin": nn.LeakyReLU, "deep_supervision": True}
    network = TransASPPUNet(input_channels=settings["channels"], num_classes=settings["classes"], **arch)
    step(network, torch.zeros(1, settings["channels"], *[16] * dim))  # loads the libraries
    images = torch.zeros(settings["batch"], settings["channels"], *settings["patch"])
    before = peak_bytes()
    step(network, images)
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
