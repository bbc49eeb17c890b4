"""One sliding-window sweep: moments and votes against sums written out voxel by voxel, with nnU-Net's windows and weights."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from tiny_setup import DATASET, PATCH, PLANS, Project, write_teacher
from torch import Tensor, nn

from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.networks.sampling import Draw
from nnunet_ssl.nnunet_api import evidence_predictor
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.stock_logits import StockLogits

CPU = torch.device("cpu")
IMAGE = torch.randn(1, 20, 24, 18, generator=torch.Generator().manual_seed(3))
"""Larger than the patch along every axis: 2 x 2 x 2 windows."""


def network(seed: int = 0, heads: int = 3) -> nn.Module:
    """A convolution whose kernels have no symmetry, so that every mirrored view gives another result."""
    torch.manual_seed(seed)
    net = nn.Conv3d(1, heads, 3, padding=1)
    nn.init.normal_(net.weight, std=0.4)
    return net.eval()


def predictor(setup: NnunetSetup, net: nn.Module, *, num_samples: int = 8, axes: Any = (0, 1, 2), **options: Any) -> EvidencePredictor:
    made = EvidencePredictor(num_samples=num_samples, device=CPU, **options)
    made.use_network(net, setup.plans_manager, setup.configuration_manager, None, setup.dataset_json, "nnUNetTrainer", axes)
    return made


def with_regions(setup: NnunetSetup) -> NnunetSetup:
    content = {**setup.dataset_json, "labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    return NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, setup.plans, content)


def views(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tuple(a + 2 for a in c) for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]


class ApartDraws(nn.Module):
    """Stands in for a network with dropout: draw n of a view has the logits of n classes further on, n + 1 times as large."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.plain = network(heads=heads)
        self._number = 0

    def of_draw(self, x: Tensor, number: int) -> Tensor:
        logits: Tensor = self.plain(x)
        return (number + 1) * logits.roll(number, dims=1)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, features: Tensor) -> Tensor:
        return self.of_draw(features, self._number)

    @contextlib.contextmanager
    def sampling(self, active: bool = True, *, generator: torch.Generator | None = None) -> Iterator[None]:
        self._number = self._number + 1 if active else 0
        yield


def windows(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    steps = compute_steps_for_sliding_window(shape, tuple(PATCH), 0.5)
    for start in itertools.product(*steps):
        yield tuple(slice(s, s + p) for s, p in zip(start, PATCH, strict=True))


@torch.no_grad()
def brute_force(*draws: Callable[[Tensor], Tensor], image: Tensor, axes: tuple[int, ...], regions: bool = False) -> tuple[np.ndarray, ...]:
    """M1, M2 and votes in float64: every window, view and draw, weighted as nnU-Net weighs windows."""
    gaussian = compute_gaussian(tuple(PATCH), sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=CPU).double().numpy()
    heads = draws[0](image[None, :, :16, :16, :16]).shape[1]
    sums = np.zeros((3, heads, *image.shape[1:]))
    weight = np.zeros(image.shape[1:])
    for window in windows(tuple(image.shape[1:])):
        x = image[(slice(None), *window)][None]
        for view, draw in itertools.product(views(axes), draws):
            logits = draw(x.flip(view)).flip(view)[0].double()
            p = (logits.sigmoid() if regions else logits.softmax(0)).numpy()
            chosen = p > 0.5 if regions else np.arange(heads).reshape(-1, 1, 1, 1) == p.argmax(0)
            for moment, value in enumerate((p, p**2, chosen)):
                sums[(moment, slice(None), *window)] += gaussian * value / len(views(axes)) / len(draws)
        weight[window] += gaussian
    return tuple(sums / weight)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2), (1,), None, ()])
