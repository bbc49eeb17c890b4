"""The student: any network of nnU-Net, trained on manual labels and on the pool's pseudo-labels (paper Eqs. 9-13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import nn

from nnunet_ssl.locations import targets_folder
from nnunet_ssl.networks import unwrap
from nnunet_ssl.training.cutmix import CutMix
from nnunet_ssl.training.distributed import num_processes
from nnunet_ssl.training.epoch_terms import to_host
from nnunet_ssl.training.extra_channels import ExtraLayout
from nnunet_ssl.training.moving_average import MovingAverage, default_decay
from nnunet_ssl.training.phased_trainer import PhasedTrainer
from nnunet_ssl.training.phases import DISTILLATION, FINE_TUNING, SEMI_SUPERVISED, Phase
from nnunet_ssl.training.reference_prediction import probabilities, reference_logits
from nnunet_ssl.training.stage import read_stage
from nnunet_ssl.training.stage_dataset import StageDataset
from nnunet_ssl.training.stage_loader import StageDataLoader, loaders_built_by, share_of_process
from nnunet_ssl.training.student_loss import CLASS_TERM, IMPOSSIBLE, TERMS, DualLoss, ramp_weight
from nnunet_ssl.training.student_pipeline import student_pipeline
from nnunet_ssl.training.supervised_loss import weigh_cross_entropy
from nnunet_ssl.training.target_refresh import TargetRefresh
from nnunet_ssl.training.trans_aspp_network import TransASPPNetwork
from nnunet_ssl.training.users_trainer import refuse_foreign_loaders
from nnunet_ssl.training.warm_start import load_all_weights

SCALE = "unlearning_scale"
"""In a checkpoint's entry of ours: the factor on R_low that was measured last."""


