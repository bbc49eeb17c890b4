"""Real-data check: 8 (or 4) labelled Hippocampus cases and 152 (156) unlabelled ones, against supervised controls on 40 test cases.

    python tests/benchmarks/hippocampus.py --data ../shared/data/hippocampus --out /data/hippocampus_run

Resumable: every step looks at the files on disk first. Trained are (1) the teacher and the students of `nnssl_run -f all`, (2) a control
on the same labels with as many optimiser steps as teacher and students together, (3) a ceiling with that many steps on all 160 labels;
with `--stock` instead a stock teacher, one student stage and a stock control. Test labels are read by `nnUNetv2_evaluate_folder` alone.
The result is `results.csv` (`results_stock.csv`) and a table.

Two cores do the most when each has a process of its own. After `--only setup`:

    taskset -c 0 python tests/benchmarks/hippocampus.py ... --only run &
    taskset -c 1 python tests/benchmarks/hippocampus.py ... --only controls
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATASET, CEILING = 137, 138
CONFIGURATION = "3d_fullres"
LABELS = {"background": 0, "anterior": 1, "posterior": 2}


@dataclass(frozen=True)
class Model:
    """A trained model to evaluate, as nnUNetv2_predict names it."""

    name: str
    dataset: int
    trainer: str
    plans: str


def main() -> int:
    """Run what is not done, then print the table."""
    arguments = parse()
    bench = Benchmark(arguments)
    if arguments.only in (None, "setup"):
        bench.set_up()
    models = [] if arguments.only == "setup" else bench.train()
    rows = [{"model": model.name, **bench.evaluate(model)} for model in models]
    if arguments.only is not None:
        return 0
    path = bench.out / ("results_stock.csv" if arguments.stock else "results.csv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"written: {path}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, labels/ and splits.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--labels", default="8", choices=("4", "8", "16", "32"), help="label budget")
    parser.add_argument("--draw", type=int, default=0, help="which fixed draw of labelled cases")
    parser.add_argument(
        "--split", default="test", choices=("test", "development"), help="cases to evaluate; choose settings on development"
    )
    parser.add_argument("--preset", default="cpu", help="overlay for teacher and student")
    parser.add_argument(
        "--stock", action="store_true", help="stock nnUNetTrainer teacher (5 epochs of 250 steps), SemiSupervisedStudentTrainer, one stage"
    )
    parser.add_argument("--only", choices=("setup", "run", "controls"), help="a part of the work; without it everything, and the table")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--run-flags", default="", help="further flags of nnssl_run, in one string")
    return parser.parse_args()


class Benchmark:
    """Folders, environment and steps of one draw."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.data, self.out = arguments.data.resolve(), arguments.out.resolve()
        self.splits = json.loads((self.data / "splits.json").read_text())
        self.labelled = self.splits["labelled"][arguments.labels][arguments.draw]
        self.evaluated = [case for case in self.splits[arguments.split] if case not in self.labelled]
        self.pool = sorted(set(self.splits["train"]) - set(self.labelled) - set(self.evaluated))
        self.env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "nnUNet_n_proc_DA": "1", "nnUNet_compile": "0"}
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.out / name).mkdir(parents=True, exist_ok=True)
            self.env[name] = str(self.out / name)
        self.env["nnUNet_extTrainer"] = self.call("nnssl_trainers", capture=True).strip()

    def call(self, command: str, *flags: object, capture: bool = False) -> str:
        """Run a console script of this environment; stop at the first that fails."""
        line = [str(Path(sys.executable).parent / command), *map(str, flags)]
        if not capture:
            print("$", command, *flags, flush=True)
        done = subprocess.run(line, env=self.env, check=True, text=True, stdout=subprocess.PIPE if capture else None)
        return done.stdout or ""

    def set_up(self) -> None:
        """Datasets with 8 and with 160 labels under the same plans, and the pool's images without labels."""
        self.write_dataset(DATASET, self.labelled)
        self.link_images(self.pool, self.out / "pool")
        self.link_images(self.evaluated, self.out / "test")
        if not self.is_preprocessed(DATASET, self.labelled):
            self.call("nnUNetv2_plan_and_preprocess", "-d", DATASET, "-c", CONFIGURATION, "-npfp", 2, "-np", 2)
        everything = sorted(set(self.splits["train"]) - set(self.evaluated))
        self.write_dataset(CEILING, everything)
        if not self.is_preprocessed(CEILING, everything):
            self.call("nnUNetv2_extract_fingerprint", "-d", CEILING, "-np", 2)
            # planning would put it there; the plans are moved instead, so that both datasets are trained alike
            shutil.copy(self.out / "nnUNet_raw" / self.dataset_name(CEILING) / "dataset.json", self.plans_file(CEILING, "dataset"))
            self.call("nnUNetv2_move_plans_between_datasets", "-s", DATASET, "-t", CEILING, "-sp", "nnUNetPlans", "-tp", "nnUNetPlans")
            self.call("nnUNetv2_preprocess", "-d", CEILING, "-c", CONFIGURATION, "-plans_name", "nnUNetPlans", "-np", 2)

    def is_preprocessed(self, number: int, cases: list[str]) -> bool:
        """Whether nnU-Net has written every case; a case's properties come last."""
        folder = self.plans_file(number, "nnUNetPlans").with_name(f"nnUNetPlans_{CONFIGURATION}")
        return all((folder / f"{case}.pkl").is_file() for case in cases)

    def write_dataset(self, number: int, cases: list[str]) -> None:
        """A raw nnU-Net dataset of links."""
        folder = self.out / "nnUNet_raw" / self.dataset_name(number)
        self.link_images(cases, folder / "imagesTr")
        (folder / "labelsTr").mkdir(exist_ok=True)
        for case in cases:
            link(self.data / "labels" / f"{case}.nii.gz", folder / "labelsTr" / f"{case}.nii.gz")
        content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": len(cases), "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content, indent=1))

    def link_images(self, cases: list[str], folder: Path) -> None:
        """Images under nnU-Net's names."""
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            link(self.data / "images" / f"{case}.nii.gz", folder / f"{case}_0000.nii.gz")

    @staticmethod
    def dataset_name(number: int) -> str:
        return f"Dataset{number:03d}_Hippocampus"

    def plans_file(self, number: int, plans: str) -> Path:
        return self.out / "nnUNet_preprocessed" / self.dataset_name(number) / f"{plans}.json"

    def train(self) -> list[Model]:
        """Train what is asked for and not trained yet; returns what is to be evaluated."""
        run = self.train_stock_run if self.arguments.stock else self.train_run
        controls = self.train_stock_control if self.arguments.stock else self.train_controls
        parts = {"run": [run], "controls": [controls], None: [run, controls]}[self.arguments.only]
        return [model for part in parts for model in part()]

    def train_run(self) -> list[Model]:
        """Teacher and students, by the one command of a user."""
        run = ["-d", DATASET, "-c", CONFIGURATION, "-f", "all", "--teacher-folds", "all", "-device", self.arguments.device]
        self.call("nnssl_run", *run, "--preset", self.arguments.preset, "-u", self.out / "pool", *self.arguments.run_flags.split())
        teacher = "TransASPPTeacherTrainer"
        models = [Model("teacher", DATASET, teacher, self.plans), *self.students(teacher, self.plans)]
        return [*models, Model("published student", DATASET, "TransASPPStudentTrainer", self.plans)]

    def train_controls(self) -> list[Model]:
        """As many steps as teacher and students together: on the same labels, and on all."""
        control = self.lay_control()
        models = []
        for name, number in (("control, equal total steps", DATASET), ("ceiling, 160 labels", CEILING)):
            self.train_supervised(number, control)
            models.append(Model(name, number, "TransASPPTeacherTrainer", control))
        return models

    def train_stock_run(self) -> list[Model]:
        """A stock teacher, and one stage of the student with the plans' own network."""
        plans, teacher = self.lay("stock", STOCK_OVERLAY), "nnUNetTrainer_5epochs"
        self.train_supervised(DATASET, plans, teacher)
        run = ["-d", DATASET, "-c", CONFIGURATION, "-f", "all", "-p", plans, "-tr", teacher, "-device", self.arguments.device]
        self.call("nnssl_run", *run, "-u", self.out / "pool", *self.arguments.run_flags.split())
        return [Model("stock teacher", DATASET, teacher, plans), Model("student", DATASET, "SemiSupervisedStudentTrainer", plans)]

    def train_stock_control(self) -> list[Model]:
        """Stock nnU-Net with twice the teacher's length."""
        plans, trainer = self.lay("stock", STOCK_OVERLAY), "nnUNetTrainer_10epochs"
        self.train_supervised(DATASET, plans, trainer)
        return [Model("stock control, equal total steps", DATASET, trainer, plans)]

    @property
    def plans(self) -> str:
        """Plans name of the overlay."""
        return f"nnUNetPlans_nnssl_{Path(self.arguments.preset).stem}"

    def students(self, teacher: str, plans: str) -> list[Model]:
        """The student of every stage, from the run's manifest."""
        folder = self.out / "nnUNet_results" / self.dataset_name(DATASET) / f"{teacher}__{plans}__{CONFIGURATION}"
        manifest = json.loads((folder / "fold_all" / "nnssl" / "manifest.json").read_text())
        return [Model(f"student {s['stage']}", int(s["dataset"][7:10]), manifest["student_trainer"], plans) for s in manifest["stages"]]

    def lay_control(self) -> str:
        """Plans whose supervised phase is as long as teacher and students together; no distillation."""
        overlay = json.loads(self.overlay_file().read_text())
        teacher, student = overlay["nnssl"]["teacher"], overlay["nnssl"]["student"]
        steps = [part["length"]["num_epochs"] * part["length"]["iterations_per_epoch"] for part in (teacher, student)]
        epochs = round(sum(steps) / teacher["length"]["iterations_per_epoch"])
        return self.lay("control", supervised_overlay(overlay, epochs, {}))

    def overlay_file(self) -> Path:
        shipped = Path(self.env["nnUNet_extTrainer"]).parent / "plans" / f"{self.arguments.preset}.json"
        return shipped if shipped.is_file() else Path(self.arguments.preset)

    def lay(self, name: str, overlay: dict[str, object]) -> str:
        """Write an overlay of this benchmark's own, lay it over the plans of both datasets and return the plans name."""
        path = self.out / f"{name}.json"
        path.write_text(json.dumps(overlay, indent=1))
        for number in (DATASET, CEILING):
            if not self.plans_file(number, f"nnUNetPlans_nnssl_{name}").is_file():
                self.call("nnssl_prepare", "-d", number, "-c", CONFIGURATION, "--preset", path)
        return f"nnUNetPlans_nnssl_{name}"

    def train_supervised(self, number: int, plans: str, trainer: str = "TransASPPTeacherTrainer") -> None:
        """One supervised training on all labels of a dataset."""
        folder = self.out / "nnUNet_results" / self.dataset_name(number) / f"{trainer}__{plans}__{CONFIGURATION}" / "fold_all"
        if not (folder / "checkpoint_final.pth").is_file():
            resume = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
            self.call(
                "nnUNetv2_train", number, CONFIGURATION, "all", "-tr", trainer, "-p", plans, "-device", self.arguments.device, *resume
            )

    def evaluate(self, model: Model) -> dict[str, float | int]:
        """Stock prediction of the test cases with the final checkpoint, and stock evaluation: Dice in per cent."""
        folder = self.out / "predictions" / f"{model.name.replace(' ', '_').replace(',', '')}"
        summary = folder / "summary.json"
        if not summary.is_file():
            flags = ["-d", model.dataset, "-c", CONFIGURATION, "-f", "all", "-tr", model.trainer, "-p", model.plans]
            self.call(
                "nnUNetv2_predict", *flags, "-i", self.out / "test", "-o", folder, "-device", self.arguments.device, "-npp", 1, "-nps", 1
            )
            truth = self.out / "test_labels"
            truth.mkdir(exist_ok=True)
            for case in self.evaluated:
                link(self.data / "labels" / f"{case}.nii.gz", truth / f"{case}.nii.gz")
            self.call(
                "nnUNetv2_evaluate_folder", truth, folder, "-djfile", folder / "dataset.json", "-pfile", folder / "plans.json", "-np", 2
            )
        metrics = json.loads(summary.read_text())
        per_class = {name: round(100 * metrics["mean"][str(label)]["Dice"], 2) for name, label in LABELS.items() if label}
        return {"dice": round(100 * metrics["foreground_mean"]["Dice"], 2), **per_class, "cases": len(metrics["metric_per_case"])}


STOCK_OVERLAY: dict[str, object] = {
    "description": "nnU-Net's own PlainConvUNet at 16 to 128 features; one student stage of 1250 steps.",
    "network": "plans",
    "features": {"base": 16, "max": 128},
    "batch_size": 2,
    "nnssl": {
        "curriculum": {"fractions": [1.0]},
        "student": {"length": {"num_epochs": 25, "iterations_per_epoch": 50, "val_iterations_per_epoch": 2}},
    },
}


def supervised_overlay(overlay: dict[str, Any], epochs: int, teacher: dict[str, Any]) -> dict[str, Any]:
    """An overlay with its teacher's settings alone, some of them replaced, of so many epochs and without distillation."""
    settings = {**overlay["nnssl"]["teacher"], "distillation_epochs": 0, **teacher}
    settings["length"] = {**settings["length"], "num_epochs": epochs}
    return {**overlay, "nnssl": {"teacher": settings}}


def link(source: Path, target: Path) -> None:
    """Symbolic link unless it is there; another process may make it at the same moment."""
    with contextlib.suppress(FileExistsError):
        target.symlink_to(source)


if __name__ == "__main__":
    sys.exit(main())
