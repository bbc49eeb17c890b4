"""R_low of every mode against its closed form, value and gradient, for softmax and region heads."""

import math

import pytest
import torch
from torch import Tensor

from nnunet_ssl.config import UNLEARNING_MODES
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.unlearning import UNLEARNING, unlearning_form
from nnunet_ssl.losses.voxel_prediction import voxel_prediction

# one voxel, three classes with probabilities 0.7, 0.2, 0.1
LOGITS = torch.log(torch.tensor([0.7, 0.2, 0.1])).view(1, 3, 1)
P = torch.tensor([0.7, 0.2, 0.1])
Q = torch.tensor([0.5, 0.48, 0.02]).view(1, 3, 1)


def unlearning_loss(mode: str, *, logits: Tensor, labels: Tensor, q: Tensor | None = None, has_regions: bool = False) -> Tensor:
    """R_low per voxel: (B, *spatial) for softmax heads, (B, R, *spatial) for region heads."""
    per_voxel = unlearning_form(mode)(voxel_prediction(logits=logits, labels=labels, q=q, has_regions=has_regions))
    return per_voxel if has_regions else per_voxel.squeeze(1)


def value_and_gradient(mode: str, logits: Tensor, labels: Tensor, q: Tensor | None, *, has_regions: bool = False) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    per_voxel = unlearning_loss(mode, logits=logits, labels=labels, q=q, has_regions=has_regions)
    (gradient,) = torch.autograd.grad(per_voxel.sum(), logits)
    return per_voxel.detach(), gradient


def label(k: int) -> Tensor:
    return torch.full((1, 1), k, dtype=torch.int64)


def onehot(k: int) -> Tensor:
    return torch.eye(3)[k]


def test_every_mode_of_the_settings_has_a_form() -> None:
    assert tuple(UNLEARNING) == UNLEARNING_MODES


def test_off_is_zero_with_a_graph() -> None:
    value, gradient = value_and_gradient("off", LOGITS, label(0), None)
    assert value.shape == (1, 1)
    assert value.item() == 0
    assert gradient.abs().max() == 0


def test_paper_is_minus_cross_entropy() -> None:
    value, gradient = value_and_gradient("paper", LOGITS, label(1), None)
    torch.testing.assert_close(value.flatten(), torch.tensor([math.log(0.2)]))
    torch.testing.assert_close(gradient.flatten(), onehot(1) - P)


def test_paper_stops_at_ten_nats() -> None:
    logits = torch.tensor([12.0, 0.0, 0.0]).view(1, 3, 1)
    value, gradient = value_and_gradient("paper", logits, label(1), None)
    assert value.item() == -10
    assert gradient.abs().max() == 0


def test_bounded_unlearns_above_a_guess() -> None:
    value, gradient = value_and_gradient("bounded", LOGITS, label(0), None)
    torch.testing.assert_close(value.flatten(), torch.tensor([math.log(0.7)]))
    torch.testing.assert_close(gradient.flatten(), onehot(0) - P)


def test_bounded_rests_below_a_guess() -> None:
    value, gradient = value_and_gradient("bounded", LOGITS, label(1), None)
    torch.testing.assert_close(value.flatten(), torch.tensor([-math.log(3)]))
    assert gradient.abs().max() == 0


def test_negative_matches_its_closed_form() -> None:
    value, gradient = value_and_gradient("negative", LOGITS, label(0), None)
    torch.testing.assert_close(value.flatten(), torch.tensor([-math.log(0.3)]))
    # d/dz_j of -log(1 - p_0): p_0 for the label, p_j - p_j / (1 - p_0) for the others
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.7, 0.2 - 0.2 / 0.3, 0.1 - 0.1 / 0.3]))


@pytest.mark.parametrize("logits", [LOGITS, torch.zeros(1, 3, 1)])
def test_negative_rests_at_and_below_a_guess(logits: Tensor) -> None:
    value, gradient = value_and_gradient("negative", logits, label(2), None)
    assert value.item() == 0
    assert gradient.abs().max() == 0


def test_negative_is_stable_where_one_minus_p_underflows() -> None:
    logits = torch.tensor([60.0, 0.0, 0.0]).view(1, 3, 1)
    value, gradient = value_and_gradient("negative", logits, label(0), None)
    # 1 - p = 2 exp(-60)
    torch.testing.assert_close(value.flatten(), torch.tensor([60 - math.log(2)]))
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.0, -0.5, -0.5]))


