"""The commands of docs/benchmark.md can be given as they stand there, and the record of the development split says what its rows say."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import benchmark
import by_difficulty
import numpy as np
import pytest
import student_logs
from case_metrics import read_cases
from draw import Draw
from finished_run import CASES
from paired_draws import Summary, summarise, t_interval
from student_logs import StageLog

RESULTS = Path(__file__).with_name("results")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
FLAGS = re.search(r"`FLAGS` for `(.+?)`", " ".join(PAGE.split()))
COMMANDS = [line for block in re.findall(r"```text\n(.+?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
RECORD = " ".join((Path(__file__).resolve().parents[2] / "docs" / "benchmark-development.md").read_text(encoding="utf-8").split())
README = " ".join((Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8").split())
PARSERS = {"benchmark.py": benchmark.parse, "by_difficulty.py": by_difficulty.parse, "student_logs.py": student_logs.parse}


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


TEST_ROWS = [json.loads(path.read_text()) for path in sorted((RESULTS / "test").glob("test_l4_*.json"))]
FOUR = PAGE[PAGE.index("### 4 labels") : PAGE.index("### More labels")]


def against(arm: str, control: str, metric: str = "dice") -> Summary:
    """An arm with 4 labels on the test cases against another."""
    (found,) = (s for s in summarise(TEST_ROWS, control=control, split="test", metric=metric) if s.arm == arm)
    return found


def spoken(found: Summary) -> str:
    """A difference with its interval, as the table has it."""
    return f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def test_the_table_of_4_labels_is_that_of_its_rows() -> None:
    dice = {(row["arm"], row["draw"]): row["dice"] for row in TEST_ROWS}
    lines = {re.match(r"\| `(\w+)`", line)[1]: line for line in FOUR.splitlines() if line.startswith("| `")}  # type: ignore[index]
    assert set(lines) == {arm for arm, _ in dice}
    for arm, line in lines.items():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:7] == [f"{dice[arm, draw]:.2f}" if (arm, draw) in dice else "" for draw in range(3, 9)]
        assert cells[7] == f"{against(arm, arm).mean:.2f}"
        controls = ("supervised", "supervised_continued")
        assert cells[8:] == ["" if arm == control else spoken(against(arm, control)) for control in controls]
    assert {row["frozen"] for row in TEST_ROWS} == {"fb0ac1c955d2a5803a52374ccafc30bd8bb3dff0"}


@pytest.mark.parametrize(
    ("control", "metric", "said"),
    [
        ("naive", "dice", "0.69 (0.13 to 1.24)"),
        ("mean_teacher", "dice", "0.94 (-0.83 to 2.72)"),
        ("ours_random", "dice", "0.02 (-0.29 to 0.34)"),
        ("paper", "dice", "4.48 (1.83 to 7.13)"),
        ("supervised", "dice_anterior", "0.47 (-0.25 to 1.18)"),
        ("supervised", "dice_posterior", "0.40 (-0.41 to 1.21)"),
        ("supervised", "surface_dice_anterior", "0.71 (-0.49 to 1.91)"),
        ("supervised", "surface_dice_posterior", "0.37 (-0.80 to 1.55)"),
        ("supervised", "hd95_mm_posterior", "-0.40, -0.75 to -0.05"),
    ],
)
def test_what_is_said_of_4_labels_is_what_the_rows_say(control: str, metric: str, said: str) -> None:
    found = against("ours", control, metric)
    difference, low, high = (f"{value:.2f}" for value in (found.difference, found.low, found.high))
    assert said in (f"{difference} ({low} to {high})", f"{difference}, {low} to {high}")
    assert said in " ".join(FOUR.split())


def test_single_figures_of_4_labels() -> None:
    text = " ".join(FOUR.split())
    dice = {(row["arm"], row["draw"]): row["dice"] for row in TEST_ROWS}
    ours, random = against("ours", "ours_random"), against("ours_random", "supervised")
    assert f"`ours` has a mean of {ours.mean:.2f}, `supervised` of {random.control_mean:.2f}" in text
    anterior, posterior = (against("ours", "supervised", f"hd95_mm_{name}") for name in ("anterior", "posterior"))
    assert f"HD95 is {anterior.mean:.2f} mm where `supervised` has {anterior.control_mean:.2f} (anterior)" in text
    assert f"and {posterior.mean:.2f} where it has {posterior.control_mean:.2f} (posterior;" in text
    third, fourth, sixth = (dice["ours", draw] - dice["supervised", draw] for draw in (3, 4, 6))
    assert f"{third:.2f} and {fourth:.2f} over `supervised`; on draw 6 `ours` is {-sixth:.2f} behind" in text
    assert f"and {-against('paper', 'teacher').difference:.2f} behind the teacher" in text


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("supervised", ("1.55 (0.05 to 3.05)", "+0.35, +0.17 and -0.14")),
        ("teacher", ("1.69 (0.01 to 3.38)", "+0.31, +0.16 and -0.23")),
    ],
)
def test_where_4_labels_gain(by: str, said: tuple[str, str]) -> None:
    names = [by, "supervised_continued", "ours"]
    tables = by_difficulty.case_tables(RESULTS / "test", names, split="test", labels=4, network="TransASPPUNet")
    found = by_difficulty.by_difficulty(tables, by=by, arms=names[1:])["ours - supervised_continued"]
    hardest, *rest = found.mean(axis=0)[1:]
    low, high = t_interval(found[:, 1])
    assert said == (f"{hardest:.2f} ({low:.2f} to {high:.2f})", "{:+.2f}, {:+.2f} and {:+.2f}".format(*rest))
    assert all(text in " ".join(FOUR.split()) for text in said)


def test_what_students_of_4_labels_learn() -> None:
    text = " ".join(FOUR.split())
    ours, control, paper = (
        [*zip(*student_logs.logs_of(RESULTS / "test", arm, split="test", labels=4, network="TransASPPUNet").values(), strict=True)]
        for arm in ("ours", "supervised_continued", "paper")
    )

    def ends(stages: Sequence[StageLog], term: str) -> list[str]:
        return [f"{value:.3f}" for value in np.mean([stage.terms[term] for stage in stages], axis=0)]

    changed = [stage.changed for stage in ours[1] if stage.changed is not None]
    assert f"{np.mean(changed):.1f} % of the foreground voxels are other ones in the second ({min(changed)} to {max(changed)})" in text
    (_, first), (again, last) = (ends(stages, "loss_supervised") for stages in ours)
    (_, first_of_control), (again_of_control, last_of_control) = (ends(stages, "loss_supervised") for stages in control)
    assert f"`ours` ends at {last}, that of C2, which sees twice as many of them a step, at {last_of_control};" in text
    assert f"(from {first} to {again} and from {first_of_control} to {again_of_control})" in text
    assert "ends at {} and {}: against".format(*(ends(stages, "loss_high")[1] for stages in ours)) in text
    of_paper = [stage.changed for stages in paper for stage in stages if stage.changed is not None]
    assert f"{np.mean(of_paper):.0f} % of the labels change in every stage" in text
    shares = [np.mean([stage.confident for stage in stages if stage.confident is not None]) for stages in (paper[0], paper[-1])]
    assert "falls from {:.1f} to {:.1f} %".format(*shares) in text
    assert f"ends at {ends(paper[-1], 'loss_supervised')[1]}, hardly below the {ends(paper[0], 'loss_supervised')[0]} it begins" in text


def test_the_readme_says_what_the_test_rows_of_4_labels_say() -> None:
    better = against("ours", "supervised")
    assert better.control_mean > against("supervised_continued", "supervised").mean
    naive = against("ours", "naive")
    assert f"it is {better.difference:.1f} Dice points ahead of supervised training of as many steps in the mean of six draws" in README
    assert f"(95 % interval {better.low:.1f} to {better.high:.1f}), where a goal of 1.5" in README
    assert f"Naive self-training is {naive.difference:.1f} behind it ({naive.low:.1f} to {naive.high:.1f})" in README


def test_the_page_of_settings_says_what_the_rows_say() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "choose-settings.md").read_text(encoding="utf-8")
    random, paper = against("ours_random", "ours"), against("ours", "paper")
    assert f"({random.difference:.2f}, 95 % interval {random.low:.2f} to {random.high:.2f})" in " ".join(page.split())
    assert f"cost {paper.difference:.1f} points ({paper.low:.1f} to {paper.high:.1f})" in " ".join(page.split())


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
