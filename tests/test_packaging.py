"""The built distributions hold everything: an sdist, the wheel made from it, and an installation far from the source tree."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = {f"nnssl_{name}" for name in ("plan", "prepare", "pseudolabel", "run", "report", "predict", "demo", "trainers")}

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without the caller's Python and nnU-Net settings; returns its stdout, fails with its stderr."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "nnUNet_", "COV_"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_files(folder: str) -> set[str]:
    """What a folder of the source tree contributes to the wheel, relative to the folder."""
    return {
        path.relative_to(PROJECT / folder).as_posix()
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made from the sdist, so that a file the sdist lacks is missed by the tests below."""
    pytest.importorskip("build", reason="needs the dev extra: pip install -e '.[dev]'")
    pytest.importorskip("hatchling", reason="needs the dev extra: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, PROJECT, cwd=out)
    assert len(list(out.glob("nnunet_ssl-*.tar.gz"))) == 1
    (built,) = out.glob("nnunet_ssl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and, by a path file, the other packages of the present one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python")
    # First the wheel, then the path file: else pip finds the package already there, in the present environment.
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=environment.parent)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    present = [entry for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}]
    (packages / "present_environment.pth").write_text("\n".join(present) + "\n", encoding="utf-8")
    return environment


def test_wheel_holds_the_whole_package_trainers_and_plans(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"nnunet_ssl/{name}" for name in source_files("nnunet_ssl")}
    for folder in ("trainers", "plans"):
        assert source_files(folder), f"{folder} is empty"
        expected |= {f"nnunet_ssl/{folder}/{name}" for name in source_files(folder)}
    assert names == expected


def test_wheel_declares_the_commands_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
        assert set(scripts["console_scripts"]) == COMMANDS
        assert archive.read(f"{info}/licenses/LICENSE") == (PROJECT / "LICENSE").read_bytes()


def test_installed_package_finds_its_own_trainers_and_plans(installed: Path, tmp_path: Path) -> None:
    trainers = Path(run(installed / "bin" / "nnssl_trainers", cwd=tmp_path).removesuffix("\n"))
    probe = "from nnunet_ssl import locations; print(locations.presets_folder())"
    plans = Path(run(installed / "bin" / "python", "-c", probe, cwd=tmp_path).removesuffix("\n"))
    for folder in (trainers, plans):
        assert folder.is_relative_to(installed.resolve())
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert found == source_files(folder.name)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_installed_command_explains_itself(installed: Path, tmp_path: Path, command: str) -> None:
    text = run(installed / "bin" / command, "--help", cwd=tmp_path)
    assert text.startswith(f"usage: {command}")
    assert "example" in text.lower()
