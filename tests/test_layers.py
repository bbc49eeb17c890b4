"""The package's layers: who may import whom, which parts stay free of nnU-Net and of files, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "nnunet_ssl"
TRAINERS = PROJECT / "trainers"

_BASE = {"errors", "config", "config_section", "controls", "locations", "disk", "names", "schemas"}
_PURE = {"networks", "losses", "confidence"}
_METHOD = {"training", "pseudolabel", "prediction", "report"}
_UP_TO_DATA = _BASE | _PURE | {"machines", "nnunet_api", "data"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors", "config_section"},
    "config_section": {"errors"},
    "controls": set(),
    "locations": {"errors"},
    "disk": {"errors"},
    "names": {"errors"},
    "schemas": {"errors"},
    **dict.fromkeys(_PURE, _BASE),
    "nnunet_api": _BASE | _PURE,
    "machines": {"errors", "disk"},
    "data": _BASE | _PURE | {"machines", "nnunet_api"},
    **dict.fromkeys(_METHOD, _UP_TO_DATA),
    "run": _UP_TO_DATA | _METHOD,
    "demo": _UP_TO_DATA | _METHOD | {"run"},
    "cli": _UP_TO_DATA | _METHOD | {"run", "demo"},
}
"""Every part of the package and the other parts it may import; the plain `nnunet_ssl` (its version) is open to all."""

NNUNET = {"nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils"}
NNUNET_ALLOWED = {"nnunet_api", "training"}
FILE_MODULES = {"pathlib", "os", "io", "shutil", "tempfile", "glob", "pickle", "SimpleITK", "nibabel", "blosc2", "tifffile"}
FILE_CALLS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes"),
    *("fromfile", "tofile", "memmap", "loadtxt", "savetxt", "genfromtxt", "savez", "savez_compressed", "from_file"),
    *("torch.load", "torch.save", "np.load", "np.save", "numpy.load", "numpy.save", "json.load", "json.dump"),
}

COMMANDS = ("plan", "prepare", "pseudolabel", "run", "report", "predict", "demo", "trainers")
TORCH_FREE = (
    "nnunet_ssl",
    "nnunet_ssl.errors",
    "nnunet_ssl.config",
    "nnunet_ssl.locations",
    "nnunet_ssl.disk",
    "nnunet_ssl.cli",
    "nnunet_ssl.cli.command",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, *, package: str) -> Iterator[str]:
    """Full names of all modules a source imports, wherever the import stands: at the top, in a function, for type checking, by name.

    Args:
        source: the source.
        package: the package that relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called_name(node).rsplit(".", 1)[-1] in {"import_module", "__import__"}:
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def called_name(node: ast.Call) -> str:
    """Dotted name of what is called, as far as it is written out: `np.load`, `open`, `.read_text`."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def layer_violations(part: str, source: str, *, package: str) -> set[str]:
    """Imports of other parts of `nnunet_ssl`, or of nnU-Net, that a part may not have."""
    found = set()
    for name in imported_modules(source, package=package):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if (top == "nnunet_ssl" and other in MAY_IMPORT and other != part and other not in MAY_IMPORT[part]) or (
            top in NNUNET and part not in NNUNET_ALLOWED
        ):
            found.add(name)
    return found


def file_accesses(source: str) -> set[str]:
    """Modules and calls with which a source could reach the file system."""
    found = {name for name in imported_modules(source, package="") if name.split(".")[0] in FILE_MODULES}
    calls = {called_name(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    return found | {name for name in calls if name in FILE_CALLS or name.rsplit(".", 1)[-1] in FILE_CALLS}


def package_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def package_of(path: Path) -> str:
    name = module_name(path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("path", package_files(), ids=name_of)
def test_module_imports_only_lower_layers(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} has no place in the layers; give it one in MAY_IMPORT"
    assert layer_violations(part, path.read_text(encoding="utf-8"), package=package_of(path)) == set()


@pytest.mark.parametrize("path", [path for path in package_files() if part_of(path) in _PURE], ids=name_of)
def test_networks_losses_and_confidence_touch_no_files(path: Path) -> None:
    assert file_accesses(path.read_text(encoding="utf-8")) == set()


def test_every_part_has_modules() -> None:
    # Without this, a moved folder would leave the tests above with nothing to look at.
    assert {part_of(path) for path in package_files()} == set(MAY_IMPORT)


def test_trainers_only_re_export_training() -> None:
    files = sorted(TRAINERS.glob("*.py"))
    assert files
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = [node for node in tree.body if not isinstance(node, ast.Expr | ast.Assign)]
        assert all(isinstance(node, ast.ImportFrom) and node.level == 0 for node in statements), f"{path.name}: more than re-exports"
        modules = {node.module for node in statements if isinstance(node, ast.ImportFrom)} - {"__future__"}
        assert modules
        assert all(f"{module}.".startswith("nnunet_ssl.training.") for module in modules), f"{path.name}: {modules}"


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("errors", "from nnunet_ssl.config import MethodConfig"),
        ("networks", "from nnunet_ssl.losses.dual_loss import DualPoolLoss"),
        ("networks", "from nnunet_ssl import losses"),
        ("losses", "from ..confidence import evidence"),
        ("confidence", "def f():\n    import nnunet_ssl.data.pool"),
        ("losses", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nnunetv2.training.loss.dice import SoftDiceLoss"),
        ("networks", "import batchgeneratorsv2.helpers as helpers"),
        ("confidence", "import importlib\nimportlib.import_module('acvl_utils.cropping_and_padding')"),
        ("training", "from nnunet_ssl.pseudolabel.stage import write_stage"),
        ("pseudolabel", "from nnunet_ssl.report import page"),
        ("run", "import nnunetv2.paths"),
        ("run", "from nnunet_ssl.demo.synthetic import write_synthetic_dataset"),
        ("data", "from nnunet_ssl.cli.command import command"),
    ],
)
def test_checker_sees_a_forbidden_import(part: str, source: str) -> None:
    assert len(layer_violations(part, source, package=f"nnunet_ssl.{part}")) >= 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("cli", "from nnunet_ssl import __version__\nfrom nnunet_ssl.run.machine import run"),
        ("networks", "from .attention import Gate\nfrom nnunet_ssl.networks import blocks\nimport torch"),
        ("training", "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\nfrom nnunet_ssl.data import pool"),
    ],
)
def test_checker_accepts_an_allowed_import(part: str, source: str) -> None:
    assert layer_violations(part, source, package=f"nnunet_ssl.{part}") == set()


@pytest.mark.parametrize(
    "source",
    ["from pathlib import Path", "import os.path", "open('x')", "p.read_text()", "np.load('x')", "torch.load(p)", "a.tofile(p)"],
)
def test_checker_sees_a_file_access(source: str) -> None:
    assert len(file_accesses(source)) >= 1


def test_checker_takes_no_other_call_for_a_file_access() -> None:
    assert file_accesses("import numpy as np\nnetwork.load_state_dict(weights)\nnp.stack([a])\nself.open_set") == set()


def heavy_after(statement: str, *heavy: str) -> list[str]:
    """Those of the modules `heavy` that a fresh interpreter has imported after a statement."""
    probe = f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n{statement}\nprint('loaded:', *(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("module", [*TORCH_FREE, *(f"nnunet_ssl.cli.{name}" for name in COMMANDS)])
def test_import_needs_no_torch(module: str) -> None:
    assert heavy_after(f"import {module}", "torch", "nnunetv2", "matplotlib", "SimpleITK") == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_torch(name: str) -> None:
    statement = (
        f"from nnunet_ssl.cli.{name} import main\nsys.argv = ['nnssl_{name}', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\nelse:\n    raise AssertionError('no exit')"
    )
    assert heavy_after(statement, "torch", "nnunetv2", "matplotlib", "SimpleITK") == []


def test_import_probe_sees_a_loaded_module() -> None:
    assert heavy_after("import json.decoder", "json", "torch") == ["json"]
