"""The page of dataset kinds names the tests that there are, and the splits file that it shows is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nnunet_ssl.nnunet_api.setup import NnunetSetup

PAGE = "docs/reference/datasets.md"


def test_every_test_of_kinds_is_named(project: Path, pages: dict[Path, str]) -> None:
    named = set(re.findall(r"`(tests/kinds/\w+\.py)`", pages[project / PAGE]))
    there = {path.relative_to(project).as_posix() for path in (project / "tests" / "kinds").glob("test_*.py")}
    assert named == there - {"tests/kinds/test_every_kind.py"}


def test_splits_file_that_is_shown(project: Path, pages: dict[Path, str], nnunet_environment: Any) -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", pages[project / PAGE], re.MULTILINE | re.DOTALL)
    folder = nnunet_environment.preprocessed / "Dataset137_Four"
    folder.mkdir()
    (folder / "splits_final.json").write_text(shown)
    setup = NnunetSetup("Dataset137_Four", "nnUNetPlans", "2d", {}, {})
    assert setup.fold_cases(0) == (["case_1", "case_2"], ["case_3", "case_4"])
    assert setup.fold_cases(1) == (["case_3", "case_4"], ["case_1", "case_2"])
