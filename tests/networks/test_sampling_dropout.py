import pytest
import torch

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks.sampling_dropout import SamplingDropout

ONES = torch.ones(4, 64, 3, 3)


@pytest.mark.parametrize(
    ("training", "sampling", "drops"),
    [(False, None, False), (True, None, True), (False, True, True), (True, True, True), (True, False, False), (False, False, False)],
)
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_when_it_drops(training, sampling, drops, generator):
    dropout = SamplingDropout(rate=0.5).train(training)
    dropout.sampling, dropout.generator = sampling, generator
    assert bool((dropout(ONES) == 0).any()) is drops


@pytest.mark.parametrize("generator", [None, torch.Generator()])
@pytest.mark.parametrize("channelwise", [True, False])
def test_keeps_the_mean_and_drops_the_rate(channelwise, generator):
    dropout = SamplingDropout(rate=0.25, channelwise=channelwise)
    dropout.generator = generator
    out = dropout(torch.ones(64, 64, 3, 3))
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert (out.flatten(2).std(dim=2).max() == 0).item() is channelwise


def test_a_generator_repeats_itself():
    dropout = SamplingDropout(rate=0.5)
    draws = []
    for _ in range(2):
        dropout.generator = torch.Generator().manual_seed(3)
        draws.append((dropout(ONES), dropout(ONES)))
    torch.testing.assert_close(draws[0], draws[1])
    assert not torch.equal(draws[0][0], draws[0][1])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_refuses_a_rate(rate):
    with pytest.raises(ConfigError, match="decoder_dropout"):
        SamplingDropout(rate=rate)
