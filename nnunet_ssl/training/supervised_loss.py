"""nnU-Net's own loss with lambda_CE, and the same loss over the labelled samples of a mixed batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.errors import ConfigError


def inner_loss(loss: nn.Module) -> Any:
    """nnU-Net's compound loss inside its deep-supervision wrapper, or the loss itself where there is no wrapper."""
    return loss.loss if hasattr(loss, "weight_factors") else loss


def scale_weights(loss: nn.Module) -> tuple[float, ...]:
    """Weight of each deep-supervision output, finest first; (1,) where there is only one output."""
    return tuple(float(w) for w in getattr(loss, "weight_factors", (1.0,)))


def weigh_lone_scale(loss: nn.Module) -> nn.Module:
    """Give the only output of a network with two resolutions the weight 1; nnU-Net divides 0 by 0 there, and the loss would be NaN.

    Args:
        loss: what nnU-Net's `_build_loss` returned; changed in place.

    Returns:
        The same loss.
    """
    wrapper: Any = loss
    if len(scale_weights(loss)) == 1 and hasattr(wrapper, "weight_factors"):
        wrapper.weight_factors = (1.0,)
    return loss


def weigh_cross_entropy(loss: nn.Module, lambda_ce: float) -> nn.Module:
    """Multiply the weight of the cross-entropy beside the Dice loss by lambda_CE of Eq. 6.

    Args:
        loss: what `_build_loss` of a trainer returned; changed in place. One without such a weight stays as it is.
        lambda_ce: the factor; 1 leaves the weight that the trainer has chosen, which is 1 in nnU-Net's own.

    Returns:
        The same loss.
    """
    inner = inner_loss(loss)
    if hasattr(inner, "weight_ce"):
        inner.weight_ce *= lambda_ce
    return loss


def _has_dice(loss: nn.Module) -> bool:
    """Whether a loss has one of nnU-Net's Dice losses in it, or is one."""
    return any(hasattr(part, "batch_dice") for part in loss.modules())


class MaskedDice(nn.Module):
    """A Dice loss alone, of the voxels that the last channel of the target does not mark.

    Args:
        dice: one of nnU-Net's.
    """

    def __init__(self, dice: nn.Module) -> None:
        super().__init__()
        self.dice = dice

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of a scale.

        Args:
            output: logits (B, H, *spatial).
            target: nnU-Net's target with a channel behind it, (B, 1 + 1, *spatial) or for regions (B, R + 1, *spatial).
        """
        loss: Tensor = self.dice(output, target[:, :-1], loss_mask=target[:, -1:] == 0)
        return loss


class LabelledLoss(nn.Module):
    """The supervised loss of the labelled samples of a batch, whichever they are.

    On one device the loss sees those samples alone. When Dice is summed over the batches of several processes, every process must take part
    in every step with the same shapes: the loss then sees the whole batch and pool samples carry the ignore label. A loss without a Dice
    part has nothing to sum.

    Args:
        loss: nnU-Net's loss.
        num_outputs: channels of the network's output.
        gathers: whether Dice is summed over several processes.

    Raises:
        ConfigError: if the loss has a Dice part to gather, but is none of nnU-Net's.
    """

    def __init__(self, loss: nn.Module, *, num_outputs: int, gathers: bool) -> None:
        super().__init__()
        self.loss = loss
        self.gathers = gathers and _has_dice(loss)
        self._adds_ignore_channel = False
        self._ignore_label: int | None = None
        if self.gathers:
            self._enable_ignoring(num_outputs)

    def _enable_ignoring(self, num_outputs: int) -> None:
        """Give a loss without ignore label one: the value behind the last class, as in nnU-Net's own datasets; Dice alone gets a mask."""
        inner = inner_loss(self.loss)
        if hasattr(inner, "use_ignore_label"):
            if not inner.use_ignore_label:
                self._adds_ignore_channel = inner.use_ignore_label = True
                inner.ce = nn.BCEWithLogitsLoss(reduction="none")
                # with an ignore label nnU-Net divides the sum over all regions by the number of voxels, without one by that of both
                inner.weight_ce /= num_outputs
            return
        if hasattr(inner, "batch_dice"):
            self._adds_ignore_channel = True
            self._replace_inner(MaskedDice(inner))
            return
        if not (hasattr(inner, "ignore_label") and hasattr(inner, "ce")):
            raise ConfigError(
                f"the loss {type(inner).__name__} sums Dice over several GPUs and cannot leave out samples of the pool; train on one GPU, "
                "or with plans that have batch_dice false."
            )
        if inner.ignore_label is None:
            inner.ignore_label = inner.ce.ignore_index = num_outputs
        self._ignore_label = int(inner.ignore_label)

    def _replace_inner(self, inner: nn.Module) -> None:
        wrapper: Any = self.loss
        if hasattr(wrapper, "weight_factors"):
            wrapper.loss = inner
        else:
            self.loss = inner

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], labelled: Tensor | None = None) -> Tensor:
        """Loss of the labelled samples.

        Args:
            outputs: logits (B, H, *spatial) at every scale, finest first.
            targets: nnU-Net's targets at the same scales.
            labelled: (B,) bool; all samples by default.

        Returns:
            Scalar; exactly 0, with a graph, where no sample is labelled.
        """
        if self._adds_ignore_channel:
            targets = [torch.cat([t, torch.zeros_like(t[:, :1])], dim=1) for t in targets]
        if labelled is not None and self.gathers:
            targets = [self._ignoring(t, ~labelled) for t in targets]
        elif labelled is not None:
            if not bool(labelled.any()):
                return torch.stack([o[:0].float().sum() for o in outputs]).sum()
            outputs, targets = [o[labelled] for o in outputs], [t[labelled] for t in targets]
        if hasattr(self.loss, "weight_factors"):
            return self._scalar(self.loss(list(outputs), list(targets)))
        return self._scalar(self.loss(outputs[0], targets[0]))

    def _ignoring(self, target: Tensor, samples: Tensor) -> Tensor:
        target = target.clone()
        if self._ignore_label is None:
            target[samples, -1] = 1
        else:
            target[samples] = self._ignore_label
        return target

    @staticmethod
    def _scalar(loss: Any) -> Tensor:
        result: Tensor = loss
        return result
