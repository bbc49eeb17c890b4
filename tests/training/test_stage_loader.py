from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnunet_ssl.training.stage_loader import StageDataLoader, labelled_in_batch, share_of_process


@pytest.mark.parametrize(
    ("batch_size", "share", "expected"),
    [(2, 0.5, 1), (2, 0.01, 1), (2, 0.99, 1), (4, 0.5, 2), (4, 0.25, 1), (5, 0.9, 4), (9, 0.34, 3), (2, 1.0, 2), (1, 1.0, 1)],
)
def test_share(batch_size: int, share: float, expected: int) -> None:
    assert labelled_in_batch(batch_size, share, draw=0.5) == expected


def test_batches_of_one_alternate_by_chance() -> None:
    assert [labelled_in_batch(1, 0.3, draw) for draw in (0.0, 0.29, 0.3, 0.99)] == [1, 1, 0, 0]


@pytest.mark.parametrize(("share", "processes", "labelled"), [(0.5, 2, 1), (0.5, 4, 2), (0.9, 2, 1), (0.1, 4, 1), (0.5, 3, 2), (1.0, 3, 3)])
def test_processes_with_one_sample_each_keep_the_share_and_take_turns(share: float, processes: int, labelled: int) -> None:
    shares = [
        [share_of_process(share, rank=rank, processes=processes, epoch=epoch) for rank in range(processes)] for epoch in range(processes)
    ]
    assert {value for epoch in shares for value in epoch} <= {0.0, 1.0}
    assert [sum(epoch) for epoch in shares] == [labelled] * processes
    assert [sum(of_rank) for of_rank in zip(*shares, strict=True)] == [labelled] * processes
    assert {labelled_in_batch(1, value, draw) for value, draw in ((0.0, 0.0), (0.0, 0.99))} == {0}
    assert {labelled_in_batch(1, 1.0, draw) for draw in (0.0, 0.99)} == {1}


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
