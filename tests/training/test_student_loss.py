from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import distributed

from nnunet_ssl.config import StudentConfig
from nnunet_ssl.training.student_loss import CLASS_TERM, TERMS, DualLoss, ramp_weight
from nnunet_ssl.training.supervised_loss import scale_weights, weigh_cross_entropy, weigh_lone_scale

SHAPES = ((4, 6), (2, 3))
WEIGHTS = (0.75, 0.25)


def stock(*, regions: bool = False, ignore: int | None = None, batch_dice: bool = False, ddp: bool = False, wrapped: bool = True) -> Any:
    """The loss nnU-Net's trainer builds."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": ddp}
    loss: Any
    if regions:
        loss = DC_and_BCE_loss({}, {**dice, "do_bg": True}, use_ignore_label=ignore is not None, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        loss = DC_and_CE_loss({**dice, "do_bg": False}, {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, WEIGHTS) if wrapped else loss


def dual(supervised: Any, *, regions: bool = False, batch_dice: bool = False, ddp: bool = False, **settings: Any) -> DualLoss:
    return DualLoss(
        supervised=supervised,
        config=StudentConfig(**settings),
        has_regions=regions,
        num_outputs=2 if regions else 3,
        batch_dice=batch_dice,
        is_distributed=ddp,
    )


def random_batch(*codes: int, regions: bool = False, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Logits, nnU-Net targets and extra channels; one sample per code (1 labelled, 2 pool, 3 pool without validity)."""
    draw = torch.Generator().manual_seed(seed)
    outputs, targets, extras = [], [], []
    for shape in SHAPES:
        size = (len(codes), 2 if regions else 3, *shape)
        outputs.append(torch.randn(size, generator=draw).requires_grad_())
        targets.append(torch.rand(size, generator=draw) > 0.5 if regions else torch.randint(0, 3, (len(codes), 1, *shape), generator=draw))
        code = torch.tensor(codes).view(-1, 1, 1, 1).expand(-1, 1, *shape)
        confidence = torch.randint(0, 10_001, (len(codes), 2 if regions else 1, *shape), generator=draw)
        q = torch.randn(size, generator=draw).softmax(1) * 10_000
        extras.append(torch.cat([code, confidence, q], dim=1).to(torch.int16))
    return outputs, targets, extras


def test_ramp() -> None:
    assert [ramp_weight(s, ramp_steps=4) for s in (0, 1, 3, 4, 9)] == [0, 0.25, 0.75, 1, 1]
    assert ramp_weight(0, ramp_steps=0) == 1


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_without_extra_channels_it_is_nnunets_loss(regions: bool, batch_dice: bool) -> None:
    outputs, targets, _ = random_batch(1, 1, regions=regions)
    plain = stock(regions=regions, batch_dice=batch_dice)
    ours = dual(stock(regions=regions, batch_dice=batch_dice), regions=regions)
    assert ours(outputs, targets) == plain(outputs, targets)
    assert ours.last_terms == {}


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_supervised_term_is_nnunets_loss_of_the_labelled_samples(regions: bool, batch_dice: bool) -> None:
    outputs, targets, extras = random_batch(2, 1, 3, 1, regions=regions)
    ours = dual(stock(regions=regions, batch_dice=batch_dice), regions=regions, batch_dice=batch_dice, unlearning_gradient_ratio=None)
    ours.ramp = 0.0
    rows = [1, 3]
    expected = stock(regions=regions, batch_dice=batch_dice)([o[rows] for o in outputs], [t[rows] for t in targets])
    torch.testing.assert_close(ours(outputs, targets + extras), expected)
    torch.testing.assert_close(ours.last_terms["loss_supervised"], expected)


