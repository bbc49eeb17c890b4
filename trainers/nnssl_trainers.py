"""The trainers of nnunet-ssl, where nnU-Net's `nnUNet_extTrainer` finds them; their code is in `nnunet_ssl.training`."""

from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

__all__ = ["SemiSupervisedStudentTrainer", "TransASPPStudentTrainer", "TransASPPTeacherTrainer"]
