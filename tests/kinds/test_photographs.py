"""2D: PNG files of three colours each, and the split that nnU-Net makes of six cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dataset_kinds import POOL, scene
from kind_commands import KindRun
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.preprocessing import check_case

pytestmark = pytest.mark.slow

Opened = Callable[[str], KindRun]


def test_colours_are_channels_of_one_plane(opened: Opened) -> None:
    kind_run = opened("Photographs")
    pool = load_pool(kind_run.open().setup)
    for case in POOL:
        image = nnUNetDatasetBlosc2(str(pool.folder), [case]).load_case(case)[0][:]
        expected, _ = scene(kind_run.kind, case)
        assert image.shape == expected.shape == (3, 1, 38, 34)
        colours = expected.clip(0, 255).astype(np.uint8)
        # nnU-Net's z-score of each colour
        for channel, colour in zip(image, colours.astype(np.float32), strict=True):
            np.testing.assert_allclose(channel, (colour - colour.mean()) / colour.std(), atol=1e-3)


def test_split_is_the_one_that_nnunet_makes(opened: Opened) -> None:
    kind_run = opened("Photographs")
    splits = json.loads((kind_run.preprocessed / "splits_final.json").read_text())
    assert len(splits) == 5
    run = kind_run.open()
    stage = json.loads((kind_run.project.preprocessed / run.manifest.stages[0].dataset / "splits_final.json").read_text())
    assert stage[0] == {"train": splits[0]["train"] + run.manifest.stages[0].cases, "val": splits[0]["val"]}
    assert stage[1:] == splits[1:]
    trained = {path.stem for path in (run.student(1).fold_folder(0) / "validation").glob("*.png")}
    assert trained == set(splits[0]["val"])


@pytest.mark.parametrize("colours", [1, 4])
def test_photograph_of_another_kind_is_refused(opened: Opened, tmp_path: Path, colours: int) -> None:
    """A grey or transparent photograph among coloured ones would fail in the network, after hours."""
    pixels = np.full((8, 9, colours), 100, dtype=np.uint8)
    path = tmp_path / "grey_0000.png"
    sitk.WriteImage(sitk.GetImageFromArray(pixels if colours > 1 else pixels[..., 0], isVector=colours > 1), str(path))
    plans = opened("Photographs").open().setup.plans
    with pytest.raises(InputError, match=f"case 'grey': .*hold {colours} channels where labelled cases have 3"):
        check_case("grey", [str(path)], plans, "2d", [0, 1])
