import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunet_ssl.networks import StochasticSampler, has_uncertainty_head, mirror_views, single_pass, unwrap


class Fixed(nn.Module):
    """Gives the same logits for any image: nothing equivariant about it."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        logits = self.logits.expand(len(x), *self.logits.shape[1:])
        return [logits, logits[..., ::2, ::2]]


def stock_network() -> PlainConvUNet:
    return PlainConvUNet(
        2, 2, [4, 8], nn.Conv2d, 3, [1, 2], 1, 3, 1, norm_op=nn.InstanceNorm2d, nonlin=nn.LeakyReLU, deep_supervision=True
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "views"),
    [
        (None, ((),)),
        ((), ((),)),
        ((1,), ((), (1,))),
        ((0, 1), ((), (0,), (1,), (0, 1))),
        ((0, 1, 2), ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))),
    ],
)
def test_mirror_views(axes, views):
    assert mirror_views(axes) == views


@pytest.mark.parametrize(
    ("axes", "wanted", "drawn"), [(None, 5, 5), ((0, 1), 1, 4), ((0, 1), 4, 4), ((0, 1), 5, 8), ((0,), 6, 6), ((0, 1), 32, 32)]
)
def test_number_of_samples(build, axes, wanted, drawn):
    network, x = build("2d")
    sampler = StochasticSampler(network.eval(), mirror_axes=axes, num_samples=wanted, has_regions=False)
    assert sampler.num_samples == drawn
    with torch.inference_mode():
        assert sum(1 for _ in sampler.samples(x)) == drawn


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("regions", [True, False])
def test_first_sample_is_the_plain_prediction(build, training, regions):
    network, x = build("2d", deep_supervision=True)
    logits = network.eval()(x)[0]
    expected = logits.sigmoid() if regions else logits.softmax(dim=1)
    sampler = StochasticSampler(network.train(training), mirror_axes=(0, 1), num_samples=8, has_regions=regions)
    first, second = [sample for sample, _ in zip(sampler.samples(x), range(2), strict=False)]
    torch.testing.assert_close(first, expected)
    assert first.dtype is torch.float32
    assert (first - second).abs().max() > 1e-4


def test_unmirroring_is_exact_for_an_equivariant_network():
    network, x = nn.Conv3d(2, 3, 1), torch.randn(1, 2, 3, 4, 5)
    sampler = StochasticSampler(network, mirror_axes=(0, 1, 2), num_samples=1, has_regions=False)
    samples = list(sampler.samples(x))
    assert len(samples) == 8
    for sample in samples:
        torch.testing.assert_close(sample, network(x).softmax(dim=1))


def test_each_view_is_turned_back_along_its_own_axes():
    logits = torch.randn(1, 2, 4, 6)
    sampler = StochasticSampler(Fixed(logits), mirror_axes=(0, 1), num_samples=4, has_regions=True)
    probs = logits.sigmoid()
    expected = [probs, probs.flip(2), probs.flip(3), probs.flip(2, 3)]
    for sample, view in zip(sampler.samples(torch.zeros(1, 1, 4, 6)), expected, strict=True):
        assert torch.equal(sample, view)


@pytest.mark.parametrize("wanted", [1, 16])
def test_stock_network_has_as_many_samples_as_views(wanted):
    sampler = StochasticSampler(stock_network(), mirror_axes=(0, 1), num_samples=wanted, has_regions=False)
    assert sampler.num_samples == 4
    assert len(list(sampler.samples(torch.randn(1, 2, 8, 8)))) == 4


@pytest.mark.parametrize("views_at_once", [1, 2, 3, 8])
def test_views_that_go_at_once_are_each_what_they_are_alone(build, monkeypatch, views_at_once):
    monkeypatch.setattr("nnunet_ssl.networks.sampling.VIEWS_AT_ONCE_ON_CPU", views_at_once)
    network, x = build("3d")
    network.eval()
    batches = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    sampler = StochasticSampler(network, mirror_axes=(0, 1, 2), num_samples=8, has_regions=False)
    draws = list(sampler.draws(x))
    assert batches == [len(x) * min(views_at_once, 8 - first) for first in range(0, 8, views_at_once)]
    assert [draw.axes for draw in draws] == [tuple(axis + 2 for axis in view) for view in sampler.views]
    for draw in draws:
        torch.testing.assert_close(draw.logits, network(x.flip(draw.axes)).flip(draw.axes), rtol=1e-4, atol=1e-5)


def test_without_dropout_there_is_one_draw_per_view(build):
    network, _ = build("2d", decoder_dropout=0.0)
    assert StochasticSampler(network, mirror_axes=(0,), num_samples=16, has_regions=False).num_samples == 2


def test_views_share_one_encoder_pass_and_nothing_is_drawn_ahead(build):
    network, x = build("2d")
    calls = []
    network.encoder.register_forward_hook(lambda *_: calls.append("encode"))
    network.decoder.register_forward_hook(lambda *_: calls.append("decode"))
    sampler = StochasticSampler(network.eval(), mirror_axes=(1,), num_samples=6, has_regions=False)
    samples = sampler.samples(x)
    next(samples)
    assert calls == ["encode", "decode"]
    assert len(list(samples)) == 5
    assert calls == ["encode", "decode", "decode", "decode"] * 2


def test_nothing_stays_switched_between_samples(build):
    network, x = build("2d")
    plain = network.eval()(x)
    samples = StochasticSampler(network, mirror_axes=None, num_samples=4, has_regions=False).samples(x)
    next(samples)
    next(samples)
    assert torch.equal(network(x), plain)


def test_a_generator_repeats_the_samples(build):
    network, x = build("2d")
    sampler = StochasticSampler(network.eval(), mirror_axes=(0,), num_samples=6, has_regions=False)
    first, second, other = (list(sampler.samples(x, generator=torch.Generator().manual_seed(seed))) for seed in (5, 5, 6))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[1], other[1])


def test_gradients_are_the_callers_affair(build):
    network, x = build("2d")
    sampler = StochasticSampler(network, mirror_axes=None, num_samples=2, has_regions=False)
    assert all(sample.requires_grad for sample in sampler.samples(x))


def test_wrappers_are_taken_off(build):
    network, x = build("2d")
    compiled = torch.compile(network, backend="eager")
    assert unwrap(compiled) is network
    assert unwrap(nn.DataParallel(compiled)) is network
    assert StochasticSampler(compiled, mirror_axes=None, num_samples=4, has_regions=False).num_samples == 4
    assert single_pass(compiled, x)[1].shape == (2, 1, *x.shape[2:])
    assert has_uncertainty_head(compiled)


def test_single_pass(build):
    network, x = build("2d")
    logits, log_variance = network.eval().decode_with_uncertainty(network.encode(x))
    network.train()  # dropout stays off all the same
    for found, expected in zip(single_pass(network, x), (logits, log_variance), strict=True):
        torch.testing.assert_close(found, expected)


def test_single_pass_of_a_network_without_head():
    network, x = stock_network(), torch.randn(1, 2, 8, 8)
    logits, log_variance = single_pass(network, x)
    torch.testing.assert_close(logits, network(x)[0])
    assert log_variance is None
    assert not has_uncertainty_head(network)


def test_draws_tell_the_mirrored_passes_from_dropout(build):
    network, x = build("2d")
    network.eval()
    sampler = StochasticSampler(network, mirror_axes=(0, 1), num_samples=8, has_regions=False)
    generator = torch.Generator().manual_seed(0)
    draws = list(sampler.draws(x, generator=generator))
    assert [draw.is_plain for draw in draws] == [True, False] * 4
    for draw, axes in zip(draws[::2], [(), (2,), (3,), (2, 3)], strict=True):
        torch.testing.assert_close(draw.logits, network(x.flip(axes)).flip(axes))
    samples = sampler.samples(x, generator=generator.manual_seed(0))
    for draw, probs in zip(draws, samples, strict=True):
        assert torch.equal(sampler.probabilities(draw), probs)
