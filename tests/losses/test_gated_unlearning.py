"""Unlearning held back by a gate from held-out cases: planted wrong labels open it and unlearning helps; right ones keep it shut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_ssl.confidence.prediction_counts import NUM_CONFIDENCE_BINS, PredictionCounts
from nnunet_ssl.confidence.thresholds import UnlearningGate, gate_at, unlearning_gate
from nnunet_ssl.losses import DualPoolLoss

SIZE = 40
DOUBTFUL = 0.45
"""Confidence of the labels in question, below tau."""


def counts(*, share_wrong: float) -> PredictionCounts:
    """A held-out case: 100 voxels labelled 1 at the doubtful confidence, of which a share is wrong, and 500 certain and right ones of 0."""
    totals, correct = np.zeros((2, NUM_CONFIDENCE_BINS)), np.zeros((2, NUM_CONFIDENCE_BINS))
    doubtful = int(DOUBTFUL * NUM_CONFIDENCE_BINS)
    totals[1, doubtful], correct[1, doubtful] = 100, 100 * (1 - share_wrong)
    totals[0, -1] = correct[0, -1] = 500
    return PredictionCounts(totals=totals, correct=correct, voxels=600)


def gate_of(share_wrong: float) -> UnlearningGate:
    return unlearning_gate({f"case_{i}": counts(share_wrong=share_wrong + 0.02 * (i - 2)) for i in range(5)})


def student_error(gate: UnlearningGate, *, mode: str, labels_are_wrong: bool) -> float:
    """Share of wrong voxels that are left in the doubtful strip after training on an image whose left half is class 1.

    The student is a logit per voxel that starts at the teacher's labels, as one that is warm-started does.

    Args:
        gate: where unlearning is allowed.
        mode: form of unlearning.
        labels_are_wrong: whether the doubtful strip beyond the left half, labelled 1, is background or belongs to the structure.
    """
    labels = torch.zeros((1, SIZE, SIZE), dtype=torch.long)
    labels[..., : SIZE // 2 + 4] = 1  # four columns more than are certain
    strip = torch.zeros_like(labels, dtype=torch.bool)
    strip[..., SIZE // 2 : SIZE // 2 + 4] = True
    truth = torch.where(strip, 0, labels) if labels_are_wrong else labels
    confidence = torch.where(strip, DOUBTFUL, 0.99)[None]
    may_unlearn = torch.from_numpy(gate_at(gate, labels[0].numpy(), confidence[0].numpy()))[None]
    valid = (confidence >= 0.7) | may_unlearn
    loss = DualPoolLoss(
        mode=mode,
        targets="hard",
        normalisation="joint",
        confidence_weighting=True,
        overlap=False,
        tau=0.7,
        has_regions=False,
        batch_dice=False,
    )
    # it believes the labels, but not by far
    logits = torch.stack([torch.full((1, SIZE, SIZE), 0.1), torch.where(labels == 1, 0.5, -0.5)], dim=1).requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=50.0)
    for _ in range(100):
        terms = loss(logits, labels=labels, confidence=confidence, q=None, valid=valid)
        optimiser.zero_grad()
        (terms.high + terms.low).backward()
        optimiser.step()
    wrong: Tensor = logits.argmax(1) != truth
    return float(wrong[strip].float().mean())


@pytest.mark.parametrize("mode", ["paper", "bounded", "negative"])
def test_planted_wrong_labels_open_the_gate_and_unlearning_helps(mode: str) -> None:
    gate = gate_of(0.9)
    assert np.argwhere(gate).tolist() == [[1, int(DOUBTFUL * 10)]]
    assert student_error(gate, mode="off", labels_are_wrong=True) == 1.0
    assert student_error(gate, mode=mode, labels_are_wrong=True) == 0.0


@pytest.mark.parametrize("mode", ["paper", "bounded", "negative"])
def test_right_labels_keep_it_shut(mode: str) -> None:
    gate = gate_of(0.1)
    assert not gate.any()
    assert student_error(gate, mode=mode, labels_are_wrong=False) == student_error(gate, mode="off", labels_are_wrong=False) == 0.0


def test_paper_without_a_gate_destroys_right_labels() -> None:
    open_everywhere = np.ones((2, 10), dtype=bool)
    assert student_error(open_everywhere, mode="paper", labels_are_wrong=False) == 1.0
