from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnunet_ssl.training.stage_loader import StageDataLoader, labelled_in_batch, share_of_process


@pytest.mark.parametrize(
    ("batch_size", "share", "expected"),
    [(2, 0.5, 1), (4, 0.5, 2), (4, 0.25, 1), (10, 0.3, 3), (100, 0.29, 29), (2, 1.0, 2), (1, 1.0, 1)],
)
def test_whole_numbers_are_the_same_in_every_batch(batch_size: int, share: float, expected: int) -> None:
    assert {labelled_in_batch(batch_size, share, draw) for draw in (1e-9, 0.5, 0.999)} == {expected}


@pytest.mark.parametrize(("batch_size", "share"), [(1, 0.3), (2, 0.75), (2, 0.1), (2, 0.99), (3, 0.5), (12, 0.05)])
def test_other_shares_hold_on_average(batch_size: int, share: float) -> None:
    drawn = [labelled_in_batch(batch_size, share, draw) for draw in np.arange(0.0005, 1, 0.001)]
    assert np.mean(drawn) == pytest.approx(batch_size * share, abs=2e-3)
    assert min(drawn) >= 0
    assert max(drawn) == min(drawn) + 1 <= batch_size


@pytest.mark.parametrize(("share", "processes", "labelled"), [(0.5, 2, 1), (0.5, 4, 2), (0.25, 4, 1), (1.0, 3, 3)])
def test_processes_with_one_sample_each_keep_the_share_and_take_turns(share: float, processes: int, labelled: int) -> None:
    shares = [
        [share_of_process(share, rank=rank, processes=processes, epoch=epoch) for rank in range(processes)] for epoch in range(processes)
    ]
    assert {value for epoch in shares for value in epoch} <= {0.0, 1.0}
    assert [sum(epoch) for epoch in shares] == [labelled] * processes
    assert [sum(of_rank) for of_rank in zip(*shares, strict=True)] == [labelled] * processes
    assert {labelled_in_batch(1, value, draw) for value, draw in ((0.0, 0.0), (0.0, 0.99))} == {0}
    assert {labelled_in_batch(1, 1.0, draw) for draw in (0.0, 0.99)} == {1}


@pytest.mark.parametrize(("share", "processes"), [(0.75, 2), (0.5, 3), (0.1, 4), (0.9, 2)])
def test_processes_keep_any_share_over_the_epochs(share: float, processes: int) -> None:
    shares = np.array(
        [[share_of_process(share, rank=rank, processes=processes, epoch=epoch) for rank in range(processes)] for epoch in range(1000)]
    )
    assert shares.mean() == pytest.approx(share, abs=0.005)
    assert shares.mean(0) == pytest.approx([share] * processes, abs=0.02)
    assert np.ptp(shares.sum(1)) == 1


def test_a_process_alone_keeps_its_share() -> None:
    assert share_of_process(0.3, rank=0, processes=1, epoch=5) == 0.3


def loader(labelled: list[str], pool: list[str], *, share: float, batch_size: int) -> Any:
    dataset = SimpleNamespace(labelled=np.array(labelled), pool=np.array(pool), labelled_share=share, identifiers=labelled + pool)
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    return StageDataLoader(dataset, batch_size, (4, 4), (4, 4), labels)


def test_every_batch_has_both_kinds_in_random_positions() -> None:
    np.random.seed(0)  # noqa: NPY002
    ours = loader(["a", "b"], ["p", "q", "r"], share=0.25, batch_size=4)
    batches = [ours.get_indices().tolist() for _ in range(60)]
    kinds = [[key in ("a", "b") for key in batch] for batch in batches]
    assert {sum(k) for k in kinds} == {1}
    assert {k.index(True) for k in kinds} == {0, 1, 2, 3}
    assert {key for batch in batches for key in batch} == {"a", "b", "p", "q", "r"}


def test_an_empty_pool_means_labelled_batches() -> None:
    assert set(loader(["a"], [], share=0.5, batch_size=3).get_indices()) == {"a"}
