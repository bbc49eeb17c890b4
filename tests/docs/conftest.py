"""The pages of the documentation, their fenced blocks and command lines; every test of an argument named here runs once per item."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`((?:nnssl|nnUNetv2)_\w+ -[^`\n]*)`(?!`)")


@dataclass(frozen=True)
class Line:
    """A command line as a page shows it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def pages() -> dict[Path, str]:
    """Text of every page."""
    return {path: path.read_text(encoding="utf-8") for path in PAGES}


def fenced(text: str, language: str) -> list[str]:
    """Bodies of the fenced blocks of a language."""
    return [match["body"] for match in _FENCE.finditer(text) if match["language"] == language]


def lines_of(body: str) -> list[str]:
    """Lines of a bash block, continued ones joined, without empty ones and pure comments."""
    joined = body.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.strip().startswith("#")]


def bash_lines() -> Iterator[Line]:
    for path in PAGES:
        for body in fenced(path.read_text(encoding="utf-8"), "bash"):
            yield from (Line(path.relative_to(PROJECT).as_posix(), text) for text in lines_of(body))


def command_spans() -> Iterator[Line]:
    """Commands with flags in running text."""
    for path in PAGES:
        prose = _FENCE.sub("", path.read_text(encoding="utf-8"))
        yield from (Line(path.relative_to(PROJECT).as_posix(), match[1]) for match in _SPAN.finditer(prose))


def own_commands() -> dict[str, str]:
    """Modules and functions of our console scripts, by the name one types."""
    section = (PROJECT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.scripts]\n")[2].partition("\n[")[0]
    return dict(re.findall(r'^(nnssl_\w+) = "(\S+)"$', section, flags=re.MULTILINE))


class _Parser(Exception):  # noqa: N818 (it carries a result)
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def caught_parser(entry: Callable[[], object]) -> argparse.ArgumentParser:
    """The parser that an entry point builds, caught at the moment it would parse."""

    def catch(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Parser(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", catch)  # some of nnU-Net's commands ignore what they do not know
        try:
            entry()
        except _Parser as caught:
            return caught.parser
    raise AssertionError(f"{entry} parses no arguments")


def own_parser(command: str) -> argparse.ArgumentParser:
    """The parser of one of our commands."""
    module_name, _, function = own_commands()[command].partition(":")
    module = importlib.import_module(module_name)
    return module.parser() if hasattr(module, "parser") else caught_parser(lambda: getattr(module, function)([]))


@pytest.fixture(scope="session")
def parser_of() -> Callable[[str], argparse.ArgumentParser]:
    """Gives the parser of any command of ours or of nnU-Net, the real one."""
    from importlib.metadata import entry_points

    nnunet = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("nnUNetv2_")}

    @functools.cache
    def find(command: str) -> argparse.ArgumentParser:
        if command in own_commands():
            return own_parser(command)
        assert command in nnunet, f"there is no command {command}"
        return caught_parser(nnunet[command].load())

    return find


@pytest.fixture(scope="session")
def load_example(project: Path) -> Callable[[str], ModuleType]:
    """Gives the module of a script of `docs/examples`, by its path as a page shows it."""

    @functools.cache
    def load(path: str) -> ModuleType:
        assert (project / path).is_file(), f"there is no script {path}"
        specification = importlib.util.spec_from_file_location(Path(path).stem, project / path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[module.__name__] = module  # dataclasses look their module up there
        specification.loader.exec_module(module)
        return module

    return load


def _identify(value: object) -> str:
    return f"{value.page}: {value.text.partition(' #')[0].strip()}" if isinstance(value, Line) else str(value)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given: dict[str, Callable[[], list[object]]] = {
        "page": lambda: [path.relative_to(PROJECT).as_posix() for path in PAGES],
        "bash_line": lambda: list(bash_lines()),
        "command_span": lambda: list(command_spans()),
        "own_command": lambda: sorted(own_commands()),
        "python_page": lambda: [p.relative_to(PROJECT).as_posix() for p in PAGES if fenced(p.read_text(encoding="utf-8"), "python")],
    }
    for name, values in given.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values(), ids=_identify)
