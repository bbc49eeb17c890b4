"""The benchmark: arms (`arms.py`) on fixed draws of labelled Hippocampus cases, as a queue that can be stopped and drained at any time.

    python tests/benchmarks/benchmark.py drain --data ../shared/data/hippocampus --out /data/bench --labels 8 --draws 0 1

Every draw has nnU-Net folders of its own below `--out`. The teachers and their evidence are made once per draw and shared by all arms that
need them: the fold teachers that `nnssl_run -f all` trains by default, or the one of all labels where nnU-Net has no folds (`--teachers`).
Two lanes on two cores do the most (see `job_queue.py`). `--list` shows what is done. Rows of finished arms are in `rows/*.json`;
`benchmark.py summary` collects them into `runs.csv` and compares every arm with a control.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import hippocampus
from arms import ARMS, Arm, Lengths, overlay_of
from case_metrics import folder_metrics
from job_queue import Job, JobQueue, drain
from job_times import git_commit, total_seconds
from paired_draws import summarise, with_better_of

from nnunet_ssl.data.files import write_json
from nnunet_ssl.locations import ModelLocation

DATASET, CEILING, CONFIGURATION = hippocampus.DATASET, hippocampus.CEILING, hippocampus.CONFIGURATION
CLASSES = {name: value for name, value in hippocampus.LABELS.items() if value}
TEACHER = "TransASPPTeacherTrainer"
BETTER = "better_control"
"""Of each draw, the better of the two supervised controls: what the main table compares with."""
NNUNET_FOLDS = 5
FIRST_ID, IDS_PER_ARM = 601, 10
"""Every arm has a block of stage datasets of its own, so that two lanes never take the same ids."""


@dataclass(frozen=True)
class Draw:
    """One draw of labelled cases, with its nnU-Net folders."""

    arguments: argparse.Namespace
    labels: int
    draw: int

    @property
    def name(self) -> str:
        return f"{self.arguments.split}_l{self.labels}_d{self.draw}"

    @property
    def root(self) -> Path:
        return Path(self.arguments.out) / self.name

    @property
    def teachers(self) -> str:
        """`folds` or `single`: what was asked for, else what `nnssl_run -f all` does; nnU-Net has no folds of fewer than five cases."""
        return str(self.arguments.teachers or ("folds" if self.labels >= NNUNET_FOLDS else "single"))

    @property
    def folds(self) -> list[int | str]:
        """Folds that a teacher is trained on: nnU-Net's five, or as many as there are labels, or all labels at once."""
        return ["all"] if self.teachers == "single" else list(range(min(NNUNET_FOLDS, self.labels)))

    @property
    def environment(self) -> dict[str, str]:
        """Of every job of the draw."""
        folders = {name: str(self.root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        trainers = str(Path(__file__).resolve().parents[2] / "trainers")
        return {**folders, "nnUNet_extTrainer": trainers, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "0", "OMP_WAIT_POLICY": "PASSIVE"}

    def model(self, arm: str, trainer: str, number: int = DATASET) -> Path:
        """Folder of a trained model."""
        location = ModelLocation(dataset=dataset_name(number), trainer=trainer, plans=plans_name(arm), configuration=CONFIGURATION)
        return self.root / "nnUNet_results" / location.dataset / location.name

    def script(self, command: str, *flags: object) -> tuple[str, ...]:
        """A subcommand of this file for this draw."""
        shared = ("--data", self.arguments.data, "--out", self.arguments.out, "--split", self.arguments.split)
        drawn = ("--labels", self.labels, "--draws", self.draw, "--teachers", self.teachers)
        return tuple(map(str, (sys.executable, __file__, command, *shared, *drawn, *flags)))


def dataset_name(number: int) -> str:
    """Dataset folder."""
    return hippocampus.Benchmark.dataset_name(number)


def plans_name(arm: str) -> str:
    """Plans that `nnssl_prepare` makes of an arm's overlay."""
    return f"nnUNetPlans_nnssl_{arm}"


def console(command: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / command)


def jobs_of(draw: Draw, arms: list[Arm], lengths: Lengths) -> list[Job]:
    """Everything that is to be made for a draw, each job after those that it needs."""
    jobs = [Job(name=f"{draw.name}.prepare", command=draw.script("prepare"), makes=(draw.root / "ready.json",))]
    if any(arm.kind != "supervised" for arm in arms):
        jobs += teacher_jobs(draw, lengths)
    for arm in arms:
        if arm.kind == "teacher":
            jobs.append(evaluate_job(draw, arm, f"{draw.name}.teacher.audit"))
        else:
            jobs += supervised_jobs(draw, arm, lengths) if arm.kind == "supervised" else run_jobs(draw, arm, lengths)
    return [Job(**{**vars(job), "environment": draw.environment}) for job in jobs]


def plans_job(draw: Draw, name: str, arm: Arm, lengths: Lengths) -> Job:
    """Lay an arm's overlay over nnU-Net's plans of both datasets."""
    overlay = overlay_of(arm, json.loads(Path(draw.arguments.overlay).read_text()), lengths, len(draw.folds))
    path = draw.root / "overlays" / f"{name}.json"
    if not path.is_file() or json.loads(path.read_text()) != overlay:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, overlay)
    number = CEILING if arm.all_labels else DATASET
    command = (console("nnssl_prepare"), "-d", str(number), "-c", CONFIGURATION, "--preset", str(path))
    makes = draw.root / "nnUNet_preprocessed" / dataset_name(number) / f"{plans_name(name)}.json"
    return Job(name=f"{draw.name}.{name}.plans", command=command, makes=(makes,), needs=(f"{draw.name}.prepare",))


def teacher_jobs(draw: Draw, lengths: Lengths) -> list[Job]:
    """The teachers, and their evidence on pool and held-out cases with the audit."""
    plans = plans_job(draw, "teacher", Arm(name="teacher", kind="run"), lengths)
    model, jobs = draw.model("teacher", TEACHER), [plans]
    for fold in draw.folds:
        command = (console("nnUNetv2_train"), str(DATASET), CONFIGURATION, str(fold), "-tr", TEACHER, "-p", plans_name("teacher"))
        folder = model / f"fold_{fold}"
        makes = (folder / "checkpoint_final.pth", folder / "validation" / "summary.json")
        device = ("-device", draw.arguments.device)
        name = f"{draw.name}.teacher.f{fold}"
        jobs.append(Job(name=name, command=(*command, *device), makes=makes, needs=(plans.name,), checkpoints=folder))
    command = (console("nnssl_run"), *run_flags(draw, "teacher"), "--audit")
    needs = tuple(job.name for job in jobs[1:])
    return [*jobs, Job(name=f"{draw.name}.teacher.audit", command=command, makes=(model / "fold_all/nnssl/audit.json",), needs=needs)]


def run_flags(draw: Draw, arm: str) -> tuple[str, ...]:
    """Flags of `nnssl_run` on the shared teachers."""
    block = FIRST_ID + IDS_PER_ARM * (list(ARMS).index(arm) if arm in ARMS else len(ARMS))
    folds = ("--teacher-folds", *map(str, draw.folds))
    flags = ("-d", str(DATASET), "-c", CONFIGURATION, "-f", "all", "-p", plans_name(arm), "-device", draw.arguments.device)
    return (*flags, *folds, "--first-id", str(block))


def run_jobs(draw: Draw, arm: Arm, lengths: Lengths) -> list[Job]:
    """An arm that starts from the shared teachers."""
    plans = plans_job(draw, arm.name, arm, lengths)
    copied = draw.model(arm.name, TEACHER) / "copied.json"
    needs = (plans.name, f"{draw.name}.teacher.audit")
    copy = Job(name=f"{draw.name}.{arm.name}.copy", command=draw.script("copy-teacher", "--arms", arm.name), makes=(copied,), needs=needs)
    command = (console("nnssl_run"), *run_flags(draw, arm.name), "--student-tr", arm.student_trainer)
    published = draw.model(arm.name, arm.student_trainer) / "fold_all" / "checkpoint_final.pth"
    run = Job(name=f"{draw.name}.{arm.name}", command=command, makes=(published,), needs=(copy.name,))
    return [plans, copy, run, evaluate_job(draw, arm, run.name)]


def supervised_jobs(draw: Draw, arm: Arm, lengths: Lengths) -> list[Job]:
    """An arm of manual labels alone."""
    plans, number = plans_job(draw, arm.name, arm, lengths), CEILING if arm.all_labels else DATASET
    folder = draw.model(arm.name, TEACHER, number) / "fold_all"
    flags = (str(number), CONFIGURATION, "all", "-tr", TEACHER, "-p", plans_name(arm.name), "-device", draw.arguments.device)
    train = Job(
        name=f"{draw.name}.{arm.name}",
        command=(console("nnUNetv2_train"), *flags),
        makes=(folder / "checkpoint_final.pth",),
        needs=(plans.name,),
        checkpoints=folder,
    )
    return [plans, train, evaluate_job(draw, arm, train.name)]


def evaluate_job(draw: Draw, arm: Arm, trained: str) -> Job:
    """Stock prediction and all metrics of an arm, after the job that makes its model."""
    row = Path(draw.arguments.out) / "rows" / f"{draw.name}.{arm.name}.json"
    steps = ("--teacher-epochs", draw.arguments.teacher_epochs, "--student-epochs", draw.arguments.student_epochs)
    command = draw.script("evaluate", "--arms", arm.name, "--overlay", draw.arguments.overlay, *steps)
    return Job(name=f"{draw.name}.{arm.name}.evaluate", command=command, makes=(row,), needs=(trained,))


def prepare(draw: Draw) -> None:
    """Datasets, nnU-Net's plans, splits of few labels that hold every case out once, and the pool."""
    flags = {"labels": str(draw.labels), "draw": draw.draw, "preset": "cpu", "stock": False, "only": None, "run_flags": ""}
    bench = hippocampus.Benchmark(argparse.Namespace(**{**vars(draw.arguments), **flags, "out": draw.root}))
    bench.set_up()
    splits = bench.plans_file(DATASET, "splits_final")
    if draw.teachers == "folds" and draw.labels < NNUNET_FOLDS and not splits.is_file():  # nnU-Net's own split needs five cases
        cases = sorted(bench.labelled)
        write_json(splits, [{"train": [c for c in cases if c != held_out], "val": [held_out]} for held_out in cases])
    bench.call("nnssl_prepare", "-d", DATASET, "-c", CONFIGURATION, "-u", bench.out / "pool")
    write_json(draw.root / "ready.json", {"labelled": bench.labelled, "pool": bench.pool, "evaluated": bench.evaluated})


def copy_teacher(draw: Draw, arm: Arm) -> None:
    """The shared teachers and their evidence under the plans of an arm, without the manifest."""
    source, target = draw.model("teacher", TEACHER), draw.model(arm.name, TEACHER)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)
    plans = draw.root / "nnUNet_preprocessed" / dataset_name(DATASET) / f"{plans_name(arm.name)}.json"
    shutil.copy(plans, target / "plans.json")
    write_json(target / "copied.json", {"from": source.name})


