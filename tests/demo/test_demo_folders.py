"""nnU-Net's variables during the demo, and as they were afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_ssl.demo.demo_folders import ROOTS, demo_folders


def test_variables_hold_within_the_block_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/the/users/own")
    monkeypatch.setenv("nnUNet_n_proc_DA", "7")
    before = dict(os.environ)
    with demo_folders(tmp_path):
        assert [os.environ[name] for name in ROOTS] == [str(tmp_path / name) for name in ROOTS]
        assert all((tmp_path / name).is_dir() for name in ROOTS)
        assert [os.environ[name] for name in ("nnUNet_n_proc_DA", "nnUNet_compile")] == ["7", "0"]
    assert dict(os.environ) == before


def test_variables_come_back_after_a_failure(tmp_path: Path) -> None:
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), demo_folders(tmp_path):
        raise ZeroDivisionError
    assert dict(os.environ) == before
