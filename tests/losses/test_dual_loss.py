"""DualPoolLoss: which voxels are high and low, how they are normalised, and what is reported."""

import math
from typing import Any

import pytest
import torch

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses import DualPoolLoss, DualTerms

SETTINGS: dict[str, Any] = {
    "mode": "paper",
    "targets": "hard",
    "normalisation": "joint",
    "confidence_weighting": False,
    "overlap": False,
    "tau": 0.7,
    "has_regions": False,
    "batch_dice": False,
}


def make(**changes: Any) -> DualPoolLoss:
    return DualPoolLoss(**{**SETTINGS, **changes})


def softmax_patch() -> dict[str, Any]:
    """Four voxels, two classes, P(class 1) = 0.9, 0.8, 0.6, 0.4; the last is not valid and carries an ignore label."""
    p = torch.tensor([0.9, 0.8, 0.6, 0.4])
    return {
        "logits": torch.stack([1 - p, p]).log().view(1, 2, 4).requires_grad_(),
        "labels": torch.tensor([[1, 1, 0, -1]]),
        "confidence": torch.tensor([0.9, 0.7, 0.5, 1.0]).view(1, 1, 4),
        "q": torch.tensor([[0.1, 0.3, 0.5, 0.0], [0.9, 0.7, 0.5, 0.0]]).view(1, 2, 4),
        "valid": torch.tensor([True, True, True, False]).view(1, 1, 4),
    }


def run(loss: DualPoolLoss, patch: dict[str, Any]) -> DualTerms:
    terms: DualTerms = loss(**patch)
    return terms


CE = [-math.log(0.9), -math.log(0.8), -math.log(0.4)]


def test_joint_normalisation_divides_by_both_sets() -> None:
    terms = run(make(), softmax_patch())
    assert terms.high.item() == pytest.approx((CE[0] + CE[1]) / 3, rel=1e-5)
    assert terms.low.item() == pytest.approx(-CE[2] / 3, rel=1e-5)
    assert (terms.n_high.item(), terms.n_low.item()) == (2, 1)
    assert terms.share_confident.item() == pytest.approx(2 / 3)
    torch.testing.assert_close(terms.share_per_class, torch.tensor([0.0, 1.0]))


def test_separate_normalisation_divides_each_by_its_own_count() -> None:
    terms = run(make(normalisation="separate"), softmax_patch())
    assert terms.high.item() == pytest.approx((CE[0] + CE[1]) / 2, rel=1e-5)
    assert terms.low.item() == pytest.approx(-CE[2], rel=1e-5)


def test_confidence_weighs_high_voxels_only() -> None:
    terms = run(make(confidence_weighting=True), softmax_patch())
    assert terms.high.item() == pytest.approx((0.9 * CE[0] + 0.7 * CE[1]) / 3, rel=1e-5)
    assert terms.low.item() == pytest.approx(-CE[2] / 3, rel=1e-5)


def test_soft_targets_have_gradient_p_minus_q_in_both_terms() -> None:
    patch = softmax_patch()
    terms = run(make(targets="soft", mode="soft"), patch)
    (gradient,) = torch.autograd.grad(terms.high + terms.low, patch["logits"])
    p = patch["logits"].detach().softmax(1)
    expected = torch.where(patch["valid"], p - patch["q"], 0.0) / 3
    torch.testing.assert_close(gradient, expected)


def test_probabilities_are_normalised_again() -> None:
    exact, scaled = softmax_patch(), softmax_patch()
    scaled["q"] = scaled["q"] * 0.9
    loss = make(targets="soft", mode="soft")
    torch.testing.assert_close(run(loss, exact).high, run(loss, scaled).high)
    torch.testing.assert_close(run(loss, exact).low, run(loss, scaled).low)


def test_overlap_is_soft_dice_of_the_foreground_on_high_voxels() -> None:
    without, with_overlap = run(make(), softmax_patch()), run(make(overlap=True), softmax_patch())
    assert (with_overlap.high - without.high).item() == pytest.approx(1 - 2 * 1.7 / (1.7 + 2), abs=1e-6)
    assert with_overlap.low == without.low


def test_overlap_learns_soft_targets() -> None:
    without, with_overlap = run(make(targets="soft"), softmax_patch()), run(make(targets="soft", overlap=True), softmax_patch())
    # x = 0.9, 0.8 and y = 0.9, 0.7
    assert (with_overlap.high - without.high).item() == pytest.approx(0.1 / 3.3, abs=1e-6)


def test_threshold_per_class() -> None:
    terms = run(make(tau=(0.4, 0.8)), softmax_patch())
    assert (terms.n_high.item(), terms.n_low.item()) == (2, 1)
    torch.testing.assert_close(terms.share_per_class, torch.tensor([1.0, 0.5]))


def test_samples_are_averaged_after_normalising_each() -> None:
    one, two = softmax_patch(), softmax_patch()
    two["confidence"] = torch.tensor([0.9, 0.2, 0.2, 0.2]).view(1, 1, 4)
    both = {key: torch.cat([one[key], two[key]]) for key in one}
    terms = run(make(normalisation="separate"), both)
    assert terms.high.item() == pytest.approx(((CE[0] + CE[1]) / 2 + CE[0]) / 2, rel=1e-5)
    assert terms.low.item() == pytest.approx(-(CE[2] + (CE[1] + CE[2]) / 2) / 2, rel=1e-5)


