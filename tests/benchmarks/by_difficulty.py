"""Where an arm gains on another and where it loses: Dice by difficulty of the cases, over draws, and how large they draw the structures.

    python tests/benchmarks/by_difficulty.py --rows /data/bench/rows --arms supervised_continued ours

Of every draw the cases are put in groups of equal number by the Dice of a third arm (`--by`), hardest first. It may not be one of the two
that are compared: cases that went badly by chance count as hard for the arm that sorts, and another one that is no better on the whole
gains on them. `supervised` is a training of its own; the teacher is one from which both arms start.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS
from case_metrics import VOLUMES, read_cases
from finished_run import CASES
from paired_draws import t_interval
from runs_table import rows_by_path, rows_parser

Array = np.ndarray[Any, np.dtype[np.float64]]
Cases = Mapping[str, Mapping[str, float]]


def main() -> int:
    """Print the comparison."""
    arguments = parse()
    names = [arguments.by, *arguments.arms]
    tables = case_tables(arguments.rows, names, split=arguments.split, labels=arguments.labels, network=arguments.network)
    print(f"{arguments.labels} labels, draws {', '.join(map(str, tables))}; hardest cases first, by the Dice of {arguments.by}")
    found = by_difficulty(tables, by=arguments.by, arms=arguments.arms, groups=arguments.groups)
    for name, values in found.items():
        whole, *groups = (interval(of_group) for of_group in values.T)
        print(f"{name:40} {whole}   by difficulty  {'   '.join(groups)}")
    for name in names:
        print(f"{name:40} predicted volume to true one {volume_ratio(tables, name):.3f}")
    return 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or words of one."""
    parser = rows_parser(__doc__, beside="tables of cases")
    parser.add_argument(
        "--arms",
        nargs=2,
        metavar=("CONTROL", "ARM"),
        default=["supervised_continued", "ours"],
        choices=list(ARMS),
        help="names in arms.py (default: %(default)s)",
    )
    parser.add_argument(
        "--by", metavar="ARM", default="teacher", choices=list(ARMS), help="whose Dice sorts the cases (default: %(default)s)"
    )
    parser.add_argument("--groups", type=int, default=4, help="of cases (default: %(default)s)")
    return parser.parse_args(words)


def case_tables(rows: Path, arms: Sequence[str], *, split: str, labels: int, network: str) -> dict[int, dict[str, Cases]]:
    """The cases of all arms, by draw; draws that lack one of them are left out.

    Args:
        rows: folder of rows and tables of cases.
        arms: whose.
        split: of the cases.
        labels: number of labelled cases.
        network: `TransASPPUNet`, or `plans` for any that nnU-Net has planned.

    Raises:
        ValueError: if no draw has them all, or as in `rows_by_path`.
    """
    found: dict[int, dict[str, Cases]] = {}
    for path, row in rows_by_path(rows, split, network=network).items():
        table = path.with_suffix(CASES)
        if row["labels"] == labels and row["arm"] in arms and table.is_file():
            found.setdefault(row["draw"], {})[row["arm"]] = read_cases(table)
    complete = {draw: found[draw] for draw in sorted(found) if set(found[draw]) == set(arms)}
    if not complete:
        raise ValueError(f"no draw of {labels} labels in {rows} has cases (*{CASES}) of all of {', '.join(arms)}, split {split!r}")
    return complete


def by_difficulty(draws: Mapping[int, Mapping[str, Cases]], *, by: str, arms: Sequence[str], groups: int = 4) -> dict[str, Array]:
    """Compare two arms in groups of cases.

    Args:
        draws: by draw and arm the cases, as `case_tables` returns them.
        by: arm whose mean Dice over the classes sorts the cases of each draw.
        arms: two others.
        groups: number of groups; where they cannot be equally large, the first are larger by one.

    Returns:
        For each of the three arms its Dice in per cent, and last the difference of the two, second minus first: (draws, 1 + groups), the
        first column of all cases.

    Raises:
        ValueError: if the arm that sorts is one of the two, the arms of a draw have different cases, or there are fewer cases than groups.
    """
    if by in arms:
        raise ValueError(f"{by} cannot sort the cases and be compared: where it had bad luck the other one gains; name a third arm")
    found: dict[str, list[Array]] = {name: [] for name in (by, *arms)}
    for draw, of_draw in draws.items():
        names = list(of_draw[by])
        for arm in arms:
            if list(of_draw[arm]) != names:
                raise ValueError(f"draw {draw}: {arm} and {by} have different cases")
        if len(names) < groups:
            raise ValueError(f"draw {draw}: {len(names)} cases are fewer than {groups} groups")
        members = np.array_split(np.argsort(case_dice(of_draw[by]), kind="stable"), groups)
        for arm, values in found.items():
            dice = case_dice(of_draw[arm])
            values.append(np.array([dice.mean(), *(dice[group].mean() for group in members)]))
    table = {name: np.stack(values) for name, values in found.items()}
    return {**table, f"{arms[1]} - {arms[0]}": table[arms[1]] - table[arms[0]]}


def case_dice(cases: Cases) -> Array:
    """Dice of each case: the mean over its classes, of which one that is in neither image says nothing."""
    return np.array([np.nanmean([value for name, value in case.items() if name.startswith("dice_")]) for case in cases.values()])


def volume_ratio(draws: Mapping[int, Mapping[str, Cases]], arm: str) -> float:
    """Predicted volume of all classes together to their true one: the mean over all cases of all draws."""
    volumes = [
        [sum(case[name] for name in case if name.startswith(column)) for column in VOLUMES]
        for of_draw in draws.values()
        for case in of_draw[arm].values()
    ]
    return float(np.mean([predicted / true for predicted, true in volumes]))


def interval(values: Array) -> str:
    """Mean of one value per draw, (draws,), with its t interval where there is one."""
    low, high = t_interval(values)
    return f"{values.mean():+6.2f}" + ("" if math.isnan(low) else f" ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"by_difficulty.py: {error}")
