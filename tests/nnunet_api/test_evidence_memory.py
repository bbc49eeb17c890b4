"""Memory of a sweep: the same whatever the number of samples, and that of one case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from network_memory import LiveBytes
from tiny_setup import CONFIGURATION, DATASET, OUR_TEACHER, PLANS, Project, write_teacher

from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor

IMAGE = (1, 20, 24, 20)


def peak_bytes(model: Path, num_samples: int) -> int:
    """The most that all tensors of a sweep took at once, the network's weights left out."""
    predictor = EvidencePredictor(num_samples=num_samples, device=torch.device("cpu"))
    predictor.load_model(model, [0])
    assert predictor.num_samples == num_samples
    image = torch.randn(IMAGE, generator=torch.Generator().manual_seed(0))
    with LiveBytes() as live:
        predictor.sweep(image, seed=0)
    return live.peak


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_samples(project: Project) -> None:
    model = project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}"
    write_teacher(fold=0, mirroring=(0, 1))  # four views
    few, many = peak_bytes(model, 4), peak_bytes(model, 32)
    assert few > 4 * 9 * 20 * 24 * 20  # at least the moments and votes of three classes, in float32
    assert many <= 1.05 * few
