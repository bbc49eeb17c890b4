"""The second stage of a cascade is refused in one line, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kind_commands import KindRun
from tiny_setup import mtimes

from nnunet_ssl.cli import prepare, pseudolabel, report, run

pytestmark = pytest.mark.slow

COMMANDS = {
    "nnssl_prepare": (prepare, ["--preset", "cpu"]),
    "nnssl_run": (run, ["-f", "0", "-device", "cpu", "--preset", "cpu"]),
    "nnssl_pseudolabel": (pseudolabel, ["-f", "0", "-device", "cpu"]),
    "nnssl_report": (report, ["-f", "0"]),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("plans", ["nnUNetPlans", "nnUNetPlans_nnssl_tiny"])
def test_cascade_is_refused(opened: Callable[[str], KindRun], capsys: Any, name: str, plans: str) -> None:
    project = opened("Organs").project
    command, flags = COMMANDS[name]
    flags = [*flags, *(["-u", str(project.unlabelled)] if name in ("nnssl_prepare", "nnssl_run") else [])]
    capsys.readouterr()
    before = mtimes(project.raw, project.preprocessed, project.results)
    assert command.main(["-d", "137", "-c", "3d_cascade_fullres", "-p", plans, *flags]) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"{name}: error: '3d_cascade_fullres' is the second stage of a cascade, which nnunet-ssl does not support; "
        "use 3d_lowres or 3d_fullres.\n"
    )
    assert said.out == ""
    assert mtimes(project.raw, project.preprocessed, project.results) == before
