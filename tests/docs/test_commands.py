"""Every command line that a page shows can be typed: command, arguments and flags are those of the real parsers."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.locations import PREDICTIONS

PLACEHOLDERS = {"FOLD": "0", "STAGE_ID": "601"}
SHELL = re.compile(r"export (?P<name>\w+)=(?P<value>\S+)$")
KNOWN_VARIABLES = {"nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"}


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse, with the parser's own message where it refuses."""
    try:
        return parser.parse_args(arguments)
    except SystemExit as stop:
        raise AssertionError(f"{parser.prog} refuses {' '.join(arguments)} (exit code {stop.code})") from stop


def check_make(words: list[str], project: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (project / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert words[1:]
    assert set(words[1:]) <= set(targets)


def check_export(text: str) -> None:
    match = SHELL.match(text)
    assert match, f"{text}: not of the form export NAME=VALUE"
    assert match["name"] in KNOWN_VARIABLES
    if match["name"] == "nnUNet_extTrainer":
        assert match["value"] == '"$(nnssl_trainers)"'


def test_shown_command_can_be_typed(
    bash_line: Any, parser_of: Callable[[str], argparse.ArgumentParser], load_example: Callable[[str], Any], project: Path
) -> None:
    program, *arguments = bash_line.words
    if program == "make":
        check_make(bash_line.words, project)
    elif program == "export":
        check_export(bash_line.text)
    elif program == "pip":
        assert arguments == ["install", "."]
    elif program == "python":
        parse(load_example(arguments[0]).parser(), arguments[1:])
    else:
        parsed = parse(parser_of(program), [PLACEHOLDERS.get(a, a) for a in arguments])
        for name in ("tr", "student_tr"):
            trainer = getattr(parsed, name, None)
            known = {"nnUNetTrainer", *our_trainers(project), *([PREDICTIONS] if program.startswith("nnssl_") else [])}
            assert trainer is None or isinstance(trainer, list) or trainer in known


def our_trainers(project: Path) -> set[str]:
    source = (project / "trainers" / "nnssl_trainers.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(\w+Trainer)"', source))


def test_flags_in_running_text_exist(command_span: Any, parser_of: Callable[[str], argparse.ArgumentParser]) -> None:
    program, *arguments = command_span.words
    flags = {flag for action in parser_of(program)._actions for flag in action.option_strings}
    assert {a for a in arguments if a.startswith("-")} <= flags


def test_shipped_presets_are_the_ones_shown(project: Path, pages: dict[Path, str]) -> None:
    shipped = {path.stem for path in (project / "plans").glob("*.json")}
    for page in ("docs/reference/plans.md", "docs/how-to/choose-settings.md"):
        rows = re.findall(r"^\| `(\w+)` \|", pages[project / page], flags=re.MULTILINE)
        assert shipped <= set(rows), page
    shown = {name for text in pages.values() for name in re.findall(r"--preset ([a-z0-9]\w*)(?![\w.])", text)}
    assert shown <= shipped


def test_settings_named_with_set_exist(pages: dict[Path, str]) -> None:
    from nnunet_ssl.config import MethodConfig

    recommended = [text for path, text in pages.items() if path.name != "bad-input.md"]  # that page shows what is refused
    shown = {match for text in recommended for match in re.findall(r"--set ([a-z_]+(?:\.[a-z_]+)+)=([^\s`]+)", text)}
    assert shown
    for name, value in shown:
        MethodConfig().with_settings({name: json.loads(value)})


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("nnssl_prepare -d 137 -c 3d_fullres -u x", False),
        ("nnssl_prepare -d 137 -c 3d_fullres -i x", True),
        ("nnssl_pseudolabel -d 137 -c 3d_fullres", True),
        ("nnUNetv2_train 137 3d_fullres 0 -tr nnUNetTrainer", False),
        ("nnUNetv2_train 137 3d_fullres 0 -trainer nnUNetTrainer", True),
        ("nnUNetv2_predict -d 137 -c 3d_fullres -f 0 -i x", True),
    ],
)
def test_check_sees_a_wrong_line(
    text: str, refused: bool, parser_of: Callable[[str], argparse.ArgumentParser], capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = text.split()
    if refused:
        with pytest.raises(AssertionError, match="refuses"):
            parse(parser_of(program), arguments)
    else:
        parse(parser_of(program), arguments)
    capsys.readouterr()


def test_make_replaces_an_environment_of_another_python(project: Path, tmp_path: Path) -> None:
    """An environment that is there keeps its interpreter unless it is emptied."""
    python = tmp_path / "python9"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit 1\n')
    python.chmod(0o755)
    command = ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (tmp_path / "asked").read_text() == f"-m venv --clear {tmp_path / 'venv'}\n"


def test_make_empties_nothing_but_its_own_environment(project: Path, tmp_path: Path) -> None:
    for name in ("thesis.tex", "pyvenv.cfg"):
        (tmp_path / name).write_text("all of it")
    done = subprocess.run(["make", "venv", f"VENV={tmp_path}"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"{tmp_path} was not made by this Makefile, and would be emptied: remove it, or name another VENV" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pyvenv.cfg", "thesis.tex"]


def test_readme_says_semi_supervised_first(project: Path) -> None:
    first, _, rest = (project / "README.md").read_text(encoding="utf-8").partition("\n")
    assert "semi-supervised" in first
    assert "nnssl" in rest.strip().splitlines()[0]


def test_bash_blocks_are_shell(pages: dict[Path, str], tmp_path: Path) -> None:
    blocks = [body for text in pages.values() for body in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)]
    script = tmp_path / "blocks.sh"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
