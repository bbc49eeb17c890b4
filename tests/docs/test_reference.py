"""The reference pages list what the code has: every flag, every setting with its default, every entry of a file, every message."""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.locations import MANIFEST_FILE, start_over


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of the same or a higher level."""
    level = heading.split(" ")[0]
    lines = text.splitlines()
    start = lines.index(heading) + 1
    end = next((i for i, line in enumerate(lines[start:], start) if re.match(rf"#{{1,{len(level)}}} ", line)), len(lines))
    return "\n".join(lines[start:end])


def rows(text: str) -> list[list[str]]:
    """Cells of every table row but the headings."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    heads = {i - 1 for i, line in enumerate(table) if re.fullmatch(r"\|[-|]+\|", line)}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- cli.md


def test_cli_page_has_every_command(own_command: str, pages: dict[Path, str], project: Path) -> None:
    headings = re.findall(r"^## (\w+)$", pages[project / "docs/reference/cli.md"], flags=re.MULTILINE)
    assert own_command in headings
    assert len(headings) == len(set(headings))


def test_cli_page_lists_exactly_the_flags(
    own_command: str, pages: dict[Path, str], project: Path, parser_of: Callable[[str], argparse.ArgumentParser]
) -> None:
    listed = {}
    for flag, default, meaning in rows(section(pages[project / "docs/reference/cli.md"], f"## {own_command}")):
        names = [code.split(" ")[0] for code in codes(flag)]
        listed[tuple(names)] = (flag, default, meaning)
    actions = {tuple(action.option_strings): action for action in parser_of(own_command)._actions}
    assert set(listed) == set(actions)
    for names, action in actions.items():
        flag, default, meaning = listed[names]
        assert (default == "required") == bool(action.required), names
        assert meaning, names
        if action.choices is not None:
            assert "{" + ",".join(map(str, action.choices)) + "}" in flag, names
        if action.nargs == "+":
            assert "..." in flag, names
        if action.default not in (None, False, [], (), argparse.SUPPRESS):
            assert codes(default) == [str(action.default)], names


def test_cli_page_says_which_flags_a_control_takes(
    pages: dict[Path, str], project: Path, parser_of: Callable[[str], argparse.ArgumentParser]
) -> None:
    from nnunet_ssl.cli.run_control import _NO_USE

    parser = parser_of("nnssl_run")
    (of_settings,) = (group for group in parser._action_groups if group.title == "method")
    refused = {*_NO_USE, *(flag for action in of_settings._group_actions for flag in action.option_strings)}
    taken = {flag for action in parser._actions for flag in action.option_strings} - refused - {"-h", "--help", "--control"}
    table = rows(section(pages[project / "docs/reference/cli.md"], "## nnssl_run"))
    (meaning,) = (meaning for flag, _, meaning in table if flag.startswith("`--control "))
    listed = [flag for code in codes(meaning.partition(" Takes ")[2]) for flag in code.split()]
    assert sorted(listed) == sorted(taken)


# ---- plans.md


def settings(kind: Any = MethodConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, with its default."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], f"{prefix}{field.name}.")
        else:
            assert field.default is not MISSING
            yield f"{prefix}{field.name}", field.default


def test_plans_page_lists_exactly_the_settings(pages: dict[Path, str], project: Path) -> None:
    text, listed = pages[project / "docs/reference/plans.md"], {}
    for part in fields(MethodConfig):
        for name, default, meaning in rows(section(text, f"## {part.name}")):
            assert name == f"`{codes(name)[0]}`"
            assert meaning
            listed[codes(name)[0]] = json.loads(codes(default)[0])
    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in settings()}
    assert listed == expected


def test_plans_page_names_every_choice(pages: dict[Path, str], project: Path) -> None:
    text = pages[project / "docs/reference/plans.md"]
    for part in fields(MethodConfig):
        kind = get_type_hints(MethodConfig)[part.name]
        for name, hint in get_type_hints(kind).items():
            choices = [c for c in get_args(hint) if isinstance(c, str)]
            if choices:
                (row,) = [r for r in rows(section(text, f"## {part.name}")) if codes(r[0])[0] == f"{part.name}.{name}"]
                assert set(choices) <= set(codes(row[2])), name


def test_method_page_names_every_unlearning_mode(pages: dict[Path, str], project: Path) -> None:
    from nnunet_ssl.config import CASE_SCORES, UNLEARNING_MODES

    names = {codes(row[0])[0] for row in rows(pages[project / "docs/concepts/method.md"]) if codes(row[0])}
    assert {*UNLEARNING_MODES, *CASE_SCORES} <= names


def test_settings_in_running_text_exist(page: str, pages: dict[Path, str], project: Path) -> None:
    known = dict(settings())
    parts = {f.name for f in fields(MethodConfig)}
    found = {code for code in codes(pages[project / page]) if re.fullmatch(r"[a-z]+(\.[a-z_]+)+", code) and code.split(".")[0] in parts}
    assert found <= set(known)


