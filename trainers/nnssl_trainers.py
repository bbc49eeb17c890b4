"""The trainers of nnunet-ssl, where nnU-Net's `nnUNet_extTrainer` finds them; their code is in `nnunet_ssl.training`."""

from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.naive_self_training import NaiveSelfTrainingTrainer
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import UAMTTrainer
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

__all__ = [
    "CrossPseudoSupervisionTrainer",
    "MeanTeacherTrainer",
    "NaiveSelfTrainingTrainer",
    "SemiSupervisedStudentTrainer",
    "TransASPPStudentTrainer",
    "TransASPPTeacherTrainer",
    "UAMTTrainer",
]
