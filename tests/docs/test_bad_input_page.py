"""The page of bad inputs lists what the tests try, no more and no less."""

from __future__ import annotations

from pathlib import Path

from bad_input_table import page_tables

PAGE = "docs/reference/bad-input.md"


def test_page_holds_the_tables_of_the_tests(project: Path, pages: dict[Path, str]) -> None:
    # after a change: python -c "from bad_input_table import page_tables; print(page_tables())" in tests/support
    assert pages[project / PAGE].partition("\n## ")[2] == page_tables().removeprefix("## ").rstrip("\n") + "\n"