def evaluate(draw: Draw, arm: Arm, lengths: Lengths) -> None:
    """Predict the cases of the split with the final checkpoint and write the arm's row."""
    out, row = Path(draw.arguments.out), draw.root.parent / "rows" / f"{draw.name}.{arm.name}.json"
    number, trainer = CEILING if arm.all_labels else DATASET, arm.student_trainer if arm.kind == "run" else TEACHER
    folds = draw.folds if arm.kind == "teacher" else ["all"]
    predictions = draw.root / "predictions" / arm.name
    flags = ["-d", number, "-c", CONFIGURATION, "-f", *folds, "-tr", trainer, "-p", plans_name(arm.name), "-device", draw.arguments.device]
    flags += ["-i", draw.root / "test", "-o", predictions, "-npp", 1, "-nps", 1]
    line = [console("nnUNetv2_predict"), *map(str, flags)]
    if code := os.spawnve(os.P_WAIT, line[0], line, {**os.environ, **draw.environment}):
        sys.exit(code)
    cases = json.loads((draw.root / "ready.json").read_text())["evaluated"]
    metrics = folder_metrics(predictions, Path(draw.arguments.data) / "labels", cases=cases, classes=CLASSES)
    trainings = {f"{draw.name}.teacher.f{fold}" for fold in folds} if arm.kind == "teacher" else {f"{draw.name}.{arm.name}"}
    seconds = sum(s for job, s in total_seconds(out / "job_times.csv").items() if job in trainings)
    facts = {"draw": draw.draw, "labels": draw.labels, "arm": arm.name, "split": draw.arguments.split, "teachers": draw.teachers}
    measured = {name: round(value, 4) for name, value in metrics.items()}
    epochs = lengths.total_epochs(len(draw.folds)) - (lengths.student_epochs if arm.kind == "teacher" else 0)
    facts |= {"steps": epochs * lengths.iterations_per_epoch}
    write_json(row, {**facts, **measured, "seconds": round(seconds), "commit": git_commit()})


