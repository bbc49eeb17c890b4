"""Time and memory of one BraTS case at full resolution: preparing it for the pool, evidence, and writing a stage dataset.

    python tests/benchmarks/full_resolution.py --data ../shared/data/brats2021 --out /data/full_resolution [--preset cpu] [--views 8]

Two labelled cases and one of the pool are drawn, and planned by nnU-Net at their own spacing (1 mm); the preset chooses the teacher's
widths. Each step runs in a process of its own, on the CPU; measured are its processor time, its time on the clock and its largest resident
memory. The teacher has random weights, which neither time nor memory of these steps depends on; its labels are noise, so that the bytes of
evidence and stage are an upper bound. Printed and written to `full_resolution_<preset>.json` after every step; steps that stand there are
not run again. On a slow machine `--views 2` measures a quarter of the evidence's time and all of its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

DATASET, CONFIGURATION, FOLD = 137, "3d_fullres", "0"
TEACHER = "TransASPPTeacherTrainer"
CONVERSION = Path(__file__).resolve().parents[2] / "docs" / "examples" / "brats2021.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Set up, then measure step by step."""
    arguments = parse(argv)
    os.environ.update({"nnUNet_compile": "0", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"})
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folder = arguments.out.absolute() / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    plans = f"nnUNetPlans_nnssl_{arguments.preset}"
    if arguments.step:
        {"teacher": write_teacher, "evidence": gather_evidence}[arguments.step](plans, arguments.views)
        return 0
    set_up(arguments)
    this = [sys.executable, __file__, "--data", arguments.data, "--out", arguments.out, "--preset", arguments.preset]
    this += ["--views", arguments.views, "--step"]
    setup_flags = ["-d", DATASET, "-c", CONFIGURATION]
    stage_flags = [*setup_flags, "-f", FOLD, "-p", plans, "-device", "cpu", "--stages", 1.0, "--num-samples", arguments.views, "--rescore"]
    steps = {
        "preparing the case": [console("nnssl_prepare"), *setup_flags, "--preset", arguments.preset, "-u", pool(arguments), "-np", 1],
        "writing the untrained teacher": [*this, "teacher"],
        f"evidence, {arguments.views} samples": [*this, "evidence"],
        "writing the stage": [console("nnssl_pseudolabel"), *stage_flags],
    }
    path = arguments.out / f"full_resolution_{arguments.preset}.json"
    results: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    for name, line in steps.items():
        results[name] = results.get(name) or measure(line)
        print(name, results[name], flush=True)
        path.write_text(json.dumps(results, indent=1))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of BraTS 2021 cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--preset", default="cpu", help="shipped overlay for the teacher")
    parser.add_argument("--views", type=int, default=8, choices=(2, 4, 8), help="mirrored views of the evidence, a sample each")
    parser.add_argument("--step", choices=("teacher", "evidence"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def console(command: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / command)


def pool(arguments: argparse.Namespace) -> Path:
    """Folder of the pool's images."""
    return Path(arguments.out) / "data" / "pool"


def set_up(arguments: argparse.Namespace) -> None:
    """The dataset, planned and preprocessed by nnU-Net."""
    if not pool(arguments).is_dir():
        draw = ["-o", arguments.out / "data", "-d", DATASET, "--labelled", 2, "--test", 0, "--pool", 1]
        run([sys.executable, CONVERSION, "-i", arguments.data, *draw])
    if not (arguments.out / "nnUNet_preprocessed" / "Dataset137_BraTS2021" / f"nnUNetPlans_{CONFIGURATION}").is_dir():
        run([console("nnUNetv2_plan_and_preprocess"), "-d", DATASET, "-c", CONFIGURATION, "-npfp", 1, "-np", 1])


def run(line: Sequence[object]) -> None:
    """Run a command; stop if it fails."""
    subprocess.run([str(word) for word in line], check=True)


def measure(line: Sequence[object]) -> dict[str, float]:
    """Run a command and return what it took; the peak is that of its largest process, and never below this one's, which stays small."""
    begun = time.perf_counter()
    process = subprocess.Popen([str(word) for word in line])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{line[0]} failed with exit code {process.returncode}")
    return {
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "seconds": round(time.perf_counter() - begun, 1),
        "peak MB": round(usage.ru_maxrss / 1024),  # Linux counts in KiB
    }


def write_teacher(plans: str, views: int) -> None:
    """A checkpoint of nnU-Net's with the network's first weights."""
    import shutil

    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunet_ssl.nnunet_api.external_trainers import external_trainers

    with external_trainers():
        trainer = get_trainer_from_args(str(DATASET), CONFIGURATION, int(FOLD), TEACHER, plans, device=torch.device("cpu"))
        torch.manual_seed(0)
        trainer.initialize()
        trainer.inference_allowed_mirroring_axes = tuple(range(views.bit_length() - 1))
        folder = Path(trainer.output_folder)
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    shutil.copy(Path(trainer.preprocessed_dataset_folder_base) / f"{plans}.json", folder.parent / "plans.json")
    shutil.copy(Path(trainer.preprocessed_dataset_folder_base) / "dataset.json", folder.parent / "dataset.json")


def gather_evidence(plans: str, views: int) -> None:
    """The teacher's evidence on the case, as `nnssl_pseudolabel` gathers it."""
    import torch

    from nnunet_ssl.cli.arguments import use_device
    from nnunet_ssl.nnunet_api.load_setup import load_setup
    from nnunet_ssl.pseudolabel.gather import gather_teacher_evidence
    from nnunet_ssl.pseudolabel.run_spec import RunSpec
    from nnunet_ssl.pseudolabel.start_run import open_run

    setup = load_setup(str(DATASET), CONFIGURATION, plans)
    method = setup.method.with_settings({"evidence.num_samples": views, "curriculum.fractions": [1.0]})
    run = open_run(RunSpec(setup=setup, fold=int(FOLD), teacher_trainer=TEACHER, method=method))
    gather_teacher_evidence(run, torch.device(use_device("cpu")))


if __name__ == "__main__":
    sys.exit(main())
