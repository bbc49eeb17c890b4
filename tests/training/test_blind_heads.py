"""A class that the teacher never finds: the pool says nothing about it, and the student learns it from manual labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor

from nnunet_ssl.config import TARGET_KINDS, UNLEARNING_MODES, StudentConfig
from nnunet_ssl.training.extra_channels import samples_from_pool
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer
from nnunet_ssl.training.student_loss import DualLoss

BLIND = 2
SHAPE = (6, 6)


def loss(*, regions: bool = False, blind: tuple[int, ...] = (BLIND,), num_outputs: int = 3, **settings: Any) -> DualLoss:
    dice = {"batch_dice": False, "smooth": 1e-5, "ddp": False}
    plain: Any
    if regions:
        plain = DC_and_BCE_loss({}, {**dice, "do_bg": True}, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        plain = DC_and_CE_loss({**dice, "do_bg": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
    return DualLoss(
        supervised=DeepSupervisionWrapper(plain, (1.0,)),
        config=StudentConfig(unlearning_gradient_ratio=None, **settings),
        has_regions=regions,
        num_outputs=num_outputs,
        batch_dice=False,
        is_distributed=False,
        blind_heads=blind,
    )


def batch(*, regions: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A labelled and a pool sample: logits, targets and extra channels; the pool's labels and q have something of every class."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, *SHAPE), generator=draw).requires_grad_()
    target = torch.rand((2, 3, *SHAPE), generator=draw) > 0.5 if regions else torch.randint(0, 3, (2, 1, *SHAPE), generator=draw)
    code = torch.tensor([1, 2]).view(2, 1, 1, 1).expand(2, 1, *SHAPE)
    confidence = torch.randint(0, 10_001, (2, 3 if regions else 1, *SHAPE), generator=draw)
    q = torch.randn((2, 3, *SHAPE), generator=draw).softmax(1) * 10_000
    return logits, target, torch.cat([code, confidence, q], dim=1).to(torch.int16)


def gradient(dual: DualLoss, *, regions: bool = False) -> tuple[Tensor, float]:
    """Gradient at the logits (2, 3, *SHAPE) and the loss."""
    logits, target, extra = batch(regions=regions)
    total = dual([logits], [target, extra])
    total.backward()
    assert logits.grad is not None
    return logits.grad, float(total.detach())


@pytest.mark.parametrize("mode", UNLEARNING_MODES)
@pytest.mark.parametrize("targets", TARGET_KINDS)
def test_pool_samples_leave_the_blind_class_alone(mode: str, targets: str) -> None:
    found, value = gradient(loss(unlearning=mode, targets=targets, lambda_low=1.0))
    assert torch.isfinite(torch.tensor(value))
    assert value < 100  # no voxel with the blind label, and no q of it, meets the impossible logit
    assert (found[1, BLIND] == 0).all()
    assert (found[0, BLIND] != 0).any()
    assert (found[1, :BLIND] != 0).any()


@pytest.mark.parametrize("mode", UNLEARNING_MODES)
def test_without_blind_classes_the_pool_teaches_all(mode: str) -> None:
    found, _ = gradient(loss(blind=(), unlearning=mode, lambda_low=1.0))
    assert (found[1, BLIND] != 0).any()


def test_blind_region_is_cut_off_alone() -> None:
    found, _ = gradient(loss(regions=True, lambda_low=1.0), regions=True)
    whole, _ = gradient(loss(regions=True, blind=(), lambda_low=1.0), regions=True)
    assert (found[1, BLIND] == 0).all()
    torch.testing.assert_close(found[1, :BLIND], whole[1, :BLIND])
    torch.testing.assert_close(found[0], whole[0])


def test_a_guess_is_among_the_classes_that_are_left() -> None:
    """With one of three classes left out `bounded` stops at a probability of 1/2: a label just above is pushed down, one below is not."""
    for logit, is_pushed in ((0.2, True), (-0.2, False)):
        logits = torch.zeros((2, 3, 1, 1))
        logits[1, 1] = logit  # the pool sample's label, against class 0 at logit 0
        logits.requires_grad_()
        target = torch.ones((2, 1, 1, 1), dtype=torch.long)
        extra = torch.tensor([[1, 10_000], [2, 0]]).view(2, 2, 1, 1).to(torch.int16)
        dual = loss(unlearning="bounded", targets="hard", lambda_low=1.0)
        dual([logits], [target, extra]).backward()
        assert logits.grad is not None
        assert bool(logits.grad[1, 1] > 0) is is_pushed


def one_pool_voxel(logits: list[float], *, label: int, confidence: float, q: list[float], **settings: Any) -> Tensor:
    """Gradient at the logits of a pool sample of one voxel, beside a labelled one of class 0, of a loss without overlap and weighting."""
    outputs = torch.tensor([[0.0] * len(logits), logits]).view(2, -1, 1, 1).requires_grad_()
    target = torch.tensor([0, label]).view(2, 1, 1, 1)
    values = [[1, 1.0, *[1.0] * len(q)], [2, confidence, *q]]
    extra = torch.tensor([[row[0], *(10_000 * v for v in row[1:])] for row in values]).round().to(torch.int16)
    dual = loss(num_outputs=len(logits), lambda_low=1.0, overlap=False, confidence_weighting=False, **settings)
    dual([outputs], [target, extra.view(2, -1, 1, 1)]).backward()
    assert outputs.grad is not None
    return outputs.grad[1].flatten()


@pytest.mark.parametrize("confidence", [0.9, 0.1])
def test_the_other_classes_are_taught_as_if_there_were_no_more(confidence: float) -> None:
    """p = (0.4, 0.2, 0.4) is (2/3, 1/3) without the third class, q = (0.6, 0.2, 0.2) is (3/4, 1/4); confident or not, p - q is learned."""
    logits = torch.tensor([0.4, 0.2, 0.4]).log().tolist()
    found = one_pool_voxel(logits, label=0, confidence=confidence, q=[0.6, 0.2, 0.2])
    torch.testing.assert_close(found, torch.tensor([-1 / 12, 1 / 12, 0.0]))


@pytest.mark.parametrize("confidence", [0.9, 0.1])
@pytest.mark.parametrize("mode", UNLEARNING_MODES)
@pytest.mark.parametrize("targets", TARGET_KINDS)
def test_voxel_that_carries_its_label_teaches_nothing(mode: str, targets: str, confidence: float) -> None:
    found = one_pool_voxel([0.3, -0.2, 0.1], label=BLIND, confidence=confidence, q=[0.1, 0.1, 0.8], unlearning=mode, targets=targets)
    assert found.tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", UNLEARNING_MODES)
@pytest.mark.parametrize("targets", TARGET_KINDS)
def test_probabilities_that_are_all_its_own(mode: str, targets: str) -> None:
    """Interpolation can leave a label beside probabilities that do not fit it."""
    for confidence in (0.9, 0.1):
        found = one_pool_voxel([0.3, -0.2, 0.1], label=0, confidence=confidence, q=[0.0, 0.0, 1.0], unlearning=mode, targets=targets)
        assert torch.isfinite(found).all()
        assert found[BLIND] == 0


@pytest.mark.parametrize("mode", UNLEARNING_MODES)
@pytest.mark.parametrize("targets", TARGET_KINDS)
def test_one_class_that_is_left_is_never_unlearned(mode: str, targets: str) -> None:
    """Of two classes one is blind: there is nothing the other could give way to."""
    for confidence in (0.9, 0.1):
        found = one_pool_voxel([0.3, 2.0], label=0, confidence=confidence, q=[0.6, 0.4], unlearning=mode, targets=targets, blind=(1,))
        assert found.tolist() == [0, 0]


@pytest.mark.parametrize("mode", ["soft", "complementary"])
def test_student_recovers_it_from_manual_labels(mode: str) -> None:
    """One feature tells the classes apart. The pool's labels call class 2 background, with confidence; one labelled sample has it."""

    def recall(blind: tuple[int, ...]) -> float:
        draw = torch.Generator().manual_seed(0)
        features, truth = _scene(draw, labelled=True), _truth(draw_seed=0)
        pool_features, pool_truth = _scene(torch.Generator().manual_seed(1), labelled=False), _truth(draw_seed=1)
        weights = torch.zeros((3, 3), requires_grad=True)
        bias = torch.zeros(3, requires_grad=True)
        optimiser = torch.optim.Adam([weights, bias], lr=0.05)
        dual = loss(blind=blind, unlearning=mode, targets="hard" if mode == "complementary" else "soft", lambda_high=3.0)
        seen = torch.where(pool_truth == BLIND, 0, pool_truth)
        q = torch.nn.functional.one_hot(seen, 3).movedim(-1, 0).float() * 0.94 + 0.02
        extra = torch.cat([torch.full((1, *seen.shape), 2), torch.full((1, *seen.shape), 9400), q * 10_000]).to(torch.int16)
        labelled_extra = torch.cat([torch.ones((1, *seen.shape)), torch.full((4, *seen.shape), 10_000)]).to(torch.int16)
        for _ in range(300):
            logits = torch.einsum("kf,bfxy->bkxy", weights, torch.stack([features, pool_features])) + bias.view(1, 3, 1, 1)
            target = torch.stack([truth, seen]).unsqueeze(1)
            total = dual([logits], [target, torch.stack([labelled_extra, extra])])
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
        found = (torch.einsum("kf,fxy->kxy", weights, pool_features) + bias.view(3, 1, 1)).argmax(0)
        return float((found[pool_truth == BLIND] == BLIND).float().mean())

    assert recall((BLIND,)) > 0.9
    assert recall(()) < 0.5


