"""The optimiser of a training, where the plans ask for another than nnU-Net's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import Parameter

ADAMW_BETAS = (0.9, 0.99)
"""Decay of the running moments. 0.99 remembers about 100 steps, which also fits trainings of a thousand."""


def adamw(parameters: Iterable[Parameter], *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization") over all parameters alike, as nnU-Net's SGD is.

    Args:
        parameters: of the network.
        lr: learning rate of the first step.
        weight_decay: decoupled: each step shrinks the weights by this share of the learning rate, whatever the gradient.
    """
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=ADAMW_BETAS)
