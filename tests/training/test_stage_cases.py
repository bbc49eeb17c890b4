"""Cases of a stage as the loader reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from nnunet_ssl.errors import StateError
from nnunet_ssl.training.extra_channels import ExtraLayout
from nnunet_ssl.training.stage_dataset import SegmentationStack, StageDataset

LAYOUT = ExtraLayout(num_confidence=1, num_probabilities=2, heads=((0,), (1,)))


class Base:
    identifiers = ("lab", "pool")

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        seg = np.arange(27).reshape(1, 3, 3, 3).astype(np.int8) % 2
        return np.zeros((1, 3, 3, 3)), seg, None, {"name": identifier}


def dataset(folder: Path, share: float = 0.5) -> StageDataset:
    return StageDataset(Base(), targets_folder=folder, layout=LAYOUT, pool_cases=["pool"], labelled_share=share)


@pytest.mark.parametrize("bbox", [[[0, 3], [0, 3], [0, 3]], [[-2, 2], [1, 5], [0, 3]], [[1, 2], [2, 3], [0, 1]]])
def test_stack_crops_and_pads_like_the_array_it_stands_for(bbox: list[list[int]]) -> None:
    segmentation = np.random.default_rng(0).integers(0, 3, (1, 3, 3, 3)).astype(np.int8)
    extras = np.random.default_rng(1).integers(0, 9, (2, 3, 3, 3)).astype(np.int16)
    stack = SegmentationStack(segmentation, num_extras=2, read_extras=lambda _, index: extras[index])
    assert (stack.shape, stack.ndim, stack.dtype) == ((3, 3, 3, 3), 4, np.int16)
    whole = np.concatenate([segmentation, extras])
    ours, plain = (crop_and_pad_nd(a, bbox, -1, cast_cropped_to=np.int16) for a in (stack, whole))
    np.testing.assert_array_equal(ours, plain)
    assert ours.dtype == np.int16


def test_labelled_and_pool_case(tmp_path: Path) -> None:
    targets = np.random.default_rng(0).integers(0, 10_000, (4, 3, 3, 3)).astype(np.int16)
    blosc2.asarray(targets, urlpath=str(tmp_path / "pool.b2nd"))
    cases = dataset(tmp_path)
    everything = (slice(None),) * 4
    pool, labelled = cases.load_case("pool")[1][everything], cases["lab"][1][everything]
    np.testing.assert_array_equal(pool[1:], targets)
    np.testing.assert_array_equal(labelled[1:], LAYOUT.of_manual_label(labelled[:1]))
    assert (cases.labelled.tolist(), cases.pool.tolist()) == (["lab"], ["pool"])


def test_missing_or_wrong_targets(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="'pool' are missing"):
        dataset(tmp_path).load_case("pool")
    (tmp_path / "pool.b2nd").write_bytes(b"damaged")
    with pytest.raises(StateError, match=r"'pool' cannot be read \(.*pool\.b2nd: .*write the stage again"):
        dataset(tmp_path).load_case("pool")
    (tmp_path / "pool.b2nd").unlink()
    blosc2.asarray(np.zeros((3, 3, 3, 3), np.int16), urlpath=str(tmp_path / "pool.b2nd"))
    with pytest.raises(StateError, match=r"have shape \(3, 3, 3, 3\), expected \(4, 3, 3, 3\)"):
        dataset(tmp_path).load_case("pool")


def _report_share(cases: StageDataset, queue: Any, changed: Any) -> None:
    changed.wait(30)
    queue.put(cases.labelled_share)


def test_a_change_of_the_share_reaches_other_processes(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("fork")
    queue, changed, cases = context.Queue(), context.Event(), dataset(tmp_path)
    process = context.Process(target=_report_share, args=(cases, queue, changed))
    process.start()
    cases.labelled_share = 1.0
    changed.set()
    assert queue.get(timeout=30) == 1.0
    process.join()
