import copy
import pickle
from math import prod

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.networks import TransASPPUNet

ALL_SHAPES = ["2d", "3d", "anisotropic", "two_stages"]


@pytest.mark.parametrize("shape", ALL_SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_follow_nnunets_scales(build, settings, shape, training):
    network, x = build(shape, deep_supervision=True)
    outputs = network.train(training)(x)
    strides = settings(shape)["strides"]
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]  # nnUNetTrainer._get_deep_supervision_scales
    assert [tuple(out.shape) for out in outputs] == [(2, 3, *(np.array(x.shape[2:]) * scale).astype(int)) for scale in scales]
    network.decoder.deep_supervision = False
    assert network(x).shape == (2, 3, *x.shape[2:])


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_deep_supervision_leaves_the_finest_output_alone(build, shape):
    network, x = build(shape, deep_supervision=True)
    finest = network.eval()(x)[0]
    network.decoder.deep_supervision = False
    torch.testing.assert_close(network(x), finest)
    logits, log_variance = network.decode_with_uncertainty(network.encode(x))
    torch.testing.assert_close(logits, finest)
    assert log_variance.shape == (2, 1, *x.shape[2:])


def test_one_number_per_setting_is_spread_over_stages_and_axes(build):
    network, x = build(
        "2d", features_per_stage=8, kernel_sizes=3, strides=[1, 2, 2], n_blocks_per_stage=2, n_conv_per_stage_decoder=2, norm_op=None
    )
    assert network(x).shape == (2, 3, *x.shape[2:])


def test_one_uncertainty_channel_per_region(build):
    network, x = build("2d", num_uncertainty_channels=3)
    assert network.decode_with_uncertainty(network.encode(x))[1].shape == (2, 3, *x.shape[2:])


@pytest.mark.parametrize("shape", ["2d", "anisotropic"])
def test_gradient_reaches_every_parameter(build, shape):
    # without biases of convolutions, which the norms behind them subtract again
    network, x = build(shape, deep_supervision=True, conv_bias=False, transformer_blocks=2)
    network.eval()
    sum((out * torch.randn_like(out)).sum() for out in network(x)).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    assert without == {name for name, _ in network.named_parameters() if name.startswith("uncertainty_head.")}
    weak = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() < 1e-4]
    assert not weak


def test_log_variance_trains_its_head_alone(build):
    network, x = build("3d")
    network.decode_with_uncertainty(network.encode(x))[1].sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in network.named_parameters() if name.startswith("uncertainty_head.")}
    assert all(p.grad.abs().max() > 0 for p in network.uncertainty_head.parameters())


def test_log_variance_trains_the_trunk_when_asked(build):
    network, x = build("2d")
    network.decode_with_uncertainty(network.encode(x), detach=False)[1].sum().backward()
    assert network.encoder.stem.conv.weight.grad is not None


def test_dropout_is_the_only_randomness_and_lies_behind_encode(build):
    network, x = build("3d", dropout_op=nn.Dropout3d, dropout_op_kwargs={"p": 0.3})
    for training in (True, False):
        network.train(training)
        torch.testing.assert_close(network.encode(x), network.encode(x), rtol=0, atol=0)
    features = network.encode(x)
    network.eval()
    plain = network.decode(features)
    assert torch.equal(plain, network.decode(features))
    with network.sampling():
        assert not torch.equal(network.decode(features), network.decode(features))
    network.train()
    assert not torch.equal(network.decode(features), network.decode(features))
    with network.sampling(False):
        torch.testing.assert_close(network.decode(features), plain)


def test_sampling_restores_itself(build):
    network, x = build("2d")
    features = network.eval().encode(x)
    plain = network.decode(features)
    with network.sampling(generator=torch.Generator()), network.sampling(False):
        assert torch.equal(network.decode(features), plain)
    with pytest.raises(KeyError), network.sampling():
        raise KeyError
    assert torch.equal(network.decode(features), plain)
    assert not network.training


def test_dropout_sits_in_the_coarser_half(build):
    network, _ = build("anisotropic", decoder_dropout=0.4)
    assert [stage.dropout.rate for stage in network.decoder.stages] == [0.4, 0.4, 0.0]
    network, _ = build("two_stages")
    assert [stage.dropout.rate for stage in network.decoder.stages] == [0.2]
    network, _ = build("2d", dropout_op=nn.Dropout, dropout_op_kwargs={"p": 0.1, "inplace": True})
    assert network.decoder_dropout == 0.1
    assert not network.decoder.stages[0].dropout.channelwise


