"""The benchmark: arms (`arms.py`) on fixed draws of labelled Hippocampus cases, as a queue that can be stopped and drained at any time.

    python tests/benchmarks/benchmark.py drain --data ../shared/data/hippocampus --out /data/bench --labels 4 --draws 0 1

Every draw has nnU-Net folders of its own below `--out`. The teachers and their evidence are made once per draw and shared by all arms that
need them: the fold teachers that `nnssl_run -f all` trains by default, or the one of all labels where nnU-Net has no folds (`--teachers`).
Two lanes on two cores do the most (see `job_queue.py`). `--list` shows what is to be done.

A finished run leaves a row and its logs in `--rows`. What has a row is not made again, so that a benchmark goes on where it stopped on
another machine that has the rows and nothing else. The test split needs `--frozen`, the commit that fixed what is evaluated.
`benchmark.py summary` compares every arm with a control; `benchmark.py figures` draws.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import hippocampus
from arms import ARMS, Arm, Lengths
from draw import CONFIGURATION, DATASET, NNUNET_FOLDS, TEACHERS, Draw, dataset_name, plans_name
from draw_jobs import jobs_of
from finished_run import evaluate, fingerprint
from freeze import require_frozen
from job_queue import JobQueue, drain
from runs_table import BETTER, SUPERVISED, as_text, comparison, controls_of, read_rows, write_figures, write_table

from nnunet_ssl.data.files import write_json

READY = "ready.json"
"""In the folder of a draw: its cases, and the frozen commit that everything in it is made with."""
OVERLAY = Path(__file__).resolve().with_name("overlay.json")
"""What all arms share."""


def prepare(draw: Draw) -> None:
    """Datasets, nnU-Net's plans, splits of few labels that hold every case out once, and the pool."""
    flags = {"labels": str(draw.labels), "draw": draw.draw, "preset": "cpu", "stock": False, "only": None, "run_flags": ""}
    bench = hippocampus.Benchmark(argparse.Namespace(**{**vars(draw.arguments), **flags, "out": draw.root}))
    bench.set_up()
    splits = bench.plans_file(DATASET, "splits_final")
    if draw.teachers != "single" and draw.labels < NNUNET_FOLDS and not splits.is_file():  # nnU-Net's own split needs five cases
        cases = sorted(bench.labelled)
        write_json(splits, [{"train": [c for c in cases if c != held_out], "val": [held_out]} for held_out in cases])
    bench.call("nnssl_prepare", "-d", DATASET, "-c", CONFIGURATION, "-u", bench.out / "pool")
    frozen = draw.arguments.frozen or ""
    content = {"labelled": bench.labelled, "pool": bench.pool, "evaluated": bench.evaluated, "frozen": frozen}
    write_json(draw.root / READY, content)


def copy_teacher(draw: Draw, arm: Arm) -> None:
    """The shared teachers and their evidence under the plans of an arm, without the manifest."""
    source, target = (draw.model(name, draw.teacher_trainer) for name in ("teacher", arm.name))
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)
    plans = draw.root / "nnUNet_preprocessed" / dataset_name(DATASET) / f"{plans_name(arm.name)}.json"
    shutil.copy(plans, target / "plans.json")
    write_json(target / "copied.json", {"from": source.name, "teacher": fingerprint(draw.teacher_checkpoints())})


