"""The Python examples of the pages run and print what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest


def test_python_examples(python_page: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(project / python_page), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0
