"""Links between pages lead somewhere, and every page can be reached from the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LONGEST = 150
"""Characters in a line of prose."""
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    """Targets of links and images that are not on the web."""
    targets = [match["target"] for match in _LINK.finditer(without_code(text))]
    return [target for target in targets if not target.startswith(("https://", "http://"))]


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolve(page: Path, target: str) -> tuple[Path, str]:
    name, _, anchor = target.partition("#")
    return (page.parent / name).resolve() if name else page, anchor


def test_links_resolve(page: str, project: Path, pages: dict[Path, str]) -> None:
    here = project / page
    for target in links(pages[here]):
        path, anchor = resolve(here, target)
        assert path.is_file(), f"{page}: {target} leads nowhere"
        assert path.is_relative_to(project), f"{page}: {target} leads out of the project"
        if anchor:
            assert anchor in anchors(pages[path]), f"{page}: {target} names no heading"


def test_every_page_is_reachable_from_the_index(project: Path, pages: dict[Path, str]) -> None:
    reached, waiting = set(), [project / "docs" / "index.md"]
    while waiting:
        here = waiting.pop()
        reached.add(here)
        found = {resolve(here, target)[0] for target in links(pages[here])}
        waiting += [path for path in found if path in pages and path not in reached]
    assert set(pages) <= reached
    listed = {resolve(project / "docs" / "index.md", t)[0] for t in links(pages[project / "docs" / "index.md"])}
    assert {path for path in pages if path.is_relative_to(project / "docs")} - {project / "docs" / "index.md"} <= listed


def test_every_figure_is_shown(project: Path, pages: dict[Path, str]) -> None:
    shown = {resolve(page, target)[0] for page, text in pages.items() for target in links(text)}
    assert {path for path in (project / "docs" / "figures").iterdir() if path.suffix in (".svg", ".png")} <= shown


def test_no_page_has_placeholders(page: str, project: Path, pages: dict[Path, str]) -> None:
    assert not re.search(r"\b(TODO|TBD|FIXME|XXX|lorem)\b", pages[project / page], flags=re.IGNORECASE)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [("## Not in this version", "not-in-this-version"), ("## 1. Unlearning: sign and bound", "1-unlearning-sign-and-bound")],
)
def test_anchor_of_a_heading(heading: str, anchor: str) -> None:
    assert anchors(f"{heading}\n\ntext\n") == {anchor}


def test_prose_is_wrapped(page: str, project: Path, pages: dict[Path, str]) -> None:
    """Lines of code and tables are as long as they are; a change in a longer line of prose cannot be reviewed."""
    prose = re.sub(r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), pages[project / page], flags=re.MULTILINE | re.DOTALL)
    long = [number for number, line in enumerate(prose.splitlines(), start=1) if len(line) > LONGEST and not line.startswith("|")]
    assert long == []
