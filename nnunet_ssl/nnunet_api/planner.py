"""nnU-Net's experiment planner, with the memory of TransASPPUNet in place of its own estimate."""

from __future__ import annotations

from math import prod
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.gpu_memory import largest_batch, training_bytes, usable_bytes
from nnunet_ssl.networks.network_count import NetworkCount, count_network
from nnunet_ssl.networks.self_configuration import derive_architecture
from nnunet_ssl.nnunet_api.missing_plans import OWN_PLANS
from nnunet_ssl.nnunet_api.resampling import TORCH, image_resampling, probability_resampling

_PLANNED = (
    "n_stages", "features_per_stage", "kernel_sizes", "strides", "n_blocks_per_stage", "n_conv_per_stage_decoder", "aspp_dilations",
    "attention_heads",
)  # fmt: skip
"""Settings of the network that follow from patch and spacing."""
_MOST_STAGES = 16
"""More resolutions than any patch has."""


class TransASPPPlanner(ExperimentPlanner):
    """Sizes patch and batch for a GPU as nnU-Net does: the largest patch of which a batch of two fits, then the largest batch.

    As nnU-Net's ResEnc presets, it has no limit of 5 % of the dataset per batch; a batch just never holds more voxels than the dataset.
    Nothing is written: `plan_experiment` returns the plans.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 24,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = f"{OWN_PLANS}_24G",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        super().__init__(
            dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing, suppress_transpose
        )
        self.max_dataset_covered = 1
        # nnU-Net holds estimate / reference batch * 2 against reference * target / reference GB: here bytes of a batch of two
        self.UNet_reference_val_corresp_GB = gpu_memory_target_in_gb
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = usable_bytes(gpu_memory_target_in_gb)
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = self.UNet_min_batch_size
        self.torch_resampling: str | None = None
        """Device on which PyTorch resamples images, labels and probabilities; None is nnU-Net's default resampling."""
        self._network_settings: dict[str, Any] = {}

    def keep_network(self, architecture: dict[str, Any]) -> None:
        """Take widths, depth and every setting that does not follow from the patch from a TransASPPUNet of existing plans.

        Args:
            architecture: its block in the plans, see `derive_architecture`.
        """
        kwargs = architecture["arch_kwargs"]
        blocks, convs, features = (
            [value] if isinstance(value := kwargs[name], int) else list(value)
            for name in ("n_blocks_per_stage", "n_conv_per_stage_decoder", "features_per_stage")
        )
        self.UNet_base_num_features = features[0]
        self.UNet_max_features_2d = self.UNet_max_features_3d = max(features)
        # of plain convolutions, as nnU-Net plans them, two make a block; deeper stages than there were are like the deepest
        self.UNet_blocks_per_stage_encoder = _lengthened(blocks)
        self.UNet_blocks_per_stage_decoder = _lengthened(convs)
        self._network_settings = {name: value for name, value in kwargs.items() if name not in _PLANNED}

    # ---- nnU-Net's hooks

    @staticmethod
    def static_estimate_VRAM_usage(  # noqa: N802 (nnU-Net's name)
        patch_size: tuple[int, ...],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: dict[str, Any],
        arch_kwargs_req_import: tuple[str, ...],
    ) -> int:
        architecture = {"network_class_name": arch_class_name, "arch_kwargs": arch_kwargs, "_kw_requires_import": arch_kwargs_req_import}
        kwargs = derive_architecture(architecture, patch_size)["arch_kwargs"]
        count = count_network(kwargs, input_channels=input_channels, num_classes=output_channels, patch_size=patch_size)
        return training_bytes(count, batch_size=2)

    def determine_resampling(self, *args: Any, **kwargs: Any) -> Any:
        if self.torch_resampling is None:
            return super().determine_resampling(*args, **kwargs)
        return image_resampling(self, self.torch_resampling)

    def determine_segmentation_softmax_export_fn(self, *args: Any, **kwargs: Any) -> Any:
        if self.torch_resampling is None:
            return super().determine_segmentation_softmax_export_fn(*args, **kwargs)
        return probability_resampling(self, TORCH, {} if self.torch_resampling == "cpu" else {"device": self.torch_resampling})

    def get_plans_for_configuration(
        self,
        spacing: Any,
        median_shape: Any,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, Any],
    ) -> dict[str, Any]:
        try:
            plan: dict[str, Any] = super().get_plans_for_configuration(
                spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
            )
        except ConfigError as error:
            images, target = " x ".join(f"{size:g}" for size in median_shape), f"{self.UNet_vram_target_GB:g}"
            raise ConfigError(f"images of {images} voxels, or a GPU of {target} GB, are too small for TransASPPUNet: {error}") from error
        patch = [int(size) for size in plan["patch_size"]]
        plan["architecture"] = derive_architecture(plan["architecture"], patch)
        plan["architecture"]["arch_kwargs"] |= self._network_settings
        fitting = largest_batch(self._count(plan["architecture"], patch), usable_bytes(self.UNet_vram_target_GB))
        covering = round(approximate_n_voxels_dataset * self.max_dataset_covered / prod(patch))
        plan["batch_size"] = max(min(fitting, covering), self.UNet_min_batch_size)
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Nothing: whoever planned decides what becomes a file, and nnU-Net would write into plans that exist."""

    # ---- ours

    def _count(self, architecture: dict[str, Any], patch: list[int]) -> NetworkCount:
        channels = self.dataset_json.get("channel_names", self.dataset_json.get("modality"))
        return count_network(
            architecture["arch_kwargs"], input_channels=len(channels), num_classes=len(self.dataset_json["labels"]), patch_size=patch
        )


def _lengthened(blocks: list[int]) -> tuple[int, ...]:
    return tuple(2 * number for number in (*blocks, *[blocks[-1]] * _MOST_STAGES))