class SemiSupervisedStudent(PhasedTrainer):
    """The student phase, for any trainer and network: put it before a trainer of nnU-Net in the list of bases.

    It trains on a stage dataset, whose sidecar says which cases are labelled, how long the stage lasts and what it starts from. Validation
    is nnU-Net's own, on manual labels. Checkpoints hold the moving average as `network_weights`, which is what `nnUNetv2_predict` and the
    next stage use, and the weights in training under a key of our own.

    A subclass that learns from the pool in another way overrides `_semi_supervised_loss`, `_terms`, `_ramp` and `_restore`.
    """

    fixed_settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Settings, by dotted name, that this trainer has whatever the plans say."""
    schedule_settings: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"num_epochs": "student.length.num_epochs", "initial_lr": "student.initial_lr (student.warm_lr after trained weights)"}
    )

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own default)
    ) -> None:
        self.stage = read_stage(plans["dataset_name"])
        self.stage.split(fold)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.method = self.method.with_settings(self.fixed_settings)
        student = self.method.student
        self.optimizer_name = student.optimizer
        self.weight_decay = student.weight_decay
        self.cpu_precision = student.cpu_precision
        self.num_iterations_per_epoch = student.length.iterations_per_epoch
        self.num_val_iterations_per_epoch = student.length.val_iterations_per_epoch
        self.average: MovingAverage | None = None
        self._cutmix = CutMix(probability=student.cutmix, generator=np.random.default_rng())
        self.refresh = TargetRefresh(
            final=student.refresh if self.stage.is_last else 0.0,
            steps=self._semi_supervised_steps,
            num_confidence=self.stage.num_confidence_channels,
            is_augmented=student.strong_augmentation,
        )
        self._stage_dataset: StageDataset | None = None
        self._reads_stage = False
        self._continues = False
        self._step = 0
        self._use_phases(self._phases(), terms=self._terms())

    def _phases(self) -> list[Phase]:
        student = self.method.student
        lr = student.initial_lr if self.stage.start_checkpoint is None else student.warm_lr
        phases = [Phase(SEMI_SUPERVISED, self.stage.num_epochs, lr)]
        if self.stage.is_last:
            phases.append(Phase(FINE_TUNING, student.fine_tune_epochs, student.warm_lr))
            phases += self._distillation_phase(student.distillation_epochs)
        return phases

    # ---- nnU-Net's hooks

    def initialize(self) -> None:
        super().initialize()
        network = unwrap(self.network)
        start = self.stage.start_checkpoint
        # a checkpoint that is loaded next has everything, and what the stage started from may be gone by then
        if start is not None and not self._continues:
            self.print_to_log_file(f"Starting from the weights in {start}")
            load_all_weights(network, start, self.fold)
        student = self.method.student
        if student.ema:
            self.average = MovingAverage(network, decay=student.ema_decay or default_decay(self._semi_supervised_steps))

    def _build_loss(self) -> nn.Module:
        return self._semi_supervised_loss(weigh_cross_entropy(super()._build_loss(), self.method.student.lambda_ce))

    def do_split(self) -> tuple[list[str], list[str]]:
        return self.stage.split(self.fold)

    def get_tr_and_val_datasets(self) -> tuple[StageDataset, Any]:
        training, validation = super().get_tr_and_val_datasets()
        self._stage_dataset = StageDataset(
            training,
            targets_folder=targets_folder(self.stage.dataset, self.configuration_manager.data_identifier),
            layout=self._layout(),
            pool_cases=self.stage.pool_cases,
            labelled_share=self._labelled_share(),
        )
        return self._stage_dataset, validation

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, Any, Any, Any]:  # noqa: N802 (nnU-Net's own name)
        rotation, is_dummy_2d, patch_size, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.stage.mirroring_axes is not None:
            axes = self._axes_of_the_teacher(axes)
            self.inference_allowed_mirroring_axes = self._axes_of_the_teacher(self.inference_allowed_mirroring_axes)
            self.print_to_log_file(f"Mirrored along axes {axes}, as the teacher was" if axes else "No mirroring, as for the teacher")
        return rotation, is_dummy_2d, patch_size, axes

    def get_dataloaders(self) -> tuple[Any, Any]:
        with loaders_built_by(self._build_loader):
            loaders: tuple[Any, Any] = super().get_dataloaders()
        if not self._reads_stage:
            refuse_foreign_loaders(type(self).__name__, super().get_dataloaders)
        return loaders

    def on_train_start(self) -> None:
        super().on_train_start()
        # weights given with -pretrained_weights came in after the average began
        if self.average is not None and self.average.num_updates == 0:
            self.average.reset()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self._stage_dataset is not None:
            self._stage_dataset.labelled_share = self._labelled_share()
        self._step = self.current_epoch * self.num_iterations_per_epoch

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.phase.name != DISTILLATION:
            batch, seen_by_average = self.refresh.views(batch)
            if self.phase.name == SEMI_SUPERVISED:
                self.refresh(batch["target"], seen_by_average, step=self._step, predict=self._average_prediction)
                batch = self._cutmix(batch)
        self.loss.ramp = self._ramp()
        result = super().train_step(batch)
        self._step += 1
        if self.average is not None and not self.finite_steps.was_left_out:
            if self.phase.name == DISTILLATION:
                self.average.follow()
            else:
                self.average.update()
        return result

    def on_validation_epoch_start(self) -> None:
        if self.average is not None:
            self.average.swap()
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        if self.average is not None:
            self.average.swap()

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        self._continues = True
        super().load_checkpoint(filename_or_checkpoint)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._evaluated_weights():
            super().perform_actual_validation(save_probabilities)

    # ---- ours

    def _axes_of_the_teacher(self, axes: Sequence[int] | None) -> tuple[int, ...] | None:
        """Those of some spatial axes along which the teacher was mirrored, too; None where there are none, as nnU-Net has it.

        Labels that tell left from right are wrong in a mirrored image.
        """
        return tuple(axis for axis in axes or () if axis in (self.stage.mirroring_axes or ())) or None

    @property
    def _semi_supervised_steps(self) -> int:
        """Optimiser steps of the semi-supervised phase."""
        return self.stage.num_epochs * self.num_iterations_per_epoch

    def _average_prediction(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (P, H, *spatial) of the moving average, without dropout, for images (P, C, *spatial).

        A blind class has none: the pool's targets say nothing of it, and would be its alone wherever the student has learned it.
        """
        with self._evaluated_weights():
            self.network.eval()
            logits = reference_logits(self.network, images.to(self.device, non_blocking=True))
            self.network.train()
        has_regions = self.label_manager.has_regions
        if self.stage.blind_heads and not has_regions:
            logits = logits.float().index_fill(1, torch.tensor(self.stage.blind_heads, device=logits.device), IMPOSSIBLE)
        return probabilities(logits, has_regions=has_regions)

    def _semi_supervised_loss(self, supervised: nn.Module) -> nn.Module:
        """The loss of batches with samples from the pool, around nnU-Net's own."""
        return DualLoss(
            supervised=supervised,
            config=self.method.student,
            has_regions=self.label_manager.has_regions,
            num_outputs=self.label_manager.num_segmentation_heads,
            batch_dice=self.configuration_manager.batch_dice,
            is_distributed=self.is_ddp,
            blind_heads=self.stage.blind_heads,
        )

    def _terms(self) -> dict[str, int]:
        """Names and lengths of the terms that the loss measures."""
        return {**dict.fromkeys(TERMS, 1), CLASS_TERM: self.label_manager.num_segmentation_heads}

    def _restore(self, entry: dict[str, Any] | None) -> None:
        entry = entry or {}
        if self.average is not None:
            if "raw_weights" in entry:
                self.average.restore(entry)
            else:
                self.average.reset()
        if SCALE in entry:
            self.loss.last_scale = torch.tensor(entry[SCALE], device=self.device)

    def _layout(self) -> ExtraLayout:
        return ExtraLayout.for_stage(self.label_manager, self.stage.num_confidence_channels, self.stage.num_probability_channels)

    def _thresholds_per_class(self) -> tuple[float, ...] | None:
        """Tau of every class, where classes differ; a region's confidence is compared with its own alone."""
        tau = self.method.student.fixed_tau
        if self.label_manager.has_regions or not isinstance(tau, tuple) or len(set(tau)) < 2:
            return None
        return tau

    def _labelled_share(self) -> float:
        """Share of labelled samples that this process draws in the current epoch."""
        share = 1.0 if self.phase.name == FINE_TUNING else self.method.student.labelled_share
        if self.batch_size > 1:
            return share
        return share_of_process(share, rank=self.local_rank, processes=num_processes(), epoch=self.current_epoch)

    def _ramp(self) -> float:
        """Weight of the pool terms in the next step."""
        if self.phase.name != SEMI_SUPERVISED:
            return 0.0
        ramped = self.method.student.ramp_up * self._semi_supervised_steps
        return ramp_weight(self._step, ramp_steps=ramped if self.stage.stage == 1 else 0)

    def _build_loader(self, data: Any, *args: Any, transforms: Any, **kwargs: Any) -> nnUNetDataLoader:
        """Stands in for nnU-Net's loader class: validation gets that class, training ours."""
        if not isinstance(data, StageDataset):
            return nnUNetDataLoader(data, *args, transforms=transforms, **kwargs)
        ours = student_pipeline(
            transforms,
            num_channels=self._layout().num_channels,
            strong=self.method.student.strong_augmentation,
            keeps_weak_view=self.refresh.needs_weak_view,
            thresholds=self._thresholds_per_class(),
        )
        self._reads_stage = True
        return StageDataLoader(data, *args, transforms=ours, **kwargs)

    def _start_phase(self, phase: Phase) -> None:
        if phase.name == DISTILLATION and self.average is not None:
            # the head belongs to the network that is saved and used
            self.average.commit()
        super()._start_phase(phase)

    def _distillation_datasets(self) -> list[Any]:
        return [super().get_tr_and_val_datasets()[0]]

    def _measured_terms(self) -> dict[str, Any]:
        return to_host(self.loss.last_terms)

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.applied()

    def _checkpoint_entry(self) -> dict[str, Any]:
        entry = {} if self.average is None else self.average.state()
        scale = getattr(self.loss, "last_scale", None)  # the peers' losses have no cap
        return entry if scale is None else {**entry, SCALE: float(scale)}


class TransASPPStudentTrainer(TransASPPNetwork, SemiSupervisedStudent):
    """`nnUNetv2_train STAGE_DATASET CONFIGURATION FOLD -tr TransASPPStudentTrainer`: the student with TransASPPUNet."""


class SemiSupervisedStudentTrainer(SemiSupervisedStudent):
    """`nnUNetv2_train STAGE_DATASET CONFIGURATION FOLD -tr SemiSupervisedStudentTrainer`: the student with the network the plans name."""
