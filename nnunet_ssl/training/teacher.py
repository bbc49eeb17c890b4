"""The teacher: TransASPPUNet trained on manual labels (paper Eq. 6), then uncertainty distillation."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import nn

from nnunet_ssl.nnunet_api.checkpoints import POOL_IMAGES
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.setup import too_few_for_folds
from nnunet_ssl.training.phased_trainer import PhasedTrainer
from nnunet_ssl.training.phases import SUPERVISED, Phase
from nnunet_ssl.training.supervised_loss import weigh_cross_entropy
from nnunet_ssl.training.trans_aspp_network import TransASPPNetwork


class TransASPPTeacherTrainer(TransASPPNetwork, PhasedTrainer):
    """`nnUNetv2_train D CONFIGURATION FOLD -tr TransASPPTeacherTrainer`.

    The supervised phase is nnU-Net's own training of another network. In the second phase the uncertainty head learns from the images of
    the fold's training cases and, where `nnssl_prepare` has prepared a pool for these plans, from the pool's, without those of groups that
    the fold holds out. Checkpoints name the pool cases.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own default)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        teacher = self.method.teacher
        self.optimizer_name = teacher.optimizer
        self.weight_decay = teacher.weight_decay
        self.cpu_precision = teacher.cpu_precision
        self.num_iterations_per_epoch = teacher.length.iterations_per_epoch
        self.num_val_iterations_per_epoch = teacher.length.val_iterations_per_epoch
        self._pool_images: set[str] = set()
        supervised = Phase(SUPERVISED, teacher.length.num_epochs, teacher.initial_lr)
        self._use_phases([supervised, *self._distillation_phase(teacher.distillation_epochs)], terms={})

    def _build_loss(self) -> nn.Module:
        return weigh_cross_entropy(super()._build_loss(), self.method.teacher.lambda_ce)

    def do_split(self) -> tuple[list[str], list[str]]:
        try:
            split: tuple[list[str], list[str]] = super().do_split()
        except ValueError as error:  # scikit-learn's: fewer cases than folds
            cases = infer_dataset_class(self.preprocessed_dataset_folder).get_identifiers(self.preprocessed_dataset_folder)
            raise too_few_for_folds(str(self.plans_manager.dataset_name), len(cases)) from error
        return split

    def _distillation_datasets(self) -> list[Any]:
        datasets = super()._distillation_datasets()
        # a cascade's images need the previous stage's segmentation, which the pool does not have
        pool = None if self.is_cascaded else self._pool()
        if pool is not None and (cases := self._cases_to_learn_from(pool)):
            for case in cases:
                load_properties(pool.folder, case)  # nnU-Net's loader would run code that the file might carry
            datasets.append(infer_dataset_class(str(pool.folder))(str(pool.folder), cases))
            self._pool_images.update(cases)
        self.print_to_log_file(f"Distillation images: {', '.join(str(len(d.identifiers)) for d in datasets)} (training cases, pool)")
        return datasets

    def _pool(self) -> Any:
        from nnunet_ssl.data.pool_index import find_pool  # the pool's module is needed in this phase alone

        return find_pool(self.plans_manager, self.configuration_name)

    def _cases_to_learn_from(self, pool: Any) -> list[str]:
        """Cases of the pool but those of groups whose labelled cases only validate, so that a run may leave these groups out."""
        from nnunet_ssl.data.groups import held_out_groups, kept_groups

        groups = kept_groups(pool.folder)
        held_out = held_out_groups(*self.do_split(), groups)
        cases = [case for case in pool.case_ids if groups.get(case) not in held_out]
        if len(cases) < len(pool.case_ids):
            self.print_to_log_file(f"No distillation image is of the groups that this fold holds out: {', '.join(held_out)}")
        return cases

    def _restore(self, entry: dict[str, Any] | None) -> None:
        self._pool_images.update((entry or {}).get(POOL_IMAGES, ()))

    def _checkpoint_entry(self) -> dict[str, Any]:
        return {POOL_IMAGES: sorted(self._pool_images)}