def test_state_dict_fits_whether_deep_supervision_is_on_or_off(build):
    source, x = build("2d", deep_supervision=True)
    target, _ = build("2d", deep_supervision=False)
    target.load_state_dict(source.state_dict(), strict=True)
    torch.testing.assert_close(target.eval()(x), source.eval()(x)[0])


def test_pretrained_weights_fit_another_number_of_classes(build, tmp_path, capsys):
    source, x = build("2d", num_classes=3)
    target, _ = build("2d", num_classes=5)
    torch.save({"network_weights": source.state_dict()}, tmp_path / "checkpoint.pth")
    load_pretrained_weights(target, tmp_path / "checkpoint.pth")
    torch.testing.assert_close(target.encode(x), source.encode(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_can_be_copied_and_pickled(build, duplicate):
    network, x = build("3d")
    network.eval()
    torch.testing.assert_close(duplicate(network)(x), network(x))


def test_feature_map_size_by_hand(settings):
    network = TransASPPUNet(
        **settings("2d", n_stages=2, features_per_stage=[4, 8], kernel_sizes=3, strides=[1, 2], n_blocks_per_stage=1)
        | {"n_conv_per_stage_decoder": 1}
    )
    fine, coarse = 8 * 8, 4 * 4
    encoder = 3 * 4 * fine + (4 + 4) + 3 * 8 * coarse + (4 + 8)  # stem and block; block with shortcut; squeeze-excitations
    aspp = 3 * 8 * coarse + 8 * coarse + (8 + 8)  # three branches, projection, image level
    transformer = (1 + 3 + 1 + 4 + 1) * 8 * coarse  # positions, query-key-value, output, feed-forward
    decoder = 4 * fine + (2 + 2 + 1) * coarse + 4 * fine + 3 * fine  # upsampling, gate, convolution, logits
    assert network.compute_conv_feature_map_size((8, 8)) == encoder + aspp + transformer + decoder
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_initialize(build):
    network, x = build("3d", deep_supervision=True)
    network.apply(network.initialize)
    assert all(torch.isfinite(out).all() for out in network(x))
    log_variance = network.decode_with_uncertainty(network.encode(x))[1]
    assert log_variance.exp().mean().item() == pytest.approx(0.01, rel=0.1)  # initialize must not wipe the head's own start
    assert all((stage[-1].conv2.norm.weight == 1).all() for stage in network.encoder.stages)  # residual blocks start at full strength


@pytest.mark.slow
def test_compiles_in_one_graph(build):
    network, x = build("anisotropic", deep_supervision=True)
    network.eval()
    expected = network(x)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    network.train()
    assert [out.shape for out in compiled(x)] == [out.shape for out in expected]


@pytest.mark.slow
def test_learns(build):
    network, _ = build("2d", input_channels=1, num_classes=2, deep_supervision=False)
    network.apply(network.initialize)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9, nesterov=True)
    for _ in range(40):
        centre = torch.rand(4, 2, 1, 1) * torch.tensor([24.0, 16.0]).reshape(2, 1, 1)
        grid = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="ij"))
        labels = (((grid - centre) ** 2).sum(dim=1) < 25).long()
        logits = network(labels[:, None] + 0.5 * torch.randn(4, 1, 24, 16))
        loss = nn.functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.25


def test_says_which_sizes_fit(build):
    network, _ = build("anisotropic")
    assert network.divisor == (2, 8, 8)
    with pytest.raises(ValueError, match=r"\(4, 32, 12\).*\(2, 8, 8\)"):
        network(torch.zeros(1, 2, 4, 32, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_stages": 1}, "n_stages"),
        ({"features_per_stage": [8, 8]}, "features_per_stage has 2 entries, expected 3"),
        ({"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}, "strides"),
        ({"n_conv_per_stage_decoder": [1, 1, 1]}, "n_conv_per_stage_decoder"),
        ({"decoder_dropout": 1.0}, "decoder_dropout"),
        ({"attention_heads": 3}, "attention_heads"),
    ],
)
def test_refuses_settings(settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        TransASPPUNet(**settings("2d", **changes))


def test_the_two_dilations_of_the_default_fit_nnunets_smallest_map(build):
    network, x = build("3d")
    assert [size // divisor for size, divisor in zip(x.shape[2:], network.divisor, strict=True)] == [4, 4, 2]
    assert network.aspp.dilations == ((1, 1, 1), (2, 2, 2))
    assert prod(network.divisor) == 64