def summary(arguments: argparse.Namespace) -> None:
    """Collect the rows into `runs.csv` and print every arm against the control."""
    rows = [json.loads(path.read_text()) for path in sorted((Path(arguments.out) / "rows").glob("*.json"))]
    if not rows:
        sys.exit(f"no arm is finished below {arguments.out}")
    with (Path(arguments.out) / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    rows = with_better_of(rows, ("supervised", "supervised_continued"), name=BETTER)
    for found in summarise(rows, control=arguments.control, split=arguments.split):
        print("  ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in asdict(found).items()))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("drain", "prepare", "copy-teacher", "evaluate", "summary"))
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, labels/ and splits.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="development", choices=("test", "development"))
    parser.add_argument("--labels", type=int, nargs="+", default=[8], choices=(4, 8, 16, 32))
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["supervised", "ours"], choices=list(ARMS))
    parser.add_argument("--overlay", type=Path, default=Path(__file__).with_name("overlay.json"), help="network and shared settings")
    parser.add_argument("--teachers", choices=("folds", "single"), help="in place of what nnssl_run does with so many labels")
    parser.add_argument("--teacher-epochs", type=int, default=30, help="of each teacher, 50 steps each")
    parser.add_argument("--student-epochs", type=int, default=30)
    parser.add_argument("--control", default="supervised", choices=[*ARMS, BETTER], help="of the summary")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--list", action="store_true", help="show the jobs and stop")
    arguments = parser.parse_args()
    for name in ("data", "out", "overlay"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    return arguments


def main() -> int:
    """Do one subcommand."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = parse()
    lengths = Lengths(teacher_epochs=arguments.teacher_epochs, student_epochs=arguments.student_epochs)
    draws = [Draw(arguments, labels, draw) for labels in arguments.labels for draw in arguments.draws]
    arms = [ARMS[name] for name in arguments.arms]
    if arguments.command == "summary":
        summary(arguments)
    elif arguments.command == "prepare":
        prepare(draws[0])
    elif arguments.command == "copy-teacher":
        copy_teacher(draws[0], arms[0])
    elif arguments.command == "evaluate":
        evaluate(draws[0], arms[0], lengths)
    else:
        jobs = [job for draw in draws for job in jobs_of(draw, arms, lengths)]
        if not arguments.list:
            return drain(jobs, arguments.out).exit_code
        for name, state in JobQueue(jobs, arguments.out).states(since=0).items():
            print(f"{state:8} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
