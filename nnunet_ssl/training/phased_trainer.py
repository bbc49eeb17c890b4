"""What teacher and student trainers share: settings from the plans, phases, terms in the log, checkpoints written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_ssl.config import CpuPrecision, MethodConfig, OptimizerName
from nnunet_ssl.data.files import remove_leftovers, replacing
from nnunet_ssl.disk import flush_to_disk
from nnunet_ssl.networks import StochasticSampler, unwrap
from nnunet_ssl.nnunet_api.checkpoints import CHECKPOINT_ENTRY, UNCERTAINTY_TERM, load_checkpoint, weights_only
from nnunet_ssl.nnunet_api.earlier_training import remove_set_aside, set_aside
from nnunet_ssl.nnunet_api.external_trainers import trains_uncertainty_head
from nnunet_ssl.training.cpu_layout import lay_channels_last
from nnunet_ssl.training.cpu_precision import computes_in_bfloat16, use_bfloat16
from nnunet_ssl.training.distributed import broadcast_parameters, leave_head_out
from nnunet_ssl.training.epoch_terms import EpochTerms
from nnunet_ssl.training.finite_steps import FiniteSteps, require_finite
from nnunet_ssl.training.next_stage import leave_out_missing_next_stages
from nnunet_ssl.training.optimizer import adamw
from nnunet_ssl.training.phases import DISTILLATION, Phase, PhasedPolyLRScheduler, PhaseSchedule
from nnunet_ssl.training.plain_patches import plain_patch_loader
from nnunet_ssl.training.running_statistics import RunningStatistics
from nnunet_ssl.training.supervised_loss import weigh_lone_scale
from nnunet_ssl.training.uncertainty_phase import UncertaintyDistillation
from nnunet_ssl.training.users_trainer import refuse_changed_schedule, refuse_missing_head, refuse_optimizer_in_stages
from nnunet_ssl.training.whole_checkpoint import written_whole


class PhasedTrainer(nnUNetTrainer):
    """nnU-Net's trainer with consecutive phases, the last of which may be uncertainty distillation.

    A subclass sets the lengths in its constructor (`_use_phases`) and overrides `_start_phase`, `_measured_terms`, `_distillation_datasets`
    and the checkpoint helpers where it has something to add.

    `checkpoint_best` keeps nnU-Net's meaning through all phases: the network with the best moving average of the pseudo Dice. Distillation
    does not change what is segmented, so it neither lowers nor improves that network; but a `checkpoint_best` from an earlier phase has
    an untrained uncertainty head. `checkpoint_final` has a trained one, and is what nnunet-ssl itself uses.
    """

    has_uncertainty_head: bool | None = None
    """Whether the network has one; None: only if the plans name TransASPPUNet. A subclass with a network of its own says False."""
    optimizer_name: OptimizerName = "nnunet"
    """`nnunet`: whatever the trainer that this is mixed into configures."""
    cpu_precision: CpuPrecision = "float32"
    """`bfloat16`: mixed precision on a CPU that has it."""
    schedule_settings: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"num_epochs": "teacher.length.num_epochs", "initial_lr": "teacher.initial_lr"}
    )
    """What sets the length and the first learning rate, by nnU-Net's names of these."""

    # set by nnU-Net
    num_epochs: int
    initial_lr: float
    inference_allowed_mirroring_axes: tuple[int, ...] | None
    dataloader_train: Any
    _best_ema: float | None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own default)
    ) -> None:
        refuse_optimizer_in_stages(type(self).__name__, super().configure_optimizers)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.method = MethodConfig.from_dict(self.configuration_manager.configuration.get("nnssl"))
        self.schedule = PhaseSchedule([Phase("", self.num_epochs, self.initial_lr)])
        self.terms = EpochTerms({})
        self.finite_steps = FiniteSteps(restores_scale=not self.is_ddp)
        self._started_phase: int | None = None
        self._unchanged: Path | None = None
        """The checkpoint that was loaded, until a step changes the network."""
        self._distillation: UncertaintyDistillation | None = None

    def _use_phases(self, phases: list[Phase], terms: dict[str, int]) -> None:
        """Set what the training consists of, and what is logged besides nnU-Net's own values; at the end of a constructor."""
        self.schedule = PhaseSchedule(phases)
        self.num_epochs = self.schedule.num_epochs
        self.initial_lr = self.schedule.phases[0].initial_lr
        self.save_every = self.schedule.save_every
        self.terms = EpochTerms({**terms, UNCERTAINTY_TERM: 1})
        self.terms.register(self.logger)

    def _distillation_phase(self, length: int) -> list[Phase]:
        """The phase of uncertainty distillation, if the network has a head for it."""
        return [Phase(DISTILLATION, length, self.method.teacher.distillation_lr)] if self._trains_head and length > 0 else []

    @property
    def _trains_head(self) -> bool:
        """Whether the network should have an uncertainty head."""
        return trains_uncertainty_head(type(self), str(self.configuration_manager.network_arch_class_name))

    @property
    def phase(self) -> Phase:
        """The phase of the current epoch."""
        return self.schedule.at(self.current_epoch)

    # ---- nnU-Net's hooks

    def initialize(self) -> None:
        refuse_changed_schedule(self, self.schedule, self.schedule_settings)
        super().initialize()
        if self._trains_head:
            refuse_missing_head(type(self).__name__, self.network)
        self._fit_to_cpu(unwrap(self.network))
        self.running_statistics = RunningStatistics(unwrap(self.network))
        if self.device.type == "cpu" and self.cpu_precision == "bfloat16" and not computes_in_bfloat16():
            self.print_to_log_file("This CPU has no instructions for bfloat16 (or PyTorch is too old to say); training in float32")

    def print_plans(self) -> None:
        super().print_plans()
        self.print_to_log_file("nnunet-ssl settings:\n", json.dumps(self.method.to_dict()), "\n", add_timestamp=False)

    def _build_loss(self) -> nn.Module:
        return weigh_lone_scale(super()._build_loss())

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PhasedPolyLRScheduler]:
        optimizer, _ = super().configure_optimizers()
        if self.optimizer_name == "adamw":
            optimizer = adamw(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)
        if self.is_ddp:
            leave_head_out(self.network)
        if self.grad_scaler is None:
            self.finite_steps.guard(optimizer)
        return optimizer, PhasedPolyLRScheduler(optimizer, self.schedule)

    def on_train_start(self) -> None:
        if self.local_rank == 0:
            remove_leftovers(Path(self.output_folder))
        super().on_train_start()

    def on_epoch_start(self) -> None:
        # a checkpoint at the end of every phase, besides the regular ones
        self.save_every = 1 if self.schedule.is_last_of_phase(self.current_epoch) else self.schedule.save_every
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        self._start_phase_once()
        super().on_train_epoch_start()
        if self.phase.name == DISTILLATION:
            self.network.eval()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._unchanged = None
        self.finite_steps.before_step(self.grad_scaler)
        self.running_statistics.remember()
        if self._distillation is not None:
            outputs = self._distil(batch)
            loss, measured = outputs[UNCERTAINTY_TERM], {}
        else:
            outputs, measured = super().train_step(batch), self._measured_terms()
            loss = outputs["loss"]
        cases = [str(key) for key in batch.get("keys", ())]
        self.finite_steps.after_step(loss, measured, epoch=self.current_epoch, cases=cases, scaler=self.grad_scaler)
        if self.finite_steps.was_left_out:
            self.running_statistics.restore()
        return self.terms.complete({**outputs, **measured})

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        self.finite_steps.check_scale(self.grad_scaler, epoch=self.current_epoch)
        if skipped := self.finite_steps.skipped:
            self.print_to_log_file(f"{skipped} of {len(train_outputs)} steps had no finite loss and gradient and changed nothing")
        self.finite_steps.skipped = 0
        for name, value in self.terms.epoch_means(train_outputs).items():
            self.logger.log(name, value, self.current_epoch)
            if not np.all(np.isnan(value)):
                self.print_to_log_file(name, np.round(value, decimals=4))

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        path = Path(filename)
        if path == self._unchanged and path.is_file():
            # of a finished training that is continued to validate it; runs know their teacher by the bytes of this file
            self.print_to_log_file(f"{path.name} is as it was: no step was taken")
            return
        with replacing(path) as temporary, written_whole(temporary):
            require_finite(unwrap(self.network).state_dict(), filename, epoch=self.current_epoch)
            with self._evaluated_weights():
                require_finite(unwrap(self.network).state_dict(), filename, epoch=self.current_epoch)
                super().save_checkpoint(str(temporary))
            if entry := self._checkpoint_entry():
                torch.save({**load_checkpoint(temporary), CHECKPOINT_ENTRY: entry}, temporary)
            flush_to_disk(temporary)  # may fail, and take long: from here on nothing is left to do but rename
            earlier = set_aside(path)
        if earlier:
            self.print_to_log_file(f"The finished model of an earlier training is kept until this one ends: {', '.join(map(str, earlier))}")
        remove_set_aside(path)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        # nnU-Net would run code that the file might carry: ours is read first, and says what is wrong with the file
        entry = load_checkpoint(Path(str(filename_or_checkpoint))).get(CHECKPOINT_ENTRY)
        with weights_only():
            super().load_checkpoint(filename_or_checkpoint)
        self._unchanged = Path(str(filename_or_checkpoint))
        # nnU-Net writes `checkpoint_latest` before it looks whether the epoch was the best: a worse one would take the best one's place
        for value in self.logger.local_logger.my_fantastic_logging["ema_fg_dice"]:
            if self._best_ema is None or value > self._best_ema:
                self._best_ema = value
        self._restore(entry)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        if missing := leave_out_missing_next_stages(self.plans_manager, self.configuration_manager):
            self.print_to_log_file(f"Nothing is predicted for {', '.join(missing)}: its data are not preprocessed")
        super().perform_actual_validation(save_probabilities)

    def _fit_to_cpu(self, network: nn.Module) -> None:
        """Memory layout and precision of a network, without wrappers, that is trained on a CPU; on another device nothing."""
        if self.device.type == "cpu":
            lay_channels_last(network)
            if self.cpu_precision == "bfloat16" and computes_in_bfloat16():
                use_bfloat16(network)

    # ---- what a subclass may add

    def _start_phase(self, phase: Phase) -> None:
        """Called before the first epoch of a phase in this process, also when a training continues within the phase."""
        if phase.name == DISTILLATION:
            self._start_distillation()

    def _measured_terms(self) -> dict[str, Any]:
        """Terms of the step just taken."""
        return {}

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        """While it is open, the network has the weights that are evaluated and saved for inference."""
        return nullcontext()

    def _checkpoint_entry(self) -> dict[str, Any]:
        """What else a checkpoint must hold to continue from it."""
        return {}

    def _restore(self, entry: dict[str, Any] | None) -> None:
        """Continue from what `_checkpoint_entry` left in a checkpoint, None in one of nnU-Net's own; its weights are loaded."""

    def _distillation_datasets(self) -> list[Any]:
        """nnU-Net datasets whose images the uncertainty head learns from."""
        return [self.get_tr_and_val_datasets()[0]]

    # ---- uncertainty distillation

    def _start_phase_once(self) -> None:
        index = self.schedule.index(self.current_epoch)
        if index != self._started_phase:
            self._started_phase = index
            if len(self.schedule.phases) > 1:
                self.print_to_log_file(f"Phase {index + 1} of {len(self.schedule.phases)}: {self.phase.name}, {self.phase.length} epochs")
            self._start_phase(self.phase)

    def _start_distillation(self) -> None:
        """Exchange the training loader for un-augmented patches, and set up the head's training."""
        network, teacher = unwrap(self.network), self.method.teacher
        if isinstance(self.dataloader_train, NonDetMultiThreadedAugmenter):
            self.dataloader_train._finish()
        self.dataloader_train = plain_patch_loader(self, self._distillation_datasets())
        sampler = StochasticSampler(
            network,
            mirror_axes=self.inference_allowed_mirroring_axes,
            num_samples=teacher.num_samples,
            has_regions=self.label_manager.has_regions,
        )
        self._distillation = UncertaintyDistillation(
            network, sampler=sampler, kind=teacher.distillation_loss, optimizer=self.optimizer, grad_scaler=self.grad_scaler
        )
        broadcast_parameters(self._distillation.parameters)
        self.print_to_log_file(
            f"The uncertainty head learns from {sampler.num_samples} samples a patch; all else is frozen, "
            "so train_loss repeats the value of the last epoch that measured it"
        )

    def _distil(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._distillation is None:
            raise RuntimeError("distillation has not started.")
        loss = self._distillation.step(batch["data"].to(self.device, non_blocking=True))
        return {"loss": np.asarray(self.logger.get_value("train_losses", step=-1)), UNCERTAINTY_TERM: loss}