@pytest.mark.parametrize("regions", [False, True])
def test_a_step_on_a_stage_that_names_it(make_tiny: Callable[..., Any], short: Callable[..., Any], regions: bool) -> None:
    """The pool's labels have something of the last class (region), and its probabilities, too."""
    tiny, blind = make_tiny(regions=regions), 1 if regions else 2
    tiny.write_sidecar(stage=2, blind_heads=[blind])
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short(student={"cutmix": 0.0, "unlearning_gradient_ratio": None}))
    trainer.initialize()
    outputs: list[Tensor] = []

    def keep(module: Any, inputs: Any, logits: list[Tensor]) -> None:
        outputs.append(logits[0])
        logits[0].retain_grad()

    trainer.network.register_forward_hook(keep)
    batch = next(trainer.get_dataloaders()[0])
    from_pool = samples_from_pool(batch["target"][len(batch["target"]) // 2])
    trainer.train_step(batch)
    found = outputs[0].grad
    assert found is not None
    assert (found[from_pool][:, blind] == 0).all()
    assert (found[from_pool][:, :blind] != 0).any()
    assert (found[~from_pool][:, blind] != 0).any()
    assert trainer.loss.blind_heads == [blind]


def _truth(*, draw_seed: int) -> Tensor:
    return torch.randint(0, 3, (12, 12), generator=torch.Generator().manual_seed(100 + draw_seed))


def _scene(draw: torch.Generator, *, labelled: bool) -> Tensor:
    """Features (3, 12, 12): the classes one-hot, in noise."""
    truth = _truth(draw_seed=0 if labelled else 1)
    clean = torch.nn.functional.one_hot(truth, 3).movedim(-1, 0).float()
    return clean + 0.3 * torch.randn(clean.shape, generator=draw)
