from __future__ import annotations

import pytest
import torch

from nnunet_ssl.training.phases import Phase, PhasedPolyLRScheduler, PhaseSchedule


def test_epochs_of_phases() -> None:
    schedule = PhaseSchedule([Phase("a", 3, 1.0), Phase("none", 0, 1.0), Phase("b", 2, 0.5)])
    assert schedule.num_epochs == 5
    assert [schedule.at(e).name for e in range(7)] == ["a", "a", "a", "b", "b", "b", "b"]
    assert [e for e in range(5) if schedule.is_last_of_phase(e)] == [2, 4]
    assert schedule.first_epoch(4) == 3


@pytest.mark.parametrize(("epochs", "interval"), [(1, 1), (19, 1), (40, 4), (1000, 50)])
def test_interval_between_checkpoints(epochs: int, interval: int) -> None:
    assert PhaseSchedule([Phase("a", epochs, 1.0)]).save_every == interval


def test_learning_rate_begins_anew_and_stays_real() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=7.0)
    scheduler = PhasedPolyLRScheduler(optimizer, PhaseSchedule([Phase("a", 2, 1.0), Phase("b", 4, 0.1)]))
    assert optimizer.param_groups[0]["lr"] == 1.0
    rates = []
    for epoch in range(7):
        scheduler.step(epoch)
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.5**0.9, 0.1, 0.1 * 0.75**0.9, 0.1 * 0.5**0.9, 0.1 * 0.25**0.9, 0.0])
