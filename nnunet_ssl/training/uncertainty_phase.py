"""Uncertainty distillation: a frozen network's head learns the variance of its samples (paper, section III-2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.losses import distillation_loss, distillation_weights, patch_foreground_band
from nnunet_ssl.networks import StochasticSampler
from nnunet_ssl.training.distributed import average_gradients

MAX_GRADIENT_NORM = 12.0
"""nnU-Net's own."""


@torch.no_grad()
def sample_variance(sampler: StochasticSampler, images: Tensor, *, num_channels: int = 1) -> tuple[Tensor, Tensor]:
    """Variance over the samples, with running sums, so that memory does not grow with their number.

    Args:
        sampler: draws the samples, the same way as for evidence.
        images: (B, C, *spatial).
        num_channels: U, of the head that is to learn it: 1, or one per region.

    Returns:
        Variance of the predicted class, or of the regions: of each, or with one channel their mean; (B, U, *spatial) in [0, 1/4]. And where
        any sample predicts any foreground, (B, U, *spatial) bool.
    """
    first, second, foreground = None, None, None
    for probs in sampler.samples(images):
        found = (probs > 0.5).any(1, keepdim=True) if sampler.has_regions else probs.argmax(1, keepdim=True) > 0
        if first is None or second is None or foreground is None:
            first, second, foreground = probs.clone(), probs.square(), found
        else:
            first, second, foreground = first + probs, second.addcmul_(probs, probs), foreground | found
    if first is None or second is None or foreground is None:
        raise ValueError("the sampler yielded no sample.")
    mean = first / sampler.num_samples
    variance = (second / sampler.num_samples - mean.square()).clamp(0, 0.25)
    if sampler.has_regions:
        return (variance, foreground.expand_as(variance)) if num_channels > 1 else (variance.mean(1, keepdim=True), foreground)
    return variance.gather(1, mean.argmax(1, keepdim=True)), foreground


class UncertaintyDistillation:
    """Trains the uncertainty head of a network and nothing else.

    Args:
        network: the network without wrappers, with `uncertainty_head`.
        sampler: of the same network.
        kind: form of the loss, `variance` or `paper`.
        optimizer: holds the head's parameters among others; those without gradient are left alone, weight decay included.
        grad_scaler: nnU-Net's gradient scaler, or None.
    """

    def __init__(self, network: Any, *, sampler: StochasticSampler, kind: str, optimizer: torch.optim.Optimizer, grad_scaler: Any) -> None:
        self._network = network
        self._sampler = sampler
        self._kind = kind
        self._optimizer = optimizer
        self._grad_scaler = grad_scaler
        self.parameters: list[nn.Parameter] = list(network.uncertainty_head.parameters())

    def step(self, images: Tensor) -> float:
        """One optimiser step on a batch of images (B, C, *spatial), on the network's device.

        Returns:
            The loss.
        """
        self._optimizer.zero_grad(set_to_none=True)
        # as nnU-Net does: mixed precision on CUDA devices alone
        mixed_precision = torch.autocast("cuda") if images.device.type == "cuda" else nullcontext()
        with _frozen_trunk(self._network), mixed_precision:
            with self._network.sampling(False):
                _, log_variance = self._network.decode_with_uncertainty(self._network.encode(images))
            variance, foreground = sample_variance(self._sampler, images, num_channels=log_variance.shape[1])
            weight = distillation_weights(patch_foreground_band(foreground))
            loss = distillation_loss(log_variance, variance, kind=self._kind, weight=weight)
        self._apply(loss)
        return float(loss.item())

    def _apply(self, loss: Tensor) -> None:
        scaler = self._grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        average_gradients(self.parameters)
        if scaler is not None:
            scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        if scaler is None:
            self._optimizer.step()
        else:
            scaler.step(self._optimizer)
            scaler.update()


@contextmanager
def _frozen_trunk(network: nn.Module) -> Iterator[None]:
    """No gradients outside the head, and no layer in training mode, while the block runs."""
    training = network.training
    head = {id(p) for p in network.get_submodule("uncertainty_head").parameters()}
    trunk = [p for p in network.parameters() if id(p) not in head and p.requires_grad]
    network.eval()
    try:
        for parameter in trunk:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trunk:
            parameter.requires_grad_(True)
        network.train(training)
