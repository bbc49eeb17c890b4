from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ssl.errors import StateError
from nnunet_ssl.training.moving_average import MovingAverage, default_decay


class Shared(nn.Module):
    """Lists one layer under two names, as nnU-Net's networks do with their encoder."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False)
        self.decoder = nn.ModuleList([self.encoder])
        self.register_buffer("count", torch.tensor(0))
        self.set(value)

    def set(self, value: float) -> None:
        nn.init.constant_(self.encoder.weight, value)

    @property
    def value(self) -> float:
        return float(self.encoder.weight.item())


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.98), (1000, 0.98), (2000, 0.99), (10_000, 0.998), (250_000, 0.999)])
def test_default_decay(steps: int, decay: float) -> None:
    assert default_decay(steps) == pytest.approx(decay)


def test_early_updates_forget_the_start() -> None:
    network = Shared(0.0)
    average = MovingAverage(network, decay=0.9)
    network.set(1.0)
    average.update()
    with average.applied():
        assert network.value == pytest.approx(1 - 2 / 11)
    average.update()
    with average.applied():
        assert network.value == pytest.approx(1 - 2 / 11 * 3 / 12)


def test_decay_holds_later() -> None:
    network = Shared(0.0)
    average = MovingAverage(network, decay=0.5)
    average.num_updates = 100
    network.set(1.0)
    average.update()
    with average.applied():
        assert network.value == pytest.approx(0.5)


def test_modules_are_looked_for_once_and_tensors_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state_dict of hundreds of tensors takes longer than a step of the average; moving a network replaces its buffers."""
    network = Shared(1.0)
    average = MovingAverage(network, decay=0.9)
    monkeypatch.setattr(nn.Module, "state_dict", lambda *_, **__: pytest.fail("asked for again"))
    network.count = torch.tensor(7)
    network.encoder.weight.data = torch.full((1, 1), 3.0)
    average.update()
    assert average._averaged["count"].item() == 7
    assert average._averaged["encoder.weight"].item() == pytest.approx(1 + 2 * 9 / 11)
    average.swap()
    assert network.value == pytest.approx(1 + 2 * 9 / 11)
    average.swap()
    assert network.value == 3


def test_swap_is_undone_even_for_weights_with_two_names() -> None:
    network = Shared(1.0)
    average = MovingAverage(network, decay=0.9)
    network.set(5.0)
    for _ in range(2):
        with average.applied():
            assert network.value == 1.0
        assert network.value == 5.0


def test_swap_is_undone_after_an_error() -> None:
    network = Shared(1.0)
    average = MovingAverage(network, decay=0.9)
    network.set(5.0)
    with pytest.raises(KeyError), average.applied():
        network.state_dict()["missing"]
    assert network.value == 5.0


def test_integers_follow_at_once() -> None:
    network = Shared(1.0)
    average = MovingAverage(network, decay=0.9)
    network.count += 3
    average.update()
    with average.applied():
        assert network.count == 3


def test_commit_follow_and_reset() -> None:
    network = Shared(1.0)
    average = MovingAverage(network, decay=0.9)
    network.set(5.0)
    average.commit()
    assert network.value == 1.0
    network.set(7.0)
    average.num_updates = 4
    average.reset()
    assert average.num_updates == 0
    with average.applied():
        assert network.value == 7.0


def test_restore_continues_exactly() -> None:
    network = Shared(0.0)
    average = MovingAverage(network, decay=0.9)
    network.set(1.0)
    average.update()
    with average.applied():
        saved = {name: value.clone() for name, value in network.state_dict().items()}
    state = average.state()

    other = Shared(-3.0)
    restored = MovingAverage(other, decay=0.9)
    other.load_state_dict(saved)
    restored.restore(state)
    assert other.value == network.value == 1.0
    for net, avg in ((network, average), (other, restored)):
        net.set(2.0)
        avg.update()
        avg.swap()
    assert other.value == network.value


def test_restore_of_another_network() -> None:
    with pytest.raises(StateError, match="raw weights"):
        MovingAverage(Shared(0.0), decay=0.9).restore({"raw_weights": {}, "num_updates": 1})
