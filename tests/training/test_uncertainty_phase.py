from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nnunet_ssl.networks import StochasticSampler, TransASPPUNet
from nnunet_ssl.training.plain_patches import CaseUnion
from nnunet_ssl.training.uncertainty_phase import UncertaintyDistillation, sample_variance


class Listed:
    """A sampler with given samples."""

    def __init__(self, samples: list[torch.Tensor], has_regions: bool) -> None:
        self._samples, self.num_samples, self.has_regions = samples, len(samples), has_regions

    def samples(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        yield from (s.clone() for s in self._samples)


def test_variance_of_the_predicted_class_by_hand() -> None:
    # two pixels; samples of p(foreground) 0.9 / 0.7 (foreground wins) and 0.2 / 0.4 (background wins, no sample says foreground)
    foreground = torch.tensor([[[[0.9, 0.2]]], [[[0.7, 0.4]]]])
    samples: Any = Listed([torch.cat([1 - f, f])[None] for f in foreground], has_regions=False)
    variance, found = sample_variance(samples, torch.zeros(1, 1, 1, 2))
    torch.testing.assert_close(variance.flatten(), torch.tensor([0.01, 0.01]))
    assert found.flatten().tolist() == [True, False]


def test_mean_variance_over_regions_by_hand() -> None:
    samples: Any = Listed([torch.tensor([0.6, 0.0]).view(1, 2, 1, 1), torch.tensor([0.2, 0.0]).view(1, 2, 1, 1)], has_regions=True)
    variance, found = sample_variance(samples, torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(variance.flatten(), torch.tensor([0.02]))
    assert found.item()


def test_variance_of_each_region_by_hand() -> None:
    samples: Any = Listed([torch.tensor([0.6, 0.0]).view(1, 2, 1, 1), torch.tensor([0.2, 0.0]).view(1, 2, 1, 1)], has_regions=True)
    variance, found = sample_variance(samples, torch.zeros(1, 1, 1, 1), num_channels=2)
    torch.testing.assert_close(variance.flatten(), torch.tensor([0.04, 0.0]))
    assert found.flatten().tolist() == [True, True]  # the band is that of all regions together


def network(**options: Any) -> TransASPPUNet:
    torch.manual_seed(0)
    return TransASPPUNet(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 8, 8],
        conv_op=torch.nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        n_blocks_per_stage=1,
        num_classes=2,
        n_conv_per_stage_decoder=1,
        norm_op=torch.nn.InstanceNorm2d,
        nonlin=torch.nn.ReLU,
        deep_supervision=True,
        decoder_dropout=0.5,
        **options,
    )


def test_a_head_with_a_channel_a_region_learns_each() -> None:
    net = network(num_uncertainty_channels=2).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    here = torch.zeros(2, 1, 2, 16, 16)
    here[:, :, 0] = torch.tensor([0.1, 0.9]).view(2, 1, 1, 1)  # samples differ in the first region alone
    samples: Any = Listed(list(here), has_regions=True)
    phase = UncertaintyDistillation(net, sampler=samples, kind="variance", optimizer=optimizer, grad_scaler=None)
    images = torch.randn(1, 1, 16, 16)
    for _ in range(30):
        phase.step(images)
    with torch.no_grad(), net.sampling(False):
        log_variance = net.eval().decode_with_uncertainty(net.encode(images))[1][0]
    assert log_variance[0].mean() > log_variance[1].mean() + 0.5


def test_the_head_learns_and_nothing_else_moves() -> None:
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)
    sampler = StochasticSampler(net, mirror_axes=(0, 1), num_samples=8, has_regions=False)
    phase = UncertaintyDistillation(net, sampler=sampler, kind="variance", optimizer=optimizer, grad_scaler=None)
    images = torch.randn(2, 1, 16, 16)
    losses = [phase.step(images) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    after = net.state_dict()
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"uncertainty_head"}
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(p.grad is None for name, p in net.named_parameters() if not name.startswith("uncertainty_head"))


def test_half_of_the_loss_is_that_of_the_foreground_and_what_surrounds_it() -> None:
    """Samples differ within a corner of 4 x 4 of 16 x 16 pixels: foreground in the corner's own pixel, and three pixels around it."""
    foreground = torch.zeros(2, 1, 16, 16)
    foreground[0, 0, :4, :4], foreground[1, 0, :4, :4] = 0.1, 0.3
    foreground[0, 0, 0, 0], foreground[1, 0, 0, 0] = 0.7, 0.9
    samples: Any = Listed([torch.cat([1 - f, f])[None] for f in foreground], has_regions=False)
    net, images = network(), torch.randn(1, 1, 16, 16)
    with torch.no_grad(), net.sampling(False):
        log_variance = net.eval().decode_with_uncertainty(net.encode(images))[1][0, 0]
    losses = 0.01 * torch.exp(-log_variance[:4, :4]) + log_variance[:4, :4]
    around = torch.cat([log_variance[:4, 4:].flatten(), log_variance[4:].flatten()])  # of a variance of 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    phase = UncertaintyDistillation(net, sampler=samples, kind="variance", optimizer=optimizer, grad_scaler=None)
    assert phase.step(images) == pytest.approx(float(losses.mean() + around.mean()) / 2, abs=1e-5)


def test_the_trunk_thaws_after_an_error() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    phase = UncertaintyDistillation(
        net,
        sampler=StochasticSampler(net, mirror_axes=None, num_samples=2, has_regions=False),
        kind="unknown",
        optimizer=optimizer,
        grad_scaler=None,
    )
    with pytest.raises(Exception, match="unknown"):
        phase.step(torch.randn(1, 1, 16, 16))
    assert all(p.requires_grad for p in net.parameters())


def test_cases_without_class_locations_are_cropped_anywhere() -> None:
    class Plain:
        def __init__(self, *identifiers: str) -> None:
            self.identifiers = identifiers

        def load_case(self, identifier: str) -> tuple[Any, ...]:
            return torch.zeros(1, 3, 4, 5), identifier, None, {} if identifier == "p" else {"class_locations": {1: [[0, 0, 0, 0]]}}

    union = CaseUnion([Plain("b", "a"), Plain("p")], annotated_key=(-1, 0, 1))
    assert union.identifiers == ["a", "b", "p"]
    locations = union["p"][3]["class_locations"]
    assert list(locations) == [(-1, 0, 1)]
    assert (locations[-1, 0, 1] < [[1, 3, 4, 5]]).all()
    assert 1 in union["a"][3]["class_locations"]
    assert CaseUnion([Plain("p")], annotated_key=None)["p"][3]["class_locations"] == {}
