"""Steps whose loss or gradient is no number: the weights stay as they are, and a training in which they go on stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nnunet_ssl.errors import StateError

MOST_IN_A_ROW = 20
"""Overflows of half precision pass within a few steps. What does not comes from the weights or from a broken image, and stays."""
SMALLEST_SCALE = 2.0**-2
"""Of nnU-Net's gradient scaler, which begins at 2^16 and halves with every gradient that overflows. At 2^-3 half precision rounds every
gradient of a cross-entropy over 2 x 128^3 voxels, 1 / n at most, to 0."""
_WHAT_TO_DO = "lower the learning rate (teacher.initial_lr, student.initial_lr, student.warm_lr) or look at these images; then add --c"


class FiniteSteps:
    """Keeps NaN and infinity out of the weights, and counts.

    Where there is a gradient scaler it leaves such steps out itself; without one (on CPUs) nnU-Net's clipping would turn one infinite
    gradient into NaN weights. A scaler takes a loss that is NaN for an overflow of half precision, too, and halves its scale for it, which
    it wins back in 2000 steps: a broken image now and then would end all gradients. The scale is restored after such a step, with several
    processes excepted, whose scales have to stay the same.

    Args:
        restores_scale: whether this process may do that.
    """

    def __init__(self, *, restores_scale: bool = True) -> None:
        self.restores_scale = restores_scale
        self.skipped = 0
        """Steps of this epoch without a finite loss and gradient."""
        self.was_left_out = False
        """Whether the last step had no finite loss and gradient, and so changed no weight."""
        self._in_a_row = 0
        self._was_dropped = False
        self._scale = 0.0

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimiser leave its parameters alone where a gradient is not finite."""
        optimizer.register_step_pre_hook(self._drop_gradients)

    def _drop_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters or bool(torch.stack(torch._foreach_norm([p.grad for p in parameters])).isfinite().all()):
            return
        self._was_dropped = True
        for parameter in parameters:  # optimisers pass over parameters without a gradient, decay and momentum included
            parameter.grad = None

    def before_step(self, scaler: Any) -> None:
        """Look at the gradient scaler, which may be None, before a step."""
        self._scale = 0.0 if scaler is None else scaler.get_scale()

    def after_step(self, loss: Any, terms: Mapping[str, Any], *, epoch: int, cases: Sequence[str], scaler: Any = None) -> None:
        """Count a step.

        Args:
            loss: its loss.
            terms: what the loss consists of, for the message.
            epoch: for the message, from 0 as nnU-Net counts.
            cases: of the batch, for the message.
            scaler: as before the step; where its scale has fallen, it has left the step out.

        Raises:
            StateError: after `MOST_IN_A_ROW` steps in a row that had no finite loss and gradient.
        """
        is_no_number, has_overflowed = not np.isfinite(loss).all(), scaler is not None and scaler.get_scale() < self._scale
        if is_no_number and has_overflowed and self.restores_scale:
            scaler.update(self._scale)
        self.was_left_out = self._was_dropped or is_no_number or has_overflowed
        self._was_dropped = False
        self.skipped += self.was_left_out
        self._in_a_row = self._in_a_row + 1 if self.was_left_out else 0
        if self._in_a_row < MOST_IN_A_ROW:
            return
        values = {"loss": loss, **terms}
        listed = ", ".join(f"{name} {_text(value)}" for name, value in values.items() if np.size(value) == 1)
        raise StateError(
            f"epoch {epoch}: {MOST_IN_A_ROW} steps in a row had a loss or gradient that is NaN or infinite ({listed}; cases of the last "
            f"batch: {', '.join(cases)}). The checkpoints hold the last good weights; {_WHAT_TO_DO}."
        )

    def check_scale(self, scaler: Any, *, epoch: int) -> None:
        """At the end of an epoch: see that the gradient scaler has not been leaving steps out for ever.

        Raises:
            StateError: if it has.
        """
        scale = SMALLEST_SCALE if scaler is None else scaler.get_scale()
        if scale < SMALLEST_SCALE:
            raise StateError(
                f"epoch {epoch}: the gradients are NaN or infinite in step after step (the gradient scaler is down to {scale:.1g}). "
                f"The checkpoints hold the last good weights; {_WHAT_TO_DO}."
            )


def _text(value: Any) -> str:
    return format(float(np.asarray(value).reshape(-1)[0]), ".4g")


def require_finite(weights: Mapping[str, Any], checkpoint: str, *, epoch: int) -> None:
    """See that weights may be saved.

    Raises:
        StateError: if one is not finite; the checkpoint is left as it was.
    """
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise StateError(
                f"epoch {epoch}: '{name}' of the network holds NaN or infinity, so {checkpoint} was not written and is as it was before; "
                f"{_WHAT_TO_DO}."
            )