def test_total_is_the_weighted_sum_of_its_terms() -> None:
    outputs, targets, extras = random_batch(1, 2)
    ours = dual(stock(), lambda_high=0.5, lambda_low=0.2, unlearning_gradient_ratio=None)
    ours.ramp = 0.25
    total = ours(outputs, targets + extras)
    terms = ours.last_terms
    torch.testing.assert_close(total, terms["loss_supervised"] + 0.25 * (0.5 * terms["loss_high"] + 0.2 * terms["loss_low"]))
    of_scales = [ours._at_scale(o[1:], t[1:], e[1:]) for o, t, e in zip(outputs, targets, extras, strict=True)]
    torch.testing.assert_close(terms["loss_high"], sum(w * s.high for w, s in zip(WEIGHTS, of_scales, strict=True)))
    torch.testing.assert_close(terms["loss_low"], sum(w * s.low for w, s in zip(WEIGHTS, of_scales, strict=True)))
    assert terms["confident_share"] == of_scales[0].share_confident
    assert terms[CLASS_TERM].shape == (3,)


def test_stored_confidence_at_the_threshold_counts_as_confident() -> None:
    outputs, targets, extras = random_batch(1, 2)
    for extra in extras:
        extra[:, 1] = 9000
    ours = dual(stock(), tau=0.9)
    ours(outputs, targets + extras)
    assert ours.last_terms["confident_share"] == 1


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_without_validity_do_not_count(regions: bool) -> None:
    outputs, targets, extras = random_batch(1, 2, 3, regions=regions)
    ours = dual(stock(regions=regions), regions=regions, unlearning_gradient_ratio=None)
    ours(outputs, targets + extras).backward()
    assert all((o.grad[2] == 0).all() for o in outputs)
    assert all((o.grad[1] != 0).any() for o in outputs)


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_under_the_ignore_label_do_not_count(regions: bool) -> None:
    outputs, targets, extras = random_batch(2, 2, regions=regions)
    if regions:
        targets = [torch.cat([t, torch.zeros_like(t[:, :1])], 1) for t in targets]
    for target in targets:
        target[0, -1] = 1 if regions else 3
    ours = dual(stock(regions=regions, ignore=3), regions=regions)
    ours(outputs, targets + extras).backward()
    assert all((o.grad[0] == 0).all() for o in outputs)
    assert all((o.grad[1] != 0).any() for o in outputs)


