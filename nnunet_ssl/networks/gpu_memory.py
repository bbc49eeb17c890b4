"""GPU memory of training and of sampling, from the sizes that `count_network` finds.

Two numbers cannot be counted: what a process holds beside its tensors (CUDA's context, cuDNN's workspace) and what the allocator loses.
They are fitted to the memory that nnU-Net's authors publish for four of their presets, 7.7 to 36.6 GB by nvidia-smi, whose activations
were counted in the same way: the model meets those within 4 %.
"""

from __future__ import annotations

from nnunet_ssl.networks.network_count import NetworkCount

GIB = 1024**3
OVERHEAD_BYTES = int(2.75 * GIB)
"""Held beside all tensors, whatever the network."""
ALLOCATOR_FACTOR = 1.08
"""Memory reserved per byte of tensors."""
USABLE_SHARE = 0.95
"""Of a GPU's nominal memory; the rest is the driver's and the display's."""

_TRAINING_BYTES_PER_PARAMETER = 4 + 2 + 4 + 8 + 4
"""Weight and its copy in half precision, gradient, AdamW's two moments (SGD has one), the student's moving average."""
_INFERENCE_BYTES_PER_PARAMETER = 4 + 2
_WORKING_MAPS = 3
"""Maps of the finest stage that the backward pass holds beside the kept ones, gradients included."""
_KEPT_BYTES_PER_LOGIT, _GRADIENT_BYTES_PER_LOGIT = 24, 8
"""Of the loss, float32: what is kept (half the batch is supervised, half is from the pool), and gradients on the way back."""
_DECODING_MAPS = 4
"""Maps of the finest stage in a pass of the decoder, beside its output: upsampled, concatenated (two), convolved."""
_SAMPLE_BYTES_PER_LOGIT = 2 + 4 + 4
"""A sample's logits, its probabilities, and these mirrored back."""
_MOMENT_BYTES_PER_LOGIT = 3 * 4
"""Evidence sums in float32: probabilities, their squares and votes."""


def training_bytes(count: NetworkCount, batch_size: int) -> int:
    """Memory of a training step of teacher or student on a GPU, in mixed precision.

    Args:
        count: sizes of the network at the patch size, for two bytes per element.
        batch_size: samples per step.
    """
    return _reserved(count.parameters * _TRAINING_BYTES_PER_PARAMETER + batch_size * _sample_bytes(count))


def largest_batch(count: NetworkCount, gpu_bytes: int) -> int:
    """The most samples per step that a GPU has room for; 0 where not even one fits.

    Args:
        count: as in `training_bytes`.
        gpu_bytes: memory that may be used, see `usable_bytes`.
    """
    room = (gpu_bytes - OVERHEAD_BYTES) / ALLOCATOR_FACTOR - count.parameters * _TRAINING_BYTES_PER_PARAMETER
    return max(0, int(room // _sample_bytes(count)))


def sampling_bytes(count: NetworkCount, *, image_voxels: int, input_channels: int) -> int:
    """Memory of evidence on a GPU, for one image and any number of samples K.

    Samples are drawn one after another from one encoder pass, and their moments are summed up, so that K is not in the formula. Where an
    image is too large, nnU-Net keeps image and sums on the CPU; then `image_voxels` is that of the patch.

    Args:
        count: as in `training_bytes`.
        image_voxels: voxels of the preprocessed image.
        input_channels: image channels.
    """
    image = image_voxels * (count.num_classes * _MOMENT_BYTES_PER_LOGIT + 4 + 4 * input_channels)
    return _reserved(count.parameters * _INFERENCE_BYTES_PER_PARAMETER + _window_bytes(count) + image)


def usable_bytes(gpu_memory_gb: float) -> int:
    """What training may use of a GPU with that much memory (in GB as GPUs are sold, 1024^3 bytes)."""
    return int(gpu_memory_gb * GIB * USABLE_SHARE)


def _sample_bytes(count: NetworkCount) -> int:
    """Of one sample: what is kept, and the larger of the two peaks, in the backward pass of the loss or of the finest stage."""
    logits = count.num_classes * count.supervised_voxels
    return count.kept_bytes + max(
        logits * (_KEPT_BYTES_PER_LOGIT + _GRADIENT_BYTES_PER_LOGIT), logits * 2 + _WORKING_MAPS * count.finest_map_bytes
    )


def _window_bytes(count: NetworkCount) -> int:
    """Of one window while its samples are drawn, weights aside."""
    per_voxel = count.num_classes * (_SAMPLE_BYTES_PER_LOGIT + _MOMENT_BYTES_PER_LOGIT)
    return count.encoded_bytes + count.decoded_bytes + _DECODING_MAPS * count.finest_map_bytes + count.voxels * per_voxel


def _reserved(tensor_bytes: float) -> int:
    return OVERHEAD_BYTES + int(tensor_bytes * ALLOCATOR_FACTOR)
