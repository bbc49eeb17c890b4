"""One stage over the whole pool, from the teacher of a run of `hippocampus.py --split development`: to compare settings of the student.

    python tests/benchmarks/single_stage.py --data ../shared/data/hippocampus --out /data/development_run --name hard \
        --student '{"targets": "hard"}' [--perfect-labels]

The teacher and its evidence are copied, so that every variant starts from the same network. With `--perfect-labels` the pool's true labels
take the place of the pseudo-labels: the most that better pseudo-labels could gain at this length. Every voxel is sure then; with
`--teacher-confidence` it is as sure as the teacher is of its own label, so that the labels alone differ. Nothing that is made of labels of
pool cases may be reported as a result of the method. It prints the Dice on the development split.

It works in the folder of a draw of `benchmark.py` as well: `--out OUT/development_l4_d0 --preset OUT/development_l4_d0/overlays/ours.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hippocampus import CONFIGURATION, DATASET, LABELS, Benchmark, Model

TEACHER, STUDENT = "TransASPPTeacherTrainer", "TransASPPStudentTrainer"


def main() -> int:
    """Write the stage, train its student, print its Dice."""
    arguments = parse()
    bench = Benchmark(arguments)
    plans = lay_variant(bench, arguments.name, json.loads(arguments.student))
    copy_teacher(bench, plans)
    stage = write_stage(bench, plans, perfect_labels=arguments.perfect_labels, teacher_confidence=arguments.teacher_confidence)
    bench.call("nnUNetv2_train", stage, CONFIGURATION, "all", "-tr", STUDENT, "-p", plans, "-device", arguments.device)
    print(arguments.name, bench.evaluate(Model(arguments.name, stage, STUDENT, plans)))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = variant_parser(__doc__)
    parser.add_argument("--student", default="{}", help="JSON, settings of the student in place of the preset's")
    parser.add_argument("--perfect-labels", action="store_true", help="true labels in place of the pseudo-labels")
    parser.add_argument("--teacher-confidence", action="store_true", help="with --perfect-labels: keep the confidence of the pseudo-labels")
    arguments = parser.parse_args()
    if arguments.teacher_confidence and not arguments.perfect_labels:
        parser.error("--teacher-confidence is of --perfect-labels; pseudo-labels have their teacher's confidence anyhow")
    return arguments


def variant_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags of every variant of a development run: those that `Benchmark` reads, and a name."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, labels/ and splits.json")
    parser.add_argument("--out", type=Path, required=True, help="--out folder of hippocampus.py --split development")
    parser.add_argument("--name", required=True, help="of the variant; one that is not used yet")
    parser.add_argument("--labels", default="8", choices=("4", "8", "16", "32"))
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--preset", default="cpu", help="overlay of the run")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(split="development")
    return parser


def lay_variant(bench: Benchmark, name: str, student: dict[str, Any]) -> str:
    """Lay the run's overlay with one stage and other settings of the student over the plans; returns the plans name."""
    overlay: dict[str, Any] = json.loads(bench.overlay_file().read_text())
    overlay["nnssl"]["curriculum"] = {"fractions": [1.0]}
    overlay["nnssl"]["student"] |= student
    path = bench.out / f"{name}.json"
    path.write_text(json.dumps(overlay, indent=1))
    bench.call("nnssl_prepare", "-d", DATASET, "-c", CONFIGURATION, "--preset", path)
    return f"nnUNetPlans_nnssl_{name}"


def copy_teacher(bench: Benchmark, plans: str) -> None:
    """The run's teacher under the variant's plans, with its evidence, without its manifest."""
    models = bench.out / "nnUNet_results" / bench.dataset_name(DATASET)
    target = models / f"{TEACHER}__{plans}__{CONFIGURATION}"
    shutil.copytree(
        models / f"{TEACHER}__{bench.plans}__{CONFIGURATION}", target, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True
    )
    shutil.copy(bench.plans_file(DATASET, plans), target / "plans.json")


def write_stage(bench: Benchmark, plans: str, *, perfect_labels: bool, teacher_confidence: bool = False) -> int:
    """Grow by the one stage; returns the number of its dataset."""
    # the package reads the folders from the environment
    os.environ.update(bench.env)
    from nnunet_ssl.cli import pseudolabel

    if perfect_labels:
        use_true_labels(bench.data / "labels", teacher_confidence=teacher_confidence)
    flags = ["-d", str(DATASET), "-c", CONFIGURATION, "-f", "all", "-p", plans, "-device", bench.arguments.device]
    if code := pseudolabel.main(flags):
        sys.exit(code)
    model = bench.out / "nnUNet_results" / bench.dataset_name(DATASET) / f"{TEACHER}__{plans}__{CONFIGURATION}"
    (stage,) = json.loads((model / "fold_all" / "nnssl" / "manifest.json").read_text())["stages"]
    return int(stage["dataset"][7:10])


def use_true_labels(labels: Path, *, teacher_confidence: bool) -> None:
    """Let every case's evidence be its manual label, with full confidence or that of the teacher."""
    import dataclasses

    import numpy as np
    import SimpleITK as sitk

    from nnunet_ssl.pseudolabel.pool_labels import PoolLabels

    of_teacher = PoolLabels.evidence

    def evidence(self: PoolLabels, case: str) -> tuple[Any, Any, Any]:
        found, confidence, valid = of_teacher(self, case)
        # Hippocampus is neither cropped, resampled nor transposed: the network's grid is the image's
        truth = sitk.GetArrayFromImage(sitk.ReadImage(labels / f"{case}.nii.gz"))
        mean = np.stack([truth == label for label in LABELS.values()]).astype(np.float32)
        return dataclasses.replace(found, mean=mean), confidence if teacher_confidence else np.ones_like(confidence), valid

    PoolLabels.evidence = evidence  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
