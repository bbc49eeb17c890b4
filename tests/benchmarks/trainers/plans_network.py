"""The benchmark's teacher with the network that the plans name, for nnU-Net's `nnUNet_extTrainer`."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.training.phased_trainer import PhasedTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer


class PlansNetworkTeacherTrainer(TransASPPTeacherTrainer):
    """`TransASPPTeacherTrainer` but for its network: same length, optimiser and rates, so that two networks differ in nothing else."""

    has_uncertainty_head = None
    build_network_architecture = staticmethod(nnUNetTrainer.build_network_architecture)
    print_plans = PhasedTrainer.print_plans
