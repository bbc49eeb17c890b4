"""The commands of docs/benchmark.md can be given as they stand there, and the record of the development split says what its rows say."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import benchmark
import by_difficulty
import numpy as np
import pytest
from case_metrics import read_cases
from draw import Draw
from finished_run import CASES
from paired_draws import t_interval

RESULTS = Path(__file__).with_name("results")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
FLAGS = re.search(r"`FLAGS` for `(.+?)`", " ".join(PAGE.split()))
COMMANDS = [line for block in re.findall(r"```text\n(.+?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
RECORD = " ".join((Path(__file__).resolve().parents[2] / "docs" / "benchmark-development.md").read_text(encoding="utf-8").split())
README = " ".join((Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8").split())
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


@pytest.mark.parametrize(
    ("folder", "least"),
    [("development_variants", 14), ("development_targets", 14), ("development_8_labels", 6), ("development_8_labels_long", 6)],
)
def test_every_row_stands_in_the_record(folder: str, least: int) -> None:
    (section,) = (part for part in RECORD.split("\n## ") if f"results/{folder}/" in part)
    rows = [json.loads(path.read_text()) for path in (RESULTS / folder).glob("*.json")]
    assert len(rows) >= least
    missing = [f"{row['arm']}, draw {row['draw']}" for row in rows if f"| {row['dice']:.2f} |" not in section]
    assert not missing


@pytest.mark.parametrize(("folder", "count"), [("development_targets", 14), ("development_8_labels", 6), ("development_8_labels_long", 6)])
def test_tables_of_cases_are_those_of_their_rows(folder: str, count: int) -> None:
    tables = sorted((RESULTS / folder).glob(f"*{CASES}"))
    assert len(tables) == count
    for path in tables:
        row = json.loads((path.parent / f"{path.name.removesuffix(CASES)}.json").read_text())
        assert by_difficulty.case_dice(read_cases(path)).mean() == pytest.approx(row["dice"], abs=1e-3)


@pytest.mark.parametrize(
    ("folder", "labels", "arm", "said"),
    [
        ("development_targets", 4, "supervised_continued", "+1.2, +1.1, -0.9 and -0.8"),
        ("development_targets", 4, "naive", "+1.7, +0.8, -0.1 and -0.2"),
        ("development_8_labels", 8, "supervised_continued", "-0.4, -0.1, -0.3 and -0.8"),
        ("development_8_labels_long", 8, "supervised_continued", "+0.1, +0.1, -0.3 and -0.7"),
    ],
)
def test_the_record_says_where_the_student_gains(folder: str, labels: int, arm: str, said: str) -> None:
    names = ["teacher", arm, "ours"]
    tables = by_difficulty.case_tables(RESULTS / folder, names, split="development", labels=labels, network="TransASPPUNet")
    found = by_difficulty.by_difficulty(tables, by="teacher", arms=names[1:])[f"ours - {arm}"].mean(axis=0)[1:]
    first, second, third, last = (f"{value:+.1f}" for value in found)
    assert f"{first}, {second}, {third} and {last}" == said
    assert said in RECORD


ONE_STAGE = {
    "student, one stage, from the teacher of 1500 steps, 0.003": "supervised on from the teacher of 1500 steps as the student (C2), 0.003",
    "student, one stage, from the second teacher, 0.003": "C2, from the second teacher, 0.003",
    "student, one stage, labels of the first of four teachers, 0.003": "C2, from the first of four teachers, 0.003",
}
TWO_STAGES = {
    "student, two stages of 750 steps, the first with the best half of the pool, 0.003": "C2, two stages of 750 steps, 0.003",
}
"""Students and their controls in the table of rows without cases."""
PAIRS_OF_RUNS = ("development_targets/development_l4_d0", "development_targets/development_l4_d1")
PAIRS_OF_RUNS += ("development_variants/development_l4_d1", "development_variants/development_l4_d2")


def in_table(pairs: dict[str, str]) -> list[tuple[int, float]]:
    """(draw, student minus C2) of trainings in `development.csv`, all of 3000 steps."""
    with (RESULTS / "development.csv").open() as file:
        dice = {(int(row["draw"]), row["training"]): float(row["dice"]) for row in csv.DictReader(file) if row["steps"] == "3000"}
    return [(draw, dice[draw, name] - dice[draw, pairs[name]]) for draw, name in dice if name in pairs]


def of_runs() -> list[tuple[int, float]]:
    """The same of runs with two stages."""
    rows = [[json.loads((RESULTS / f"{run}.{arm}.json").read_text()) for arm in ("ours", "supervised_continued")] for run in PAIRS_OF_RUNS]
    assert {row["steps"] for pair in rows for row in pair} == {3000}
    return [(ours["draw"], ours["dice"] - control["dice"]) for ours, control in rows]


def test_the_readme_says_what_the_rows_of_4_labels_say() -> None:
    one, two = in_table(ONE_STAGE), [*of_runs(), *in_table(TWO_STAGES)]
    assert (len(one), {draw for draw, _ in one}) == (4, {0, 1})
    assert (len(two), {draw for draw, _ in two}) == (5, {0, 1, 2})
    by_draw = np.array([np.mean([value for at, value in one + two if at == draw]) for draw in (0, 1, 2)])
    means = [float(np.mean([value for _, value in found])) for found in (one, two)]
    low, high = t_interval(by_draw)
    assert (
        f"{by_draw.mean():.1f} Dice points ahead of the control in the mean of three draws (nine trainings, 95 % interval {low:.1f} to "
        f"{high:.1f}): {means[0]:.1f} with one stage (four trainings, two draws), {means[1]:.1f} with two (five trainings, three draws)."
    ) in README
    assert "{:.2f}, {:.2f} and {:.2f}, together".format(*by_draw) in RECORD
    assert f"together {by_draw.mean():.2f} (95 % t interval {low:.2f} to {high:.2f})" in RECORD
