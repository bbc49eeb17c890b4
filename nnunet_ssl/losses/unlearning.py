"""R_low: what the student is told at voxels whose pseudo-label is not to be trusted (Eq. 13 and its stable relatives).

Every form is *added* to the loss: the minus sign of Eq. 11 is inside the forms that need it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.voxel_prediction import VoxelPrediction

PAPER_MAX_NATS = 10.0
"""Where the paper's unbounded term is cut off; without it a single voxel can outweigh the batch."""
UNLIKELY = 0.05
"""Choices with less probability than this in the evidence are the ones `complementary` rules out."""
_ROUNDING = 1e-6


def off(prediction: VoxelPrediction) -> Tensor:
    """No unlearning: 0 per voxel."""
    return prediction.zeros


def paper(prediction: VoxelPrediction) -> Tensor:
    """-min(CE, 10 nats), Eq. 13 as Eq. 11 subtracts it; it flips the label when pushed."""
    return -prediction.label_ce.clamp(max=PAPER_MAX_NATS)


def bounded(prediction: VoxelPrediction) -> Tensor:
    """-min(CE, log C): unlearns a label down to the probability of a guess, with zero gradient beyond."""
    return -prediction.label_ce.clamp(max=prediction.log_choices)


def negative(prediction: VoxelPrediction) -> Tensor:
    """-log(1 - p) of the label while p is above that of a guess, else 0."""
    above_guess = prediction.label_ce < prediction.log_choices - _ROUNDING
    return torch.where(above_guess, prediction.label_rejection, 0.0)


def complementary(prediction: VoxelPrediction) -> Tensor:
    """-sum of log(1 - p_j) over the choices that the evidence finds unlikely; the likely ones are left alone."""
    return prediction.unlikely_rejection(UNLIKELY)


def soft(prediction: VoxelPrediction) -> Tensor:
    """CE(q, p): its gradient p - q pushes down exactly where the student is more certain than the evidence allows."""
    return prediction.target_ce


UNLEARNING: dict[str, Callable[[VoxelPrediction], Tensor]] = {
    "off": off,
    "paper": paper,
    "bounded": bounded,
    "negative": negative,
    "complementary": complementary,
    "soft": soft,
}
"""The forms of R_low by the name that the settings use."""


def unlearning_form(mode: str) -> Callable[[VoxelPrediction], Tensor]:
    """The form of R_low of that name.

    Raises:
        ConfigError: if there is none.
    """
    if mode not in UNLEARNING:
        raise ConfigError(f"unlearning mode is {mode!r}; expected one of {', '.join(UNLEARNING)}.")
    return UNLEARNING[mode]