def test_overlay_keys_are_the_ones_read(pages: dict[Path, str], project: Path) -> None:
    from nnunet_ssl.data.overlay import _KEYS

    table = section(pages[project / "docs/reference/plans.md"], "## Overlays").partition("Shipped overlays:")[0]
    assert {codes(row[0])[0] for row in rows(table)} == _KEYS


# ---- files.md


@pytest.mark.parametrize(
    ("heading", "module", "kind"),
    [
        ("### nnssl.json", "nnunet_ssl.data.stage_sidecar", "StageSidecar"),
        ("### manifest.json", "nnunet_ssl.data.manifest", "Manifest"),
    ],
)
def test_files_page_lists_exactly_the_entries(heading: str, module: str, kind: str, pages: dict[Path, str], project: Path) -> None:
    text = section(pages[project / "docs/reference/files.md"], heading).partition("Each entry of `stages`:")[0]
    imported = __import__(module, fromlist=[kind])
    assert [codes(row[0])[0] for row in rows(text)] == [f.name for f in fields(getattr(imported, kind))]


def test_files_page_lists_the_entries_of_a_stage(pages: dict[Path, str], project: Path) -> None:
    from nnunet_ssl.data.manifest import StageRecord

    text = section(pages[project / "docs/reference/files.md"], "### manifest.json").partition("Each entry of `stages`:")[2]
    assert [codes(row[0])[0] for row in rows(text)] == [f.name for f in fields(StageRecord)]


def test_files_page_lists_the_columns_of_the_ranking(pages: dict[Path, str], project: Path) -> None:
    from nnunet_ssl.data.ranking_file import COLUMNS

    text = section(pages[project / "docs/reference/files.md"], "### ranking_&lt;t&gt;.csv")
    assert [codes(row[0])[0] for row in rows(text)] == list(COLUMNS)


def test_files_page_lists_the_columns_of_the_predictions(pages: dict[Path, str], project: Path) -> None:
    from nnunet_ssl.prediction.output_folder import COLUMNS, VOLUME

    text = section(pages[project / "docs/reference/files.md"], "### cases.csv")
    assert [codes(row[0])[0] for row in rows(text)] == [*COLUMNS, f"{VOLUME}<class>"]


# ---- errors.md

_GAP = "\0"


def messages_in(package: Path) -> list[str]:
    """Every text in the sources, what is filled in at run time replaced by a gap."""
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else _filled_in(v) for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%\.?\d*[sdf]", _GAP, node.value).replace("%%", "%"))
    return found


def _filled_in(value: ast.expr) -> str:
    """A gap; for what messages share, that text with its own gaps."""
    shared = any(isinstance(node, ast.Name) and node.id == "start_over" for node in ast.walk(value))
    return start_over(Path(_GAP)).replace(f"{_GAP}/{MANIFEST_FILE}", _GAP) if shared else _GAP


def quoted_messages(text: str) -> list[str]:
    return [codes(row[0])[0] for row in rows(text) if codes(row[0])]


def test_quoted_messages_stand_in_the_sources(pages: dict[Path, str], project: Path) -> None:
    sources = messages_in(project / "nnunet_ssl")
    quoted = quoted_messages(pages[project / "docs/reference/errors.md"])
    assert len(quoted) > 40
    unknown = [m for m in quoted if not any(matches(m, source) for source in sources)]
    assert unknown == []


def matches(message: str, source: str) -> bool:
    """Whether a quoted message, `<...>` standing for anything, is a part of a text of the sources."""
    parts = [re.escape(part) for part in re.split(r"<[^<>]+>", message)]
    return re.search(f"(?:{_GAP}|<[a-z]+>)".join(parts), source) is not None


def test_matching_of_messages() -> None:
    assert matches("case <case> is bad", f"the case {_GAP} is bad: {_GAP}")
    assert not matches("case <case> is worse", f"the case {_GAP} is bad")


# ---- what a run costs, in the README


def test_costs_follow_from_the_defaults(pages: dict[Path, str], project: Path) -> None:
    """One training each of teachers and of all students together; a sweep by every teacher, and one by every student but the last."""
    method = MethodConfig()
    assert method.agreement.weight > 0
    assert method.teacher.length == method.student.length
    students = method.curriculum.num_stages - 1
    text = pages[project / "README.md"]
    for flags, teachers, runs in (("-f 0", 1, 1), ("-f 0 1 2 3 4", 5, 5), ("-f all", 5, 1)):
        (line,) = re.findall(rf"^\| `{flags}` \| (.+) \|$", text, flags=re.MULTILINE)
        ours, given, sweeps = (int(cell.split()[0]) for cell in line.split(" | "))
        assert (ours, given, sweeps) == (teachers + runs, runs, teachers + runs * students), flags
