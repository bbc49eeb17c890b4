"""The band around predicted foreground, and that patches see the same one."""

import numpy as np
import pytest
import torch

from nnunet_ssl.confidence.foreground_band import foreground_band
from nnunet_ssl.losses import patch_foreground_band


def test_one_voxel_grows_to_a_cube() -> None:
    foreground = np.zeros((9, 9, 9), dtype=bool)
    foreground[4, 4, 1] = True
    band = foreground_band(foreground)
    expected = np.zeros_like(foreground)
    # the image ends at one side
    expected[1:8, 1:8, 0:5] = True
    np.testing.assert_array_equal(band, expected)
    assert band.dtype == np.bool_


def test_radius_zero_and_empty() -> None:
    foreground = np.zeros((1, 4, 4), dtype=bool)
    assert not foreground_band(foreground).any()
    foreground[0, 1, 1] = True
    np.testing.assert_array_equal(foreground_band(foreground, radius=0), foreground)


@pytest.mark.parametrize("radius", [1, 3])
def test_max_pooling_on_patches_gives_the_same(radius: int) -> None:
    foreground = np.random.default_rng(0).random((12, 9, 10)) > 0.995
    pooled = patch_foreground_band(torch.from_numpy(foreground)[None, None], radius=radius)[0, 0]
    np.testing.assert_array_equal(foreground_band(foreground, radius=radius), pooled.numpy())
