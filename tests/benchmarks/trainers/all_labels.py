"""The benchmark's teacher that learns from every label whatever its fold, for nnU-Net's `nnUNet_extTrainer`."""

from nnunet_ssl.training.teacher import TransASPPTeacherTrainer


class AllLabelsTeacherTrainer(TransASPPTeacherTrainer):
    """`TransASPPTeacherTrainer` whose folds are members of an ensemble: all learn from all labels and differ by chance alone."""

    def do_split(self) -> tuple[list[str], list[str]]:
        train, val = super().do_split()
        return sorted({*train, *val}), val
