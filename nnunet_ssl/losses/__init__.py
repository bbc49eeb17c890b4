"""Losses of teacher and student, pure torch, in float32; an empty set of voxels gives exactly 0 that still has a graph.

The supervised loss (Eq. 6) is nnU-Net's own and is not repeated here.
"""

from nnunet_ssl.losses.dice_semimetric import dice_semimetric_loss
from nnunet_ssl.losses.dual_loss import DualPoolLoss, DualTerms
from nnunet_ssl.losses.gradient_cap import unlearning_scale
from nnunet_ssl.losses.uncertainty_distillation import distillation_loss, distillation_weights, patch_foreground_band
from nnunet_ssl.losses.unlearning import UNLEARNING

__all__ = [
    "UNLEARNING",
    "DualPoolLoss",
    "DualTerms",
    "dice_semimetric_loss",
    "distillation_loss",
    "distillation_weights",
    "patch_foreground_band",
    "unlearning_scale",
]