def summarise_runs(arguments: argparse.Namespace) -> None:
    """Collect the rows in a table and print every arm against a control, or against each of the supervised ones and the better of them."""
    rows = read_rows(arguments.rows, arguments.split, network=arguments.network)
    write_table(arguments.rows / f"{arguments.split}_{arguments.network}_runs.csv", rows)
    controls = [arguments.control] if arguments.control else controls_of(rows)
    if not controls:
        raise ValueError(f"no row of {' or '.join(SUPERVISED)} in {arguments.rows}; name another arm with --control")
    for control in controls:
        print(f"against {control}:")
        for found in comparison(rows, control=control, split=arguments.split):
            print(f"  {as_text(found)}")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or words of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("drain", "prepare", "copy-teacher", "evaluate", "summary", "figures"))
    parser.add_argument("--data", type=Path, help="folder with images/, labels/ and splits.json")
    parser.add_argument("--out", type=Path, help="folder for everything that is made")
    parser.add_argument("--rows", type=Path, help="folder of rows and logs of finished runs (default: rows in --out)")
    parser.add_argument("--split", default="development", choices=("test", "development"))
    parser.add_argument("--frozen", help="full hash of the commit whose defaults are evaluated; needed on the test split")
    parser.add_argument("--labels", type=int, nargs="+", default=[4], choices=(4, 8, 16, 32))
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["supervised", "supervised_continued", "ours"], choices=list(ARMS))
    parser.add_argument("--overlay", type=Path, default=OVERLAY, help="widths and shared settings")
    parser.add_argument("--network", default="TransASPPUNet", choices=list(TEACHERS), help="plans: the one that nnU-Net has planned")
    teachers = "in place of what nnssl_run does with so many labels; members: four of all labels"
    parser.add_argument("--teachers", choices=("folds", "single", "members"), help=teachers)
    parser.add_argument("--teacher-epochs", type=int, default=30, help="of each teacher, 50 steps each")
    parser.add_argument("--student-epochs", type=int, default=30)
    parser.add_argument("--control", choices=[*ARMS, BETTER], help="of the summary (default: each supervised control and the better one)")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--list", action="store_true", help="show the jobs and stop")
    arguments = parser.parse_args(words)
    needed = {"summary": ["rows"], "figures": ["rows", "figures"]}.get(arguments.command, ["data", "out"])
    if missing := [f"--{name}" for name in needed if getattr(arguments, name) is None]:
        parser.error(f"{arguments.command} needs {' and '.join(missing)}")
    if arguments.split == "test" and "out" in needed and not arguments.frozen:
        parser.error("the test split needs --frozen, the commit that fixed what is evaluated")
    arguments.rows = arguments.rows or arguments.out / "rows"
    for name in ("data", "out", "rows", "overlay"):
        if getattr(arguments, name) is not None:
            setattr(arguments, name, getattr(arguments, name).resolve())
    if arguments.frozen and arguments.overlay != OVERLAY:
        parser.error(f"--frozen needs the overlay that the commit fixed, {OVERLAY.name}, not {arguments.overlay}")
    return arguments


def main() -> int:
    """Do one subcommand."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = parse()
    if arguments.command == "summary":
        summarise_runs(arguments)
        return 0
    if arguments.command == "figures":
        rows = read_rows(arguments.rows, arguments.split, network=arguments.network)
        written, waiting = write_figures(arguments.figures, rows, split=arguments.split, budget=arguments.labels[0])
        for path in written:
            print(f"written: {path}")
        for reason in waiting:
            print(f"not drawn yet: {reason}")
        return 0
    if arguments.frozen:
        require_frozen(arguments.frozen)
    draws = [Draw(arguments, labels, draw) for labels in arguments.labels for draw in arguments.draws]
    arms = [ARMS[name] for name in arguments.arms]
    if arguments.command == "prepare":
        prepare(draws[0])
    elif arguments.command == "copy-teacher":
        copy_teacher(draws[0], arms[0])
    elif arguments.command == "evaluate":
        evaluate(draws[0], arms[0])
    else:
        return drain_draws(draws, arms, arguments)
    return 0


def drain_draws(draws: list[Draw], arms: list[Arm], arguments: argparse.Namespace) -> int:
    """Make what is not there yet, or list it.

    Raises:
        SystemExit: if what was prepared before is of another frozen commit, or of none.
    """
    for draw in draws:
        if (path := draw.root / READY).is_file() and (before := json.loads(path.read_text()).get("frozen", "")) != (arguments.frozen or ""):
            sys.exit(
                f"{draw.root} was made with the frozen commit {before or 'none'}, not {arguments.frozen or 'none'}; choose another --out"
            )
    lengths = Lengths(teacher_epochs=arguments.teacher_epochs, student_epochs=arguments.student_epochs)
    jobs = [job for draw in draws for job in jobs_of(draw, arms, lengths)]
    if not arguments.list:
        frozen = arguments.frozen
        return drain(jobs, arguments.out, before_each=(lambda: require_frozen(frozen)) if frozen else None).exit_code
    for name, state in JobQueue(jobs, arguments.out).states(since=0).items():
        print(f"{state:8} {name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"benchmark.py: {error}")
