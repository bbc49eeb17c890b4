"""CutMix by hand: one labelled and one pool sample of 4 x 4 pixels, at two scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from nnunet_ssl.training.cutmix import CutMix, paste_box


def batch(shape: tuple[int, ...] = (4, 4), scales: tuple[tuple[int, ...], ...] = ((4, 4), (2, 2))) -> dict[str, Any]:
    """Sample 0 is labelled (10 everywhere, padding in its first row), sample 1 from the pool (20 everywhere, ignored)."""
    data = torch.stack([torch.full((1, *shape), 10.0), torch.full((1, *shape), 20.0)])
    seg = torch.stack([torch.full((1, *shape), 1), torch.full((1, *shape), 2)]).to(torch.int16)
    extra = torch.stack([torch.full((2, *shape), 1), torch.full((2, *shape), 3)]).to(torch.int16)
    extra[0, 0, 0], extra[0, 1], extra[1, 1] = 0, 10_000, 500
    segs, extras = ([_scaled(t, s) for s in scales] for t in (seg, extra))
    return {"data": data, "target": [*segs, *extras]}


def _scaled(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return interpolate(tensor.float(), shape, mode="nearest-exact").to(tensor.dtype)


def test_paste_by_hand() -> None:
    mixed = batch()
    paste_box(mixed["data"], mixed["target"], source=0, receiver=1, box=((0, 2), (1, 4)))
    data, (seg, seg_half, extra, extra_half) = mixed["data"], mixed["target"]
    assert data[1, 0].tolist() == [[20, 10, 10, 10], [20, 10, 10, 10], [20] * 4, [20] * 4]
    assert seg[1, 0].tolist() == [[2, 1, 1, 1], [2, 1, 1, 1], [2] * 4, [2] * 4]
    assert extra[1, 0].tolist() == [[3, 3, 3, 3], [3, 2, 2, 2], [3] * 4, [3] * 4]
    assert extra[1, 1].tolist() == [[500, *[10_000] * 3], [500, *[10_000] * 3], [500] * 4, [500] * 4]
    # nearest-exact takes rows and columns 1 and 3 of the full patch
    assert seg_half[1, 0].tolist() == [[1, 1], [2, 2]]
    assert extra_half[1, 0].tolist() == [[2, 2], [3, 3]]
    untouched = batch()
    assert torch.equal(data[0], untouched["data"][0])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(mixed["target"], untouched["target"], strict=True))


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 9)])
def test_every_scale_is_what_down_sampling_the_mixed_patch_gives(shape: tuple[int, ...]) -> None:
    scales = (shape, tuple(round(n / 2) for n in shape), tuple(round(n / 4) for n in shape))
    mix = CutMix(probability=1, generator=np.random.default_rng(0))
    for _ in range(20):
        mixed = mix(batch(shape, scales))
        full_seg, full_extra = mixed["target"][0], mixed["target"][3]
        for index, scale in enumerate(scales):
            assert torch.equal(mixed["target"][index], _scaled(full_seg, scale))
            assert torch.equal(mixed["target"][3 + index], _scaled(full_extra, scale))


def test_probability_and_batches_of_one_kind() -> None:
    never, always = (CutMix(probability=p, generator=np.random.default_rng(0)) for p in (0, 1))
    assert torch.equal(never(batch())["data"], batch()["data"])
    assert not torch.equal(always(batch())["data"], batch()["data"])
    pool_only = batch()
    pool_only = {"data": pool_only["data"][1:], "target": [t[1:] for t in pool_only["target"]]}
    assert torch.equal(always(pool_only)["data"], batch()["data"][1:])


def test_a_pool_sample_stays_one() -> None:
    mix = CutMix(probability=1, generator=np.random.default_rng(0))
    for _ in range(20):
        code = mix(batch())["target"][2][1, 0]
        assert (code >= 2).all()


def test_boxes_lie_inside_and_have_the_sides_asked_for() -> None:
    mix = CutMix(probability=1, generator=np.random.default_rng(0))
    for _ in range(100):
        for (start, end), length in zip(mix.draw_box((12, 30)), (12, 30), strict=True):
            assert 0 <= start < end <= length
            assert round(length / 4) <= end - start <= round(length * 2 / 3)
