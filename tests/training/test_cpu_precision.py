"""Mixed precision on the CPU: where it applies, what stays in float32, and who gets it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ssl.training import cpu_precision, phased_trainer
from nnunet_ssl.training.cpu_precision import computes_in_bfloat16, use_bfloat16
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.student import TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer


class TwoScales(nn.Module):
    """Remembers the type that its convolution computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.seen: list[torch.dtype] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.convolution(images)
        self.seen.append(features.dtype)
        return [features, features[..., ::2, ::2]]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_only_the_forward_pass_of_a_training_network_is_in_bfloat16(images: Tensor) -> None:
    network = TwoScales()
    plain = network(images)
    use_bfloat16(network)
    fine, coarse = network(images)
    assert network.seen == [torch.float32, torch.bfloat16]
    assert (fine.dtype, coarse.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(fine, plain[0])
    torch.testing.assert_close(fine, plain[0], rtol=2e-2, atol=2e-2)
    fine.sum().backward()
    assert network.convolution.weight.grad is not None
    assert network.convolution.weight.grad.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        assert torch.equal(network.eval()(images)[0], plain[0])


def test_a_single_output_is_float32_too(images: Tensor) -> None:
    network = nn.Conv2d(1, 2, 3)
    use_bfloat16(network)
    assert network(images).dtype == torch.float32


def test_an_error_in_the_forward_pass_closes_autocast(images: Tensor) -> None:
    network = TwoScales()
    use_bfloat16(network)
    with pytest.raises(RuntimeError, match="channels"):
        network(images.expand(2, 3, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    network(images)
    assert not torch.is_autocast_enabled("cpu")


def test_a_copy_computes_with_its_own_weights(images: Tensor) -> None:
    network = TwoScales()
    use_bfloat16(network)
    other = copy.deepcopy(network)
    nn.init.zeros_(other.convolution.weight)
    nn.init.zeros_(other.convolution.bias)
    assert not other(images)[0].any()
    assert network(images)[0].any()
    assert other.seen == [torch.bfloat16]


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)])
def test_capabilities(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_in_bfloat16() is expected


def test_a_pytorch_that_cannot_say_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_in_bfloat16()


@pytest.mark.parametrize("part", ["teacher", "student"])
@pytest.mark.parametrize(("asked", "capable", "expected"), [("bfloat16", True, True), ("bfloat16", False, False), ("float32", True, False)])
def test_trainers_use_what_the_plans_ask_for(
    tiny: Any, short: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, part: str, asked: str, capable: bool, expected: bool
) -> None:
    asked_of: list[nn.Module] = []
    monkeypatch.setattr(phased_trainer, "computes_in_bfloat16", lambda: capable)
    monkeypatch.setattr(phased_trainer, "use_bfloat16", lambda network: asked_of.append(network))
    settings = short(**{part: {"cpu_precision": asked}})
    if part == "teacher":
        trainer = tiny.trainer(TransASPPTeacherTrainer, "Dataset137_Tiny", settings=settings)
    else:
        trainer = tiny.trainer(TransASPPStudentTrainer, settings=settings)
    said: list[str] = []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *text, **_: said.append(" ".join(map(str, text))))
    trainer.initialize()
    assert asked_of == ([trainer.network] if expected else [])
    assert any("no instructions for bfloat16" in line for line in said) is (asked == "bfloat16" and not capable)


def test_both_networks_of_cross_pseudo_supervision_get_it(
    tiny: Any, short: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_of: list[nn.Module] = []
    monkeypatch.setattr(phased_trainer, "computes_in_bfloat16", lambda: True)
    monkeypatch.setattr(phased_trainer, "use_bfloat16", lambda network: asked_of.append(network))
    trainer = tiny.trainer(CrossPseudoSupervisionTrainer, settings=short(student={"cpu_precision": "bfloat16"}))
    trainer.initialize()
    assert asked_of == [trainer.network, trainer.second.network]


def test_module_names_what_the_check_reads() -> None:
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        if known.get("architecture") == "x86_64":
            assert set(cpu_precision.CAPABILITIES) <= set(known)
