"""What all tests share: nnU-Net folders of their own, one torch thread, and the optional folder of real data."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

pytest_plugins = ["tiny_setup", "cross_fitted", "stock_models"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that of several workers none is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@dataclass(frozen=True, kw_only=True)
class NnunetEnvironment:
    """nnU-Net's three folders of one test."""

    raw: Path
    preprocessed: Path
    results: Path


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own nnU-Net folders out of reach of every test, and torch on one thread where a test uses it."""
    for variable in [name for name in os.environ if name.startswith("nnUNet_")]:
        monkeypatch.delenv(variable)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture
def nnunet_environment(tmp_path: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch) -> NnunetEnvironment:
    """Empty nnU-Net folders below `tmp_path`, named by the environment variables, with our trainers and without worker processes to spare.

    nnU-Net reads the variables whenever it needs them, so this works whether or not nnunetv2 has been imported before.
    """
    folders = {name: tmp_path / f"nnUNet_{name}" for name in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir()
        monkeypatch.setenv(folder.name, str(folder))
    monkeypatch.setenv("nnUNet_extTrainer", str(PROJECT / "trainers"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setenv("nnUNet_compile", "0")
    return NnunetEnvironment(**folders)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (`hippocampus/`, `brats2021/`); tests that use it are marked `real_data`."""
    given = os.environ.get("NNSSL_TEST_DATA")
    folder = Path(given) if given else PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing (set NNSSL_TEST_DATA to the folder)")
    return folder