def region_patch() -> dict[str, Any]:
    """Two voxels, two regions with p = 0.8, 0.3 and 0.6, 0.1."""
    return {
        "logits": torch.logit(torch.tensor([[0.8, 0.3], [0.6, 0.1]])).view(1, 2, 2).requires_grad_(),
        "labels": torch.tensor([[1, 0], [1, 0]]).view(1, 2, 2),
        "confidence": torch.tensor([[0.9, 0.6], [0.6, 0.95]]).view(1, 2, 2),
        "q": torch.tensor([[0.9, 0.4], [0.6, 0.05]]).view(1, 2, 2),
        "valid": torch.ones(1, 1, 2, dtype=torch.bool),
    }


def test_regions_count_every_region_of_a_voxel() -> None:
    terms = run(make(has_regions=True), region_patch())
    assert terms.high.item() == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 4, rel=1e-5)
    assert terms.low.item() == pytest.approx((math.log(0.7) + math.log(0.6)) / 4, rel=1e-5)
    assert (terms.n_high.item(), terms.n_low.item()) == (2, 2)
    torch.testing.assert_close(terms.share_per_class, torch.tensor([1.0, 0.0]))


def test_regions_take_a_threshold_each() -> None:
    terms = run(make(has_regions=True, tau=[0.5, 0.99]), region_patch())
    assert terms.high.item() == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 4, rel=1e-5)


def test_region_overlap_has_no_background() -> None:
    without, with_overlap = run(make(has_regions=True), region_patch()), run(make(has_regions=True, overlap=True), region_patch())
    # high voxels: region 0 has x = 0.8, y = 1; region 1 has x = 0.1, y = 0 and so does not occur
    assert (with_overlap.high - without.high).item() == pytest.approx(0.2 / 1.8, abs=1e-6)


@pytest.mark.parametrize(("batch_dice", "expected"), [(False, (0.2 / 1.8 + 0.6 / 1.4) / 2), (True, 0.8 / 3.2)])
def test_overlap_per_sample_or_over_the_batch(batch_dice: bool, expected: float) -> None:
    """Two samples of one voxel of class 1, with P(class 1) = 0.8 and 0.4."""
    p = torch.tensor([0.8, 0.4])
    patch = {
        "logits": torch.stack([1 - p, p], dim=1).log().view(2, 2, 1),
        "labels": torch.ones(2, 1, dtype=torch.long),
        "confidence": torch.ones(2, 1, 1),
        "q": None,
        "valid": torch.ones(2, 1, 1, dtype=torch.bool),
    }
    without, with_overlap = run(make(), patch), run(make(overlap=True, batch_dice=batch_dice), patch)
    assert (with_overlap.high - without.high).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["off", "paper", "bounded", "negative", "complementary", "soft"])
@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("samples", [0, 1])
def test_empty_sets_give_zero_with_a_graph(mode: str, has_regions: bool, samples: int) -> None:
    patch = {key: value[:samples] for key, value in (region_patch() if has_regions else softmax_patch()).items()}
    patch["logits"] = patch["logits"].detach().requires_grad_()
    patch["valid"] = torch.zeros_like(patch["valid"])
    terms = run(make(mode=mode, targets="soft", overlap=True, confidence_weighting=True, has_regions=has_regions), patch)
    assert (terms.high.item(), terms.low.item(), terms.share_confident.item()) == (0, 0, 0)
    assert torch.isnan(terms.share_per_class).all()
    (terms.high + terms.low).backward()
    assert patch["logits"].grad.abs().sum() == 0


@pytest.mark.parametrize("has_regions", [False, True])
def test_three_spatial_axes_and_autocast(has_regions: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 2, 3, 4)
    logits = torch.randn(shape, generator=generator)
    q = torch.rand(shape, generator=generator)
    labels = (q > 0.5).long() if has_regions else q.argmax(1)
    confidence = torch.rand(shape if has_regions else (2, 1, 2, 3, 4), generator=generator)
    valid = torch.rand((2, 1, 2, 3, 4), generator=generator) > 0.2
    loss = make(mode="complementary", targets="soft", overlap=True, has_regions=has_regions, batch_dice=True, tau=(0.3, 0.5, 0.7))
    plain = loss(logits, labels=labels, confidence=confidence, q=q, valid=valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(logits, labels=labels, confidence=confidence, q=q, valid=valid)
    assert cast.high.dtype == torch.float32
    torch.testing.assert_close(tuple(plain), tuple(cast), rtol=0, atol=0)


def test_reports_are_detached() -> None:
    terms = run(make(), softmax_patch())
    assert terms.high.requires_grad
    assert terms.low.requires_grad
    assert not any(t.requires_grad for t in (terms.share_confident, terms.n_high, terms.n_low, terms.share_per_class))


def test_probabilities_may_be_absent_where_nothing_uses_them() -> None:
    patch = softmax_patch() | {"q": None}
    assert torch.isfinite(run(make(mode="negative", overlap=True), patch).high)
    with pytest.raises(ConfigError, match="class probabilities q"):
        run(make(targets="soft"), patch)


@pytest.mark.parametrize(
    "change", [{"mode": "no"}, {"targets": "no"}, {"normalisation": "no"}, {"tau": 1.5}, {"tau": ()}, {"tau": (0.5, -0.1)}]
)
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(**change)


def test_wrong_number_of_thresholds_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 values for 2 classes"):
        run(make(tau=(0.1, 0.2, 0.3)), softmax_patch())


@pytest.mark.parametrize("name", ["valid", "confidence"])
def test_wrong_shapes_are_not_broadcast(name: str) -> None:
    patch = softmax_patch()
    patch[name] = patch[name][:, 0]
    with pytest.raises(ValueError, match=f"{name} has shape"):
        run(make(), patch)
