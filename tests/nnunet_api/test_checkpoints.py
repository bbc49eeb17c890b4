"""nnU-Net's checkpoints are read, and nothing that they might carry is executed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from payload import Payload
from tiny_setup import DATASET, PLANS, Project

from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.nnunet_api.checkpoints import fingerprint, load_checkpoint


def test_checkpoint_of_nnunet(taught_project: Project) -> None:
    path = taught_project.results / DATASET / f"TransASPPTeacherTrainer__{PLANS}__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    checkpoint = load_checkpoint(path)
    # what the evidence predictor and the stage table rely on
    assert set(checkpoint) >= {"network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes", "logging"}
    assert checkpoint["trainer_name"] == "TransASPPTeacherTrainer"
    assert checkpoint["init_args"]["configuration"] == "3d_fullres"
    assert set(checkpoint["logging"]) >= {"epoch_start_timestamps", "epoch_end_timestamps"}
    assert all(isinstance(value, torch.Tensor) for value in checkpoint["network_weights"].values())


def test_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    logged = {"loss": [np.float64(0.5), np.float32(0.25)], "epochs": np.int64(3), "flag": np.bool_(True), "dice": np.arange(3.0)}
    torch.save({"network_weights": {}, "logging": logged}, tmp_path / "a.pth")
    read = load_checkpoint(tmp_path / "a.pth")["logging"]
    assert read["loss"] == [0.5, 0.25]
    assert np.array_equal(read["dice"], [0, 1, 2])


def test_checkpoint_that_was_written_with_the_other_numpy(tmp_path: Path) -> None:
    """The functions that build numbers moved to another module in NumPy 2."""
    torch.save({"network_weights": {}, "logging": [np.float64(0.5), np.arange(3.0)]}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(tmp_path / "b.pth", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            here, there = (b"numpy._core.", b"numpy.core.") if b"numpy._core." in content else (b"numpy.core.", b"numpy._core.")
            target.writestr(name, content.replace(here, there))
            assert (here in content) == name.endswith("data.pkl")
    read = load_checkpoint(tmp_path / "b.pth")["logging"]
    assert read[0] == 0.5
    assert np.array_equal(read[1], [0, 1, 2])


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    torch.save({"network_weights": {}, "extra": Payload(tmp_path / "boom")}, tmp_path / "a.pth")
    with pytest.raises(StateError, match=r"objects other than weights and numbers and was not opened \(posix\.mkdir\)"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "boom").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(SetupError, match=r"a\.pth is missing; train the model first"):
        load_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(StateError, match="not a checkpoint of nnU-Net"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(StateError, match="not a checkpoint of nnU-Net"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_checkpoint(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pth"
    torch.save({"network_weights": {"a": torch.zeros(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StateError, match=r"a\.pth"):
        load_checkpoint(path)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"one")
    first = fingerprint(path)
    assert len(first) == 12
    assert first == fingerprint(path)
    path.write_bytes(b"three")
    second = fingerprint(path)
    assert second != first
    (tmp_path / "b.pth").write_bytes(b"three")
    assert fingerprint(tmp_path / "b.pth") == second
