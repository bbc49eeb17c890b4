"""The memory model against published figures of nnU-Net, against tensors alive while evidence is drawn, and against a real step."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from network_memory import LiveBytes, kept_for_backward, pretended_gpu
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ssl.networks import StochasticSampler, TransASPPUNet
from nnunet_ssl.networks import gpu_memory as model
from nnunet_ssl.networks.network_count import NetworkCount, count_network

GIB = model.GIB


def arch(dim: int, features: list[int]) -> dict[str, Any]:
    """Constructor arguments that JSON can hold."""
    stages = len(features)
    return {
        "n_stages": stages,
        "features_per_stage": features,
        "kernel_sizes": [[3] * dim] * stages,
        "strides": [[1] * dim, *[[2] * dim] * (stages - 1)],
        "n_blocks_per_stage": [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin_kwargs": {"inplace": True},
        "aspp_dilations": [[1] * dim, [2] * dim],
        "decoder_dropout": 0.2,
    }


def counted(dim: int, features: list[int], patch: list[int], *, classes: int = 3, element_bytes: int = 2) -> NetworkCount:
    kwargs = arch(dim, features) | {"norm_op": "torch.nn.InstanceNorm"}
    return count_network(kwargs, input_channels=1, num_classes=classes, patch_size=patch, element_bytes=element_bytes)


# ---- training

PUBLISHED = {
    # nnU-Net's preset: network, patch for CT of 512 voxels at 0.8 mm, GB by nvidia-smi (documentation/resenc_presets.md of nnU-Net 2)
    "nnU-Net (org.)": (PlainConvUNet, (128, 128, 128), 7.7),
    "ResEnc M": (ResidualEncoderUNet, (128, 128, 128), 9.1),
    "ResEnc L": (ResidualEncoderUNet, (192, 192, 192), 22.7),
    "ResEnc XL": (ResidualEncoderUNet, (224, 256, 224), 36.6),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_what_cannot_be_counted_is_fitted_to_published_memory(preset: str) -> None:
    network, patch, published_gb = PUBLISHED[preset]
    plain = network is PlainConvUNet
    depth = {"n_conv_per_stage": [2] * 6} if plain else {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6]}
    weights = 0

    def make() -> nn.Module:
        nonlocal weights
        made: nn.Module = network(
            input_channels=1, num_classes=3, n_stages=6, features_per_stage=[32, 64, 128, 256, 320, 320], conv_op=nn.Conv3d,
            kernel_sizes=3, strides=[1, 2, 2, 2, 2, 2], conv_bias=True, norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
            n_conv_per_stage_decoder=[2 if plain else 1] * 5, deep_supervision=True, **depth,
        )  # fmt: skip
        weights = sum(p.numel() for p in made.parameters())
        return made

    kept = kept_for_backward(make, batch_size=2, channels=1, size=patch)
    # weight, gradient and momentum of SGD in float32; the copy in half precision is among what is kept
    tensors = kept + 3 * 4 * weights + 2 * prod(patch) * 2 * (model._WORKING_MAPS * 32 + 3)
    assert model._reserved(tensors) / GIB == pytest.approx(published_gb, rel=0.04)


def test_training_is_linear_in_the_batch() -> None:
    count = counted(3, [16, 32, 64], [32, 32, 32])
    two, three, four = (model.training_bytes(count, batch) for batch in (2, 3, 4))
    assert four - three == pytest.approx(three - two, abs=2)
    assert two - 2 * (three - two) == pytest.approx(model.OVERHEAD_BYTES + 1.08 * 22 * count.parameters, rel=1e-6)


def test_largest_batch_is_the_last_that_fits() -> None:
    count = counted(3, [32, 64, 128, 256], [64, 64, 64])
    for gpu_gb in (4, 8, 24, 80):
        batch = model.largest_batch(count, model.usable_bytes(gpu_gb))
        assert model.training_bytes(count, batch) <= 0.95 * gpu_gb * GIB < model.training_bytes(count, batch + 1)
    assert model.largest_batch(count, model.OVERHEAD_BYTES) == 0


def test_many_classes_make_the_loss_the_peak() -> None:
    few, many = (counted(3, [32, 64], [32, 32, 32], classes=n) for n in (2, 20))
    voxels = 32**3  # one resolution has logits
    assert model._sample_bytes(few) - few.kept_bytes == 2 * 2 * voxels + 3 * 2 * 32 * voxels
    assert model._sample_bytes(many) - many.kept_bytes == 20 * 32 * voxels


@pytest.mark.slow
@pytest.mark.parametrize(("features", "patch", "batch"), [([32, 64, 128], [32, 32, 32], 2), ([16, 32, 64, 128], [160, 128], 4)])
def test_a_real_step_on_the_cpu_takes_what_was_counted(features: list[int], patch: list[int], batch: int) -> None:
    """Float32, and the workspace of the CPU's convolutions, which is not in the model, on top."""
    script = Path(__file__).resolve().parents[1] / "support" / "training_step.py"
    dim = len(patch)
    settings = {"arch": arch(dim, features), "patch": patch, "batch": batch, "channels": 1, "classes": 3}
    done = subprocess.run([sys.executable, str(script), json.dumps(settings)], capture_output=True, text=True, check=True, timeout=300)
    count = counted(dim, features, patch, element_bytes=4)
    logits = 3 * count.supervised_voxels
    expected = 4 * count.parameters + batch * (count.kept_bytes + 4 * logits + model._WORKING_MAPS * count.finest_map_bytes)
    assert 0.65 < expected / int(done.stdout) < 1.2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_step_on_a_gpu_stays_within_the_estimate() -> None:
    features, patch = [32, 64, 128, 256, 320, 320], [96, 96, 96]
    kwargs = arch(3, features) | {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU, "deep_supervision": True}
    torch.cuda.reset_peak_memory_stats()
    network = TransASPPUNet(input_channels=1, num_classes=3, **kwargs).cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99, nesterov=True)
    for _ in range(2):  # from the second step on, there is momentum
        with torch.autocast("cuda"):
            outputs = network(torch.zeros(2, 1, *patch, device="cuda"))
            loss = sum(functional.cross_entropy(out, torch.zeros_like(out[:, 0], dtype=torch.long)) for out in outputs)
        torch.as_tensor(loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    estimate = model.training_bytes(counted(3, features, patch), 2)
    assert (estimate - model.OVERHEAD_BYTES) / 2 < torch.cuda.max_memory_reserved() <= estimate


# ---- evidence


def live_peak(dim: int, features: list[int], patch: list[int], num_samples: int) -> int:
    """The most bytes of tensors alive while the moments of a window are drawn; weights left out."""
    layers = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dim]
    heads = 4
    with pretended_gpu(), torch.device("cuda"), torch.no_grad():
        kwargs = arch(dim, features) | {"conv_op": layers[0], "norm_op": layers[1], "nonlin": nn.LeakyReLU}
        network = TransASPPUNet(input_channels=1, num_classes=heads, **kwargs).eval()
        x = torch.empty(1, 1, *patch)
        sampler = StochasticSampler(network, mirror_axes=range(dim), num_samples=num_samples, has_regions=False)
        with LiveBytes() as live:
            moments = torch.zeros(3 * heads, *patch)
            for probs in sampler.samples(x):
                add_sample(moments, probs[0])
        return live.peak


def add_sample(moments: Tensor, p: Tensor) -> None:
    heads = len(p)
    moments[:heads] += p
    moments[heads : 2 * heads].addcmul_(p, p)
    winner = p.argmax(0, keepdim=True)
    moments[2 * heads :].scatter_add_(0, winner, torch.ones_like(winner, dtype=torch.float32))


@pytest.mark.parametrize(("dim", "patch"), [(3, [64, 64, 64]), (2, [256, 256])])
def test_evidence_takes_the_same_memory_for_any_number_of_samples(dim: int, patch: list[int]) -> None:
    features = [32, 64, 128, 256, 256]
    few, many = (live_peak(dim, features, patch, k) for k in (8, 32))
    assert many == few
    count = counted(dim, features, patch, classes=4)
    window = model._window_bytes(count) + 2 * count.parameters
    assert window == pytest.approx(few, rel=0.1)


def test_evidence_of_a_large_image_is_its_sums() -> None:
    count = counted(3, [32, 64], [32, 32, 32], classes=4)
    small, large = (model.sampling_bytes(count, image_voxels=n, input_channels=2) for n in (0, 10**8))
    assert large - small == pytest.approx(1.08 * 10**8 * (4 * 12 + 4 + 2 * 4), rel=1e-6)
