"""Ratios of DESIGN's kind, side by side in one process, on a finished run of `hippocampus.py`.

    python tests/benchmarks/ratios.py --run /data/hippocampus_run [--cases 8] [--device cpu]

Prints and writes `ratios.json`: time of evidence with K = 8 and K = 32 against nnU-Net's own sliding window of the same network and
cases (mirrored), peak memory at K = 32 against K = 4, and time and bytes of writing a stage against `nnUNetv2_preprocess` of its cases.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="--out folder of hippocampus.py")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", type=int, metavar="K", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(arguments.run / name)
    os.environ.update({"nnUNet_compile": "0"})
    if arguments.peak:
        evidence_seconds(arguments, arguments.peak)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return 0
    numbers: dict[str, Any] = measure_evidence(arguments) | measure_memory(arguments) | measure_stage(arguments)
    for name, value in numbers.items():
        print(f"{name}: {value:.3f}")
    (arguments.run / "ratios.json").write_text(json.dumps(numbers, indent=1))
    return 0


def run_of(arguments: argparse.Namespace) -> Any:
    """The run on disk."""
    from nnunet_ssl.nnunet_api.load_setup import load_setup
    from nnunet_ssl.pseudolabel.run_spec import RunSpec
    from nnunet_ssl.pseudolabel.start_run import open_run

    setup = load_setup("137", "3d_fullres", "nnUNetPlans_nnssl_cpu")
    return open_run(RunSpec(setup=setup, fold="all", teacher_trainer="TransASPPTeacherTrainer"))


def predictor_of(arguments: argparse.Namespace, run: Any, num_samples: int) -> Any:
    """The teacher, ready to sweep."""
    import torch

    from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor

    predictor = EvidencePredictor(num_samples=num_samples, device=torch.device(arguments.device))
    predictor.load_model(run.teacher.folder, run.manifest.teacher_folds)
    return predictor


def images_of(run: Any, count: int) -> list[Any]:
    """Preprocessed images of the first pool cases."""
    import torch
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    dataset = nnUNetDatasetBlosc2(str(run.pool.folder), run.manifest.pool[:count])
    return [torch.from_numpy(dataset.load_case(case)[0][:]) for case in run.manifest.pool[:count]]


def seconds(work: Callable[[], Any]) -> float:
    """The best of three, after nothing else."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def evidence_seconds(arguments: argparse.Namespace, num_samples: int) -> float:
    """Time to sweep the cases once."""
    run = run_of(arguments)
    predictor, images = predictor_of(arguments, run, num_samples), images_of(run, arguments.cases)
    return seconds(lambda: [predictor.sweep(image) for image in images])


def stock_seconds(arguments: argparse.Namespace) -> float:
    """Time of nnU-Net's own sliding window for the same network and cases."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    run = run_of(arguments)
    ours, images = predictor_of(arguments, run, 8), images_of(run, arguments.cases)
    stock = nnUNetPredictor(device=torch.device(arguments.device), allow_tqdm=False)
    stock.manual_initialization(
        ours.network, ours.plans_manager, ours.configuration_manager, None, ours.dataset_json, "", ours.allowed_mirroring_axes
    )
    return seconds(lambda: [stock.predict_sliding_window_return_logits(image) for image in images])


def measure_evidence(arguments: argparse.Namespace) -> dict[str, float]:
    """Evidence against nnU-Net's prediction."""
    stock = stock_seconds(arguments)
    return {
        "evidence K=8 / predict, time": evidence_seconds(arguments, 8) / stock,
        "evidence K=32 / predict, time": evidence_seconds(arguments, 32) / stock,
    }


def measure_memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory of two processes that differ in K alone."""
    peaks = []
    for samples in (4, 32):
        line = [sys.executable, __file__, "--run", str(arguments.run), "--cases", "2", "--device", arguments.device, "--peak", str(samples)]
        peaks.append(int(subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()[-1]))
    return {"peak memory K=32 / K=4": peaks[1] / peaks[0]}


def measure_stage(arguments: argparse.Namespace) -> dict[str, float]:
    """Writing the last stage's dataset against nnU-Net's preprocessing of the same cases, one process each."""
    from dataclasses import replace

    from nnunet_ssl.data.stage_dataset import write_stage
    from nnunet_ssl.data.stage_sidecar import StageSidecar, read_sidecar
    from nnunet_ssl.locations import raw_root
    from nnunet_ssl.nnunet_api.preprocessing import preprocess_case
    from nnunet_ssl.pseudolabel.in_force import in_force
    from nnunet_ssl.pseudolabel.label_source import labels_of, source_of

    run = run_of(arguments)
    record, setup = run.manifest.stages[-1], run.setup
    content = read_sidecar(raw_root() / record.dataset)
    sidecar = replace(StageSidecar(**(content or {})), workspace="benchmark")
    now = in_force(run)
    labels, student = labels_of(run, source_of(record), now.study), now.method.student
    name = "Dataset998_Benchmark"
    begun = time.perf_counter()
    cases = (labels.pseudo_case(case, student.fixed_tau, with_probabilities=student.needs_probabilities) for case in record.cases)
    write_stage(name, setup, run.pool, now.method, sidecar, cases)
    writing = time.perf_counter() - begun
    written = sum(own_bytes(Path(os.environ[root]) / name) for root in ("nnUNet_raw", "nnUNet_preprocessed"))
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=arguments.run) as folder:
        out, tmp = Path(folder) / "out", Path(folder) / "tmp"
        out.mkdir()
        tmp.mkdir()
        for case in record.cases:
            preprocess_case(case, list(run.pool.images[case]), setup.plans, setup.configuration, json.dumps(setup.dataset_json), out, tmp)
        preprocessing = time.perf_counter() - begun
        preprocessed = own_bytes(out)
    for root in ("nnUNet_raw", "nnUNet_preprocessed"):
        subprocess.run(["rm", "-r", str(Path(os.environ[root]) / name)], check=True)
    return {"stage writing / preprocessing, time": writing / preprocessing, "stage / preprocessing, bytes": written / preprocessed}


def own_bytes(folder: Path) -> int:
    """Bytes of files that are not linked from elsewhere."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink() and f.stat().st_nlink == 1)


if __name__ == "__main__":
    sys.exit(main())
