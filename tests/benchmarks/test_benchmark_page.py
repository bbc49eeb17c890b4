"""The commands of docs/benchmark.md can be given as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import benchmark
import by_difficulty
import pytest
from draw import Draw

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
FLAGS = re.search(r"`FLAGS` for `(.+?)`", PAGE)
COMMANDS = [line for block in re.findall(r"```text\n(.+?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
PARSERS = {"benchmark.py": benchmark.parse, "by_difficulty.py": by_difficulty.parse}


@pytest.mark.parametrize("line", COMMANDS)
def test_command_can_be_given(line: str) -> None:
    assert FLAGS
    words = shlex.split(line.removesuffix("&").replace("FLAGS", FLAGS[1]))
    program = next(index for index, word in enumerate(words) if word.endswith(".py"))
    parsed = PARSERS[Path(words[program]).name](words[program + 1 :])
    if getattr(parsed, "command", "") == "drain":
        # every arm has a training with the network and the teachers that are asked for
        for labels in parsed.labels:
            drawn = Draw(parsed, labels, parsed.draws[0])
            assert drawn.teachers in ("single", "folds")
            for arm in parsed.arms:
                drawn.student_trainer(benchmark.ARMS[arm])


def test_the_main_table_is_on_the_page() -> None:
    drained = [benchmark.parse(shlex.split(line.replace("FLAGS", FLAGS[1]))[1:]) for line in COMMANDS if FLAGS and "drain FLAGS" in line]
    main = {(labels, draw) for parsed in drained if parsed.network == "TransASPPUNet" for labels in parsed.labels for draw in parsed.draws}
    assert {(labels, draw) for labels in (4, 8) for draw in range(3, 9)} <= main
    assert (8, 0) not in main  # seen on the test cases during development
    assert {parsed.frozen for parsed in drained} == {"HASH"}


def test_what_is_frozen_has_the_overlay_that_was_frozen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["drain", "--data", "DATA", "--out", "OUT", "--split", "test", "--frozen", "HASH"]
    assert benchmark.parse(words).overlay == benchmark.OVERLAY
    with pytest.raises(SystemExit):
        benchmark.parse([*words, "--overlay", str(tmp_path / "other.json")])
    assert "--frozen needs the overlay that the commit fixed, overlay.json, not" in capsys.readouterr().err