def test_gradient_of_unlearning_is_held_to_its_share() -> None:
    outputs, targets, extras = random_batch(1, 2)
    for extra in extras:
        extra[1, 1] = 0
    gradients = {}
    for low in (0.0, 50.0):
        ours = dual(stock(), lambda_low=low, unlearning_gradient_ratio=0.1, overlap=False)
        gradients[low] = torch.autograd.grad(ours(outputs, targets + extras), outputs[0])[0]
    assert ours.last_terms["unlearning_gradient_ratio"] > 0.1
    difference = (gradients[50.0] - gradients[0.0]).norm()
    torch.testing.assert_close(difference, 0.1 * gradients[0.0][:1].norm(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("ddp", [False, True])
def test_batches_without_labelled_samples_have_the_last_factor_on_unlearning(ddp: bool) -> None:
    """With several processes all measure in every step, and one of them may have no labelled sample."""
    mixed, pool_only = random_batch(1, 2), [random_batch(2, 2, seed=seed) for seed in (1, 2)]
    ours = dual(stock(), ddp=ddp, lambda_low=50.0, unlearning_gradient_ratio=0.1)

    def factor(batch: tuple[list[torch.Tensor], ...]) -> float:
        total = ours(batch[0], batch[1] + batch[2])
        terms = {name: float(value) for name, value in ours.last_terms.items() if name in ("loss_high", "loss_low")}
        return (float(total.detach()) - terms["loss_high"]) / (50 * terms["loss_low"])

    assert factor(pool_only[0]) == pytest.approx(1, rel=1e-4)
    ours(mixed[0], mixed[1] + mixed[2])
    expected = 0.1 / float(ours.last_terms["unlearning_gradient_ratio"])
    assert expected < 0.5
    assert [factor(batch) for batch in pool_only] == pytest.approx([expected] * 2, rel=1e-4)


def test_batches_of_one_kind() -> None:
    ours = dual(stock())
    for code in (1, 2):
        outputs, targets, extras = random_batch(code)
        loss = ours(outputs, targets + extras)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(o.grad is not None for o in outputs)
        assert set(ours.last_terms) == {*TERMS, CLASS_TERM}
        assert torch.isnan(ours.last_terms["loss_high"]) == (code == 1)
        assert torch.isnan(ours.last_terms["loss_supervised"]) == (code == 2)


def test_without_deep_supervision() -> None:
    outputs, targets, extras = random_batch(1, 2)
    ours = dual(stock(wrapped=False))
    assert torch.isfinite(ours(outputs[0], [targets[0], extras[0]]))
    assert ours(outputs[0], targets[0]) == stock(wrapped=False)(outputs[0], targets[0])


@pytest.mark.parametrize("settings", [{"unlearning": m} for m in ("off", "paper", "bounded", "negative")])
def test_hard_targets_need_no_probabilities(settings: dict[str, Any]) -> None:
    outputs, targets, extras = random_batch(1, 2)
    ours = dual(stock(), targets="hard", **settings)
    assert torch.isfinite(ours(outputs, targets + [e[:, :2] for e in extras]))


def test_half_precision_logits() -> None:
    outputs, targets, extras = random_batch(1, 2)
    halves = [o.detach().half().requires_grad_() for o in outputs]
    ours = dual(stock())
    loss = ours._pool_terms(halves, targets, extras, torch.tensor([False, True]))[0]
    assert loss.dtype == torch.float32


def test_the_dice_loss_is_not_compiled_where_its_gradient_is_taken_twice() -> None:
    for limit, compiled in ((0.1, False), (None, True)):
        supervised = stock()
        supervised.loss.dc = torch.compile(supervised.loss.dc, backend="eager")
        dual(supervised, unlearning_gradient_ratio=limit)
        assert hasattr(supervised.loss.dc, "_orig_mod") == compiled


def test_weight_of_the_cross_entropy() -> None:
    outputs, targets, _ = random_batch(1, 1)
    full, half, none = (weigh_cross_entropy(stock(), w)(outputs, targets) for w in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, (full + none) / 2)
    assert weigh_cross_entropy(stock(regions=True), 0.5).loss.weight_ce == 0.5
    users = stock()
    users.loss.weight_ce = 0.3
    assert [weigh_cross_entropy(users, factor).loss.weight_ce for factor in (1.0, 0.5)] == [0.3, 0.15]
    assert not hasattr(weigh_cross_entropy(users.loss.dc, 0.5), "weight_ce")


def test_only_output_of_a_network_with_two_resolutions() -> None:
    outputs, targets, _ = random_batch(1, 1)
    lone = DeepSupervisionWrapper(stock(wrapped=False), (float("nan"),))  # what nnU-Net makes of 0 / 0
    assert lone(outputs[:1], targets[:1]).isnan()
    torch.testing.assert_close(weigh_lone_scale(lone)(outputs[:1], targets[:1]), stock(wrapped=False)(outputs[0], targets[0]))
    assert scale_weights(weigh_lone_scale(stock())) == WEIGHTS
    assert scale_weights(weigh_lone_scale(stock(wrapped=False))) == (1.0,)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.usefixtures("process_group")
def test_masking_equals_choosing_when_dice_is_gathered(regions: bool, ignore: int | None) -> None:
    outputs, targets, extras = random_batch(2, 1, 1, regions=regions)
    if regions and ignore:
        targets = [torch.cat([t, torch.zeros_like(t[:, :1])], 1) for t in targets]
    plain: Callable[..., Any] = stock(regions=regions, ignore=ignore, batch_dice=True)
    expected = plain([o[1:] for o in outputs], [t[1:] for t in targets])
    ours = dual(stock(regions=regions, ignore=ignore, batch_dice=True, ddp=True), regions=regions, batch_dice=True, ddp=True)
    loss = ours(outputs, targets + extras)
    torch.testing.assert_close(ours.last_terms["loss_supervised"], expected)
    loss.backward()
    whole = plain(outputs, targets)
    torch.testing.assert_close(ours(outputs, targets), whole)


@pytest.mark.usefixtures("process_group")
def test_a_process_without_labelled_samples_takes_part() -> None:
    outputs, targets, extras = random_batch(2)
    ours = dual(stock(batch_dice=True, ddp=True), batch_dice=True, ddp=True)
    loss = ours(outputs, targets + extras)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(o.grad is not None for o in outputs)