def test_moments_and_votes_by_brute_force(project: Project, axes: Any) -> None:
    net = network()
    made = predictor(project.setup(), net, axes=axes)
    assert made.num_samples == 2 ** len(axes or ())
    swept = made.sweep(IMAGE)
    assert swept.dtype == torch.float32
    assert swept.shape == (9, 20, 24, 18)
    for found, expected in zip(swept.numpy().reshape(3, 3, 20, 24, 18), brute_force(net, image=IMAGE, axes=tuple(axes or ())), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    mean, second, votes = swept.reshape(3, 3, 20, 24, 18)
    assert torch.allclose(mean.sum(0), torch.ones(20, 24, 18), atol=1e-5)
    assert torch.allclose(votes.sum(0), torch.ones(20, 24, 18), atol=1e-5)
    assert float((second - mean.square()).min()) > -1e-6


def test_regions_vote_each_on_their_own(project: Project) -> None:
    net = network(heads=2)
    swept = predictor(with_regions(project.setup()), net).sweep(IMAGE)
    assert swept.shape == (6, 20, 24, 18)
    by_hand = brute_force(net, image=IMAGE, axes=(0, 1, 2), regions=True)
    for found, expected in zip(swept.numpy().reshape(2 + 1, 2, 20, 24, 18), by_hand, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("axes", [(0, 2), None])
@pytest.mark.parametrize("regions", [False, True])
def test_several_draws_of_a_view_by_brute_force(project: Project, axes: Any, regions: bool) -> None:
    """Every draw counts in the mean, the variance and the votes, not only the first one of a view."""
    setup, net = project.setup(), ApartDraws(2 if regions else 3)
    made = predictor(with_regions(setup) if regions else setup, net, num_samples=3 * len(views(tuple(axes or ()))), axes=axes)
    assert made.num_samples == 3 * len(views(tuple(axes or ())))
    draws = [functools.partial(net.of_draw, number=n) for n in range(3)]
    mean, second, votes = brute_force(*draws, image=IMAGE, axes=tuple(axes or ()), regions=regions)
    found = made.sweep(IMAGE).numpy().reshape(3, *mean.shape)
    np.testing.assert_allclose(found[0], mean, atol=2e-6)
    np.testing.assert_allclose(found[1] - found[0] ** 2, second - mean**2, atol=4e-6)
    np.testing.assert_allclose(found[2], votes, atol=2e-6)


@torch.no_grad()
def test_2d_configurations_are_swept_slice_by_slice(project: Project) -> None:
    setup = project.setup()
    flat = copy.deepcopy(setup.plans)
    flat["configurations"]["2d"]["patch_size"] = PATCH[:2]
    flat_setup = NnunetSetup(setup.dataset, setup.plans_name, "2d", flat, setup.dataset_json)
    torch.manual_seed(0)
    net = nn.Conv2d(1, 3, 3, padding=1).eval()
    image = IMAGE[:, :3]
    made = predictor(flat_setup, net, axes=(0, 1))
    assert made.num_samples == 4
    swept = made.sweep(image)
    assert swept.shape == (9, 3, 24, 18)
    gaussian = compute_gaussian(tuple(PATCH[:2]), sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=CPU)
    mean, weight = torch.zeros(3, 3, 24, 18), torch.zeros(24, 18)
    for window in itertools.product(
        *[[slice(s, s + 16) for s in steps] for steps in compute_steps_for_sliding_window((24, 18), (16, 16), 0.5)]
    ):
        weight[window] += gaussian
        for z, view in itertools.product(range(3), views((0, 1))):
            x = image[(slice(None), z, *window)][None]
            mean[(slice(None), z, *window)] += gaussian * net(x.flip(view)).softmax(1).flip(view)[0] / 4
    torch.testing.assert_close(swept[:3], mean / weight, atol=1e-5, rtol=0)


class MeanProbabilities(nnUNetPredictor):
    """nnU-Net's own sweep, but of probabilities instead of logits."""

    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        turned = [self.network(x.flip(view)).softmax(1).flip(view) for view in views((0, 1, 2))]
        return torch.stack(turned).mean(0)


@pytest.mark.parametrize("shape", [(20, 24, 18), (16, 16, 16), (10, 33, 12)])
def test_windows_are_the_stock_predictors(project: Project, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """Also for images that are smaller than the patch, which nnU-Net pads. Its sums, otherwise in half precision, are made exact."""
    monkeypatch.setattr("torch.half", torch.float32)
    exact = functools.partial(compute_gaussian, dtype=torch.float32)
    monkeypatch.setattr("nnunetv2.inference.predict_from_raw_data.compute_gaussian", exact)
    setup, net = project.setup(), network()
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    stock = MeanProbabilities(device=CPU, allow_tqdm=False)
    stock.manual_initialization(net, setup.plans_manager, setup.configuration_manager, None, setup.dataset_json, "nnUNetTrainer", (0, 1, 2))
    expected = stock.predict_sliding_window_return_logits(image).float()
    found = predictor(setup, net).sweep(image)
    assert found.shape == (9, *shape)
    np.testing.assert_allclose(found[:3], expected, atol=1e-5)


def test_k_is_the_number_of_views_for_networks_without_dropout(project: Project) -> None:
    made = predictor(project.setup(), network(), num_samples=32)
    assert (made.requested_samples, made.num_samples) == (32, 8)
    assert predictor(project.setup(), network(), use_mirroring=False).num_samples == 1


def test_dropout_draws_share_the_views(taught_project: Project) -> None:
    made = EvidencePredictor(num_samples=11, device=CPU)
    made.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [0])
    assert made.num_samples == 16
    torch.manual_seed(0)
    few = made.sweep(IMAGE)
    more = EvidencePredictor(num_samples=32, device=CPU)
    more.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [0])
    torch.manual_seed(0)
    many = more.sweep(IMAGE)
    assert few.shape == many.shape == (9, 20, 24, 18)
    assert torch.isfinite(few).all()
    assert not torch.equal(few, many)


def test_samples_are_not_kept(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with K: when a sample is drawn, none but the last is still alive."""
    made = predictor(project.setup(), network())
    sampler = made.sampler
    assert sampler is not None
    draws, alive = sampler.draws, []

    def watched(x: Tensor, **options: Any) -> Iterator[Draw]:
        seen: list[weakref.ref[Tensor]] = []
        for draw in draws(x, **options):
            seen.append(weakref.ref(draw.mirrored))
            alive.append(sum(ref() is not None for ref in seen))
            yield draw

    monkeypatch.setattr(sampler, "draws", watched)
    made.sweep(IMAGE[:, :16, :16, :16])
    assert len(alive) == 8
    assert max(alive) <= 2


def test_folds_are_averaged_by_their_sums(project: Project) -> None:
    setup, nets = project.setup(), [network(seed) for seed in (0, 1, 2)]
    parameters = [copy.deepcopy(net.state_dict()) for net in nets]
    made = EvidencePredictor(num_samples=8, device=CPU)
    made.use_network(
        network(7), setup.plans_manager, setup.configuration_manager, parameters, setup.dataset_json, "nnUNetTrainer", (0, 1, 2)
    )
    assert made.num_samples == 24
    found = made.sweep(IMAGE)
    alone = torch.stack([predictor(setup, net).sweep(IMAGE) for net in nets])
    torch.testing.assert_close(found, alone.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(made.sweep(IMAGE), found, atol=0, rtol=0)


def test_log_variance_where_one_pass_is_all_there_is(taught_project: Project) -> None:
    folder = taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres"
    made = EvidencePredictor(num_samples=1, device=CPU, use_mirroring=False)
    made.load_model(folder, [0])
    made.head_is_trained = True
    swept = made.sweep(IMAGE)
    assert swept.shape == (10, 20, 24, 18)
    assert float(swept[9].min()) >= np.log(1e-4) - 1e-4
    assert float(swept[9].max()) <= np.log(0.25) + 1e-4
    assert set(np.unique(np.round(swept[6:9].numpy(), 4))) >= {0.0, 1.0}


def test_a_head_that_never_learnt_says_nothing(taught_project: Project) -> None:
    folder = taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres"
    made = EvidencePredictor(num_samples=1, device=CPU, use_mirroring=False)
    made.load_model(folder, [0])
    assert not made.head_is_trained
    made.head_is_trained = True
    taught = made.sweep(IMAGE)
    made.head_is_trained = False
    swept = made.sweep(IMAGE)
    assert swept.shape == (9, 20, 24, 18)
    torch.testing.assert_close(swept, taught[:9])


def fail_in_the_third_window(made: EvidencePredictor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Let the predictor run out of memory once; returns the windows that it was asked for, which grow."""
    moments, calls = made._window_moments, list[Tensor]()

    def fails_once(x: Tensor) -> Any:
        calls.append(x)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return moments(x)

    monkeypatch.setattr(made, "_window_moments", fails_once)
    return calls


def test_out_of_memory_falls_back_as_in_nnunet(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    made = predictor(project.setup(), network())
    made.perform_everything_on_device = True  # as on a GPU; nnU-Net turns it off on a CPU
    expected = made.sweep(IMAGE)
    calls = fail_in_the_third_window(made, monkeypatch)
    assert torch.equal(made.sweep(IMAGE), expected)
    assert len(calls) == 3 + 8


def test_nothing_of_a_failed_attempt_stays_while_nnunet_tries_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the second attempt would start with the memory of the first one taken."""
    made = predictor(project.setup(), network())
    made.perform_everything_on_device = True
    moments, attempts, calls = made._window_moments, list[weakref.ref[StockLogits]](), itertools.count(1)

    def kept(**options: Any) -> StockLogits:
        attempts.append(weakref.ref(found := StockLogits(**options)))
        return found

    def fails_once(x: Tensor) -> Any:
        if (call := next(calls)) == 3:
            raise RuntimeError("out of memory")
        if call > 3:
            assert [attempt() is None for attempt in attempts] == [True, False]
        return moments(x)

    monkeypatch.setattr(evidence_predictor, "StockLogits", kept)
    monkeypatch.setattr(made, "_window_moments", fails_once)
    made.sweep_with_logits(IMAGE)
    assert next(calls) == 3 + 8 + 1


def test_draws_are_the_same_after_out_of_memory(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made = EvidencePredictor(num_samples=16, device=CPU)
    made.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [0])
    made.perform_everything_on_device = True
    expected = made.sweep(IMAGE, seed=3)
    calls = fail_in_the_third_window(made, monkeypatch)
    assert torch.equal(made.sweep(IMAGE, seed=3), expected)
    assert len(calls) == 3 + 8


def test_several_folds_of_a_network_that_nnunet_compiles(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `nnUNet_compile` nnU-Net wraps it, and its weights have other names."""
    folder = taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres"
    made, plain = (EvidencePredictor(num_samples=8, device=CPU) for _ in range(2))
    plain.load_model(folder, [0, 1])
    monkeypatch.setenv("nnUNet_compile", "true")
    made.load_model(folder, [0, 1])
    assert isinstance(made.network, torch._dynamo.OptimizedModule)
    assert torch.equal(made.sweep(IMAGE), plain.sweep(IMAGE))


def test_a_predictor_is_the_same_after_a_sweep_with_logits(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made = EvidencePredictor(num_samples=8, device=CPU)
    made.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [0])
    made.head_is_trained, expected = True, made.sweep(IMAGE)
    made.sweep_with_logits(IMAGE)
    assert made.head_is_trained
    with monkeypatch.context() as patch:
        patch.setattr(made, "_sweep_windows", lambda *_: (_ for _ in ()).throw(StateError("no")))
        with pytest.raises(StateError):
            made.sweep_with_logits(IMAGE)
    assert torch.equal(made.sweep(IMAGE), expected)


def test_predictor_without_model(project: Project) -> None:
    with pytest.raises(SetupError, match="call load_model first"):
        _ = EvidencePredictor(num_samples=8, device=CPU).num_samples


# ---- the logits that nnU-Net's labels are made of


def stock_logits(made: EvidencePredictor, image: Tensor) -> Tensor:
    """What `nnUNetv2_predict` computes with the same network and folds."""
    stock = nnUNetPredictor(device=CPU, allow_tqdm=False, use_mirroring=made.use_mirroring)
    parameters = made.list_of_parameters or [copy.deepcopy(made.network.state_dict())]
    stock.manual_initialization(
        copy.deepcopy(made.network),
        made.plans_manager,
        made.configuration_manager,
        parameters,
        made.dataset_json,
        "",
        made.allowed_mirroring_axes,
    )
    return stock.predict_logits_from_preprocessed_data(image)


@pytest.mark.parametrize(("samples", "mirroring", "folds"), [(8, True, [0, 1]), (16, True, [0]), (1, False, [0]), (3, False, [0, 1])])
def test_logits_are_nnunets_to_the_bit(taught_project: Project, samples: int, mirroring: bool, folds: list[int | str]) -> None:
    """Whatever is sampled besides, and in a single pass with the uncertainty head."""
    made = EvidencePredictor(num_samples=samples, device=CPU, use_mirroring=mirroring)
    made.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", folds)
    evidence, logits = made.sweep_with_logits(IMAGE, seed=5)
    assert logits.dtype == torch.half
    assert torch.equal(logits, stock_logits(made, IMAGE))
    assert len(evidence) == len(folds)
    for fold, found in zip(folds, evidence, strict=True):
        alone = EvidencePredictor(num_samples=samples, device=CPU, use_mirroring=mirroring)
        alone.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [fold])
        # on a CPU views go at once where no logits are asked for
        torch.testing.assert_close(found, alone.sweep(IMAGE, seed=5), rtol=1e-4, atol=1e-5)


def test_logits_of_regions_and_of_images_smaller_than_the_patch(project: Project) -> None:
    made = predictor(with_regions(project.setup()), network(heads=2), axes=(0, 2))
    small = IMAGE[:, :10, :, :12]
    evidence, logits = made.sweep_with_logits(small)
    assert evidence[0].shape == (6, 10, 24, 12)
    assert torch.equal(logits, stock_logits(made, small))


def test_logits_slice_by_slice(project: Project) -> None:
    setup = project.setup()
    flat = copy.deepcopy(setup.plans)
    flat["configurations"]["2d"]["patch_size"] = PATCH[:2]
    torch.manual_seed(0)
    net = nn.Conv2d(1, 3, 3, padding=1).eval()
    made = predictor(NnunetSetup(setup.dataset, setup.plans_name, "2d", flat, setup.dataset_json), net, axes=(0, 1))
    _, logits = made.sweep_with_logits(IMAGE[:, :3])
    assert torch.equal(logits, stock_logits(made, IMAGE[:, :3]))


def test_logits_beyond_half_precision(project: Project) -> None:
    net = network()
    with torch.no_grad():
        net.weight *= 1e5
    with pytest.raises(StateError, match="exceed half precision"):
        predictor(project.setup(), net).sweep_with_logits(IMAGE)
    assert torch.isfinite(predictor(project.setup(), net).sweep(IMAGE)).all()


def test_head_that_has_learnt(taught_project: Project) -> None:
    folder = taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres"
    made = EvidencePredictor(num_samples=8, device=CPU)
    made.load_model(folder, [0])
    assert not made.head_is_trained  # random weights
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    for losses, learnt in (([np.nan, np.nan], False), ([np.nan, -3.2], True)):
        checkpoint["logging"]["loss_uncertainty"] = losses
        torch.save(checkpoint, path)
        made.load_model(folder, [0])
        assert made.head_is_trained == learnt
        made.load_model(folder, [0, 1])
        assert not made.head_is_trained  # the other fold's has not


# ---- loading


def test_any_trained_model_can_be_loaded(project: Project) -> None:
    folder = write_teacher("nnUNetTrainer", plans="nnUNetPlans").parent
    made = EvidencePredictor(num_samples=32, device=CPU)
    made.load_model(folder, [0])
    assert type(made.network).__name__ == "PlainConvUNet"
    assert made.num_samples == 8
    stock = nnUNetPredictor(device=CPU)
    stock.initialize_from_trained_model_folder(str(folder), (0,))
    assert stock.allowed_mirroring_axes == made.allowed_mirroring_axes == (0, 1, 2)
    with torch.inference_mode():
        image = IMAGE[None, :, :16, :16, :16]
        stock.network.load_state_dict(stock.list_of_parameters[0])
        torch.testing.assert_close(made.network.eval()(image), stock.network.eval()(image))


def test_two_folds_are_loaded_together(taught_project: Project) -> None:
    made = EvidencePredictor(num_samples=8, device=CPU)
    made.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [0, 1])
    assert made.num_samples == 16
    assert len(made.list_of_parameters) == 2


def test_models_that_cannot_be_loaded(taught_project: Project) -> None:
    folder = taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres"
    made = EvidencePredictor(num_samples=8, device=CPU)
    with pytest.raises(SetupError, match=r"fold_3/checkpoint_final\.pth is missing"):
        made.load_model(folder, [0, 3])
    (folder / "fold_1" / "checkpoint_final.pth").write_bytes(b"damaged")
    with pytest.raises(StateError, match=r"checkpoint_final\.pth"):
        made.load_model(folder, [1])
    checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save({**checkpoint, "trainer_name": "NobodysTrainer"}, folder / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(SetupError, match="no trainer class 'NobodysTrainer'"):
        made.load_model(folder, [1])
    weights = {k: v for k, v in checkpoint["network_weights"].items() if "uncertainty" not in k}
    torch.save({**checkpoint, "network_weights": weights}, folder / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(SetupError, match="do not fit the network"):
        made.load_model(folder, [1])


def test_image_without_windows_is_an_error_of_ours(project: Project) -> None:
    made = predictor(project.setup(), network())
    with pytest.raises(SetupError, match="no sliding windows"):
        made._internal_predict_sliding_window_return_logits(IMAGE, [])


def test_loading_says_nothing_on_stdout(taught_project: Project, capfd: Any) -> None:
    made = EvidencePredictor(num_samples=8, device=CPU)
    made.load_model(taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres", [0])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_make_no_labels(value: float) -> None:
    """A class that is NaN would never win, and nothing would say so."""
    stock = StockLogits(heads=2, image_size=(4, 4, 4), patch_size=(4, 4, 4), device=CPU)
    logits = torch.zeros(2, 4, 4, 4, dtype=torch.half)
    logits[1, 0, 0, 0] = value
    stock.add(logits, (slice(None),) * 4)
    with pytest.raises(StateError, match="logits are NaN or exceed half precision"):
        stock.mean()