def test_complementary_rules_out_unlikely_classes_only() -> None:
    value, gradient = value_and_gradient("complementary", LOGITS, label(0), Q)
    torch.testing.assert_close(value.flatten(), torch.tensor([-math.log(0.9)]))
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.7 - 0.7 / 0.9, 0.2 - 0.2 / 0.9, 0.1]))


def test_complementary_sums_over_classes_and_is_stable_when_the_student_is_sure_of_one() -> None:
    logits = torch.tensor([0.0, 50.0, 0.0]).view(1, 3, 1)
    q = torch.tensor([0.98, 0.01, 0.01]).view(1, 3, 1)
    value, gradient = value_and_gradient("complementary", logits, label(0), q)
    torch.testing.assert_close(value.flatten(), torch.tensor([50 - math.log(2)]))
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-0.5, 1.0, -0.5]))


def test_soft_has_gradient_p_minus_q() -> None:
    value, gradient = value_and_gradient("soft", LOGITS, label(0), Q)
    torch.testing.assert_close(value.flatten(), -(Q.flatten() * P.log()).sum().view(1))
    torch.testing.assert_close(gradient.flatten(), P - Q.flatten())


# regions: logits z, p = sigmoid(z); labels say inside (1) or outside (0)
INSIDE = torch.tensor([1, 0]).view(1, 2, 1)
Z = torch.logit(torch.tensor([0.8, 0.3])).view(1, 2, 1)
REGION_P = torch.tensor([0.8, 0.3])


@pytest.mark.parametrize(
    ("mode", "values", "gradients"),
    [
        ("off", [0, 0], [0, 0]),
        # CE of the sides is -log 0.8 and -log 0.7; its gradient p - 1 inside, p outside
        ("paper", [math.log(0.8), math.log(0.7)], [0.2, -0.3]),
        ("bounded", [math.log(0.8), math.log(0.7)], [0.2, -0.3]),
        ("negative", [-math.log(0.2), -math.log(0.3)], [0.8, -0.7]),
        ("soft", [-0.6 * math.log(0.8) - 0.4 * math.log(0.2), -0.01 * math.log(0.3) - 0.99 * math.log(0.7)], [0.2, 0.29]),
        # q = 0.6 leaves both sides alone, q = 0.01 rules out inside
        ("complementary", [0, -math.log(0.7)], [0, 0.3]),
    ],
)
def test_region_forms(mode: str, values: list[float], gradients: list[float]) -> None:
    q = torch.tensor([0.6, 0.01]).view(1, 2, 1)
    value, gradient = value_and_gradient(mode, Z, INSIDE, q, has_regions=True)
    assert value.shape == (1, 2, 1)
    torch.testing.assert_close(value.flatten(), torch.tensor(values, dtype=torch.float32))
    torch.testing.assert_close(gradient.flatten(), torch.tensor(gradients, dtype=torch.float32))


def test_region_complementary_rules_out_outside_where_q_is_high() -> None:
    q = torch.tensor([0.97, 0.5]).view(1, 2, 1)
    value, gradient = value_and_gradient("complementary", Z, INSIDE, q, has_regions=True)
    torch.testing.assert_close(value.flatten(), torch.tensor([-math.log(0.8), 0.0]))
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-0.2, 0.0]))


@pytest.mark.parametrize(("mode", "expected"), [("bounded", -math.log(2)), ("negative", 0.0)])
def test_region_forms_rest_below_one_half(mode: str, expected: float) -> None:
    value, gradient = value_and_gradient(mode, Z, 1 - INSIDE, None, has_regions=True)
    torch.testing.assert_close(value.flatten(), torch.tensor([expected, expected]))
    assert gradient.abs().max() == 0


def test_half_precision_logits_give_float32_terms() -> None:
    per_voxel = unlearning_loss("bounded", logits=LOGITS.half(), labels=label(0))
    assert per_voxel.dtype == torch.float32


@pytest.mark.parametrize("mode", ["soft", "complementary"])
def test_missing_probabilities_are_named(mode: str) -> None:
    with pytest.raises(ConfigError, match="needs the class probabilities q"):
        unlearning_loss(mode, logits=LOGITS, labels=label(0))


def test_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="'forget'"):
        unlearning_loss("forget", logits=LOGITS, labels=label(0))


def test_wrong_shapes_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match="labels have shape"):
        unlearning_loss("paper", logits=LOGITS, labels=label(0)[:, None])
    with pytest.raises(ValueError, match="q has shape"):
        unlearning_loss("soft", logits=LOGITS, labels=label(0), q=Q[:, :2])
