"""Gives a trainer TransASPPUNet in place of the network its plans name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.networks import derive_architecture

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as _Base
else:
    _Base = object


class TransASPPNetwork(_Base):
    """Mixin; goes before the trainer in the list of bases.

    The network follows from the plans alone, as nnU-Net's inference needs it: stages, widths and strides are the plans', so that nnU-Net's
    deep-supervision scales stay right. The uncertainty head has one channel whatever the labels: the variance of the predicted class, or
    the mean variance over the regions, since the plans do not tell which of the two a dataset has.
    """

    has_uncertainty_head: bool | None = True

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        block = derived_block(configuration_manager)
        network: nn.Module = get_network_from_plans(
            block["network_class_name"],
            block["arch_kwargs"],
            block["_kw_requires_import"],
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        return network

    def print_plans(self) -> None:
        super().print_plans()
        self.print_to_log_file("Network derived from these plans:\n", derived_block(self.configuration_manager), "\n", add_timestamp=False)


def derived_block(configuration_manager: ConfigurationManager) -> dict[str, Any]:
    """The `architecture` block of TransASPPUNet for a configuration of the plans."""
    return derive_architecture(configuration_manager.configuration["architecture"], configuration_manager.patch_size)
