"""Stochastic samples of a network's prediction: mirrored views, and dropout draws that share a view's encoder pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import combinations
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor, nn

View = tuple[int, ...]
"""Spatial axes, counted from 0, along which a view is mirrored."""

VIEWS_AT_ONCE_ON_CPU = 2
"""On a CPU PyTorch computes small convolutions of a single image by another path than those of two: in TransASPPUNet with 8 to 64
features it takes four times as long per image. On a GPU a second view would only take memory."""


class SamplingNetwork(Protocol):
    """What a network needs for several draws to share one encoder pass; `TransASPPUNet` has it."""

    def encode(self, x: Tensor) -> Any:
        """Deterministic part."""

    def decode(self, features: Any) -> Tensor | list[Tensor]:
        """Stochastic part."""

    def sampling(self, active: bool = True, *, generator: torch.Generator | None = None) -> AbstractContextManager[None]:
        """Context that switches the randomness."""


class Draw(NamedTuple):
    """What the network puts out for one sample."""

    mirrored: Tensor
    """Logits (B, H, *spatial) of the mirrored view."""
    axes: tuple[int, ...]
    """Axes of the tensor along which the view is mirrored."""
    is_plain: bool
    """Whether it is its view's first draw, which has no dropout."""

    @property
    def logits(self) -> Tensor:
        """Logits, turned back to the image's orientation."""
        return self.mirrored.flip(self.axes) if self.axes else self.mirrored


def mirror_views(mirror_axes: Sequence[int] | None) -> tuple[View, ...]:
    """All subsets of the mirror axes, in nnU-Net's order.

    Args:
        mirror_axes: spatial axes, counted from 0, as nnU-Net's `inference_allowed_mirroring_axes`; None or none for no mirroring.

    Returns:
        The views, 2^n for n axes; the first is `()`, the image as it is.
    """
    axes = tuple(mirror_axes or ())
    return tuple(view for length in range(len(axes) + 1) for view in combinations(axes, length))


class StochasticSampler:
    """Draws probabilities P^(k) one after another; memory does not grow with their number.

    Every view costs one encoder pass. Its first draw has no dropout, so that the first draws alone are nnU-Net's mirrored predictions;
    further draws repeat the decoder with dropout. A network without `encode`, `decode` and `sampling`, or with a dropout rate of 0, has one
    draw per view.

    Attributes:
        views: the mirrored views.
        num_samples: samples that `samples` really yields, views times draws.
    """

    def __init__(self, network: nn.Module, *, mirror_axes: Sequence[int] | None, num_samples: int, has_regions: bool) -> None:
        """Plan the draws.

        Args:
            network: any network of nnU-Net, in eval mode; compiled and DDP wrappers are taken off.
            mirror_axes: see `mirror_views`.
            num_samples: samples wanted; rounded up to a multiple of the views.
            has_regions: whether classes are regions (sigmoid) or exclude each other (softmax).
        """
        self.network = unwrap(network)
        self.views = mirror_views(mirror_axes)
        self.has_regions = has_regions
        draws = -(-max(1, num_samples) // len(self.views))
        self._draws_per_view = draws if _draws_differ(self.network) else 1
        self.num_samples = len(self.views) * self._draws_per_view

    def samples(self, x: Tensor, *, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield the samples, each turned back to the image's orientation.

        Gradients, autocast and the device are the caller's affair. Nothing stays switched between two samples.

        Args:
            x: image (B, C, *spatial).
            generator: source of the dropout draws; None is PyTorch's default generator.

        Yields:
            Probabilities (B, H, *spatial), float32.
        """
        for draw in self.draws(x, generator=generator):
            yield self.probabilities(draw)

    def draws(self, x: Tensor, *, generator: torch.Generator | None = None, view_by_view: bool = False) -> Iterator[Draw]:
        """Yield the samples as `samples` does, before the nonlinearity.

        Args:
            x: image (B, C, *spatial).
            generator: source of the dropout draws.
            view_by_view: let no two views go through the network at once; then plain draws are nnU-Net's mirrored predictions to the bit.

        Yields:
            One draw after another, those of a view together.
        """
        # draws of one view follow each other, so that its dropout is the same however many views go at once
        alone = view_by_view or self._draws_per_view > 1 or x.device.type != "cpu"
        at_once = 1 if alone else VIEWS_AT_ONCE_ON_CPU
        for first in range(0, len(self.views), at_once):
            mirrored = [tuple(axis + 2 for axis in view) for view in self.views[first : first + at_once]]
            views = torch.cat([x.flip(axes) if axes else x for axes in mirrored])
            for number, logits in enumerate(self._draws(views, generator)):
                for axes, of_view in zip(mirrored, logits.chunk(len(mirrored)), strict=True):
                    yield Draw(of_view, axes, is_plain=number == 0)

    def probabilities(self, draw: Draw) -> Tensor:
        """Softmax over the classes, or sigmoid for regions; float32, in the image's orientation."""
        logits = draw.mirrored.float()
        probs = logits.sigmoid() if self.has_regions else logits.softmax(dim=1)
        return probs.flip(draw.axes) if draw.axes else probs

    def _draws(self, x: Tensor, generator: torch.Generator | None) -> Iterator[Tensor]:
        network = self.network
        if not _is_sampling_network(network):
            yield _full_resolution(network(x))
            return
        features = network.encode(x)
        for draw in range(self._draws_per_view):
            with network.sampling(draw > 0, generator=generator):
                logits = _full_resolution(network.decode(features))
            yield logits


def single_pass(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits and log-variance U from one deterministic pass of the image as it is.

    Args:
        network: any network of nnU-Net; wrappers are taken off.
        x: image (B, C, *spatial).

    Returns:
        Logits (B, H, *spatial); log-variance (B, 1 or R, *spatial), or None if the network has no uncertainty head.
    """
    inner: Any = unwrap(network)
    if not has_uncertainty_head(inner):
        return _full_resolution(inner(x)), None
    with inner.sampling(False):
        logits, log_variance = inner.decode_with_uncertainty(inner.encode(x))
    return logits, log_variance


def has_uncertainty_head(network: nn.Module) -> bool:
    """Whether the network, without its wrappers, predicts a log-variance beside the logits."""
    return hasattr(unwrap(network), "decode_with_uncertainty")


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of `torch.compile` (`_orig_mod`) and data-parallel training (`module`)."""
    while True:
        if isinstance(network, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def _is_sampling_network(network: Any) -> TypeGuard[SamplingNetwork]:
    return all(hasattr(network, name) for name in ("encode", "decode", "sampling"))


def _draws_differ(network: nn.Module) -> bool:
    return _is_sampling_network(network) and getattr(network, "decoder_dropout", 1) > 0


def _full_resolution(output: Tensor | Sequence[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
