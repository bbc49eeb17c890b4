"""Time of `nnssl_predict` against `nnUNetv2_predict`, in both modes, and how well the modes' case scores rank cases by their true Dice.

    python tests/benchmarks/fast_mode.py --model nnUNet_results/Dataset137_X/TransASPPStudentTrainer__nnUNetPlans__3d_fullres \
        --fold all --images /data/test --labels /data/test_labels --out /data/fast_mode [--cases 15] [--num-samples 8] [--device cpu]

Everything of a case is timed, from reading its images to writing the last file, one case after another in this process; loading the model
is not. Time is that of the processor on a CPU, which other programs do not lengthen much, and the wall clock's on a GPU. Predictions and
`fast_mode.json` are written to `--out`; the model's folder is only read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from case_metrics import folder_cases, mean_metrics


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    # the package finds the model below the results folder; nothing else of nnU-Net's folders is needed
    os.environ.update({"nnUNet_results": str(arguments.model.resolve().parents[1]), "nnUNet_compile": "0"})
    images = choose_cases(arguments)
    if arguments.device == "cpu":
        import torch

        torch.set_num_threads(1)
    results: dict[str, Any] = {"model": arguments.model.name, "cases": len(images), "device": arguments.device}
    results["stock"] = stock(arguments, images, mirroring=True)
    results["stock, no mirroring"] = stock(arguments, images, mirroring=False)
    results[f"K = {arguments.num_samples}"] = own(arguments, images, is_fast=False)
    results["fast"] = own(arguments, images, is_fast=True)
    (arguments.out / "fast_mode.json").write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, required=True, help="folder <trainer>__<plans>__<configuration> below nnUNet_results/<dataset>"
    )
    parser.add_argument("--fold", default="all", type=lambda text: int(text) if text.isdigit() else text)
    parser.add_argument("--images", type=Path, required=True, help="folder of <case>_0000.nii.gz ...")
    parser.add_argument("--labels", type=Path, required=True, help="folder of <case>.nii.gz, the truth")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=15, help="the first so many that have a label")
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def choose_cases(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Image files by case, of the first cases that have a label; they are linked into a folder of their own."""
    found: dict[str, list[str]] = {}
    for path in sorted(arguments.images.glob("*_[0-9][0-9][0-9][0-9].nii.gz")):
        case = path.name[: -len("_0000.nii.gz")]
        if (arguments.labels / f"{case}.nii.gz").is_file():
            found.setdefault(case, []).append(str(path))
    chosen = dict(list(found.items())[: arguments.cases])
    folder = arguments.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for files in chosen.values():
        for file in map(Path, files):
            if not (folder / file.name).is_symlink():
                (folder / file.name).symlink_to(file.resolve())
    return chosen


def seconds_per_case(arguments: argparse.Namespace, work: Callable[[], Any], cases: int) -> float:
    """Time of the work over the number of cases."""
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    begun = clock()
    work()
    return (clock() - begun) / cases


def stock(arguments: argparse.Namespace, images: Mapping[str, list[str]], *, mirroring: bool) -> dict[str, float]:
    """nnU-Net's own prediction."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_ssl.nnunet_api.external_trainers import external_trainers

    predictor = nnUNetPredictor(device=torch.device(arguments.device), allow_tqdm=False, use_mirroring=mirroring)
    with external_trainers():
        predictor.initialize_from_trained_model_folder(str(arguments.model), (arguments.fold,), "checkpoint_final.pth")
    out = arguments.out / ("stock" if mirroring else "stock_no_mirroring")
    out.mkdir(parents=True, exist_ok=True)
    files = list(images.values())
    seconds = seconds_per_case(arguments, lambda: predictor.predict_from_files_sequential(files, str(out)), len(files))
    dice = true_dice(arguments, out, images)
    return {"seconds per case": seconds, "mean Dice": sum(dice.values()) / len(dice)}


def own(arguments: argparse.Namespace, images: Mapping[str, list[str]], *, is_fast: bool) -> dict[str, Any]:
    """`nnssl_predict`, and the rank correlation of every case score with the true Dice of its labels."""
    from nnunet_ssl.confidence.ranking_proof import prove_score
    from nnunet_ssl.locations import ModelLocation
    from nnunet_ssl.prediction.predict import predict_folder
    from nnunet_ssl.prediction.prepared_model import prepare_model

    trainer, plans, configuration = arguments.model.name.split("__")
    model = ModelLocation(dataset=arguments.model.resolve().parent.name, trainer=trainer, plans=plans, configuration=configuration)
    samples = None if is_fast else arguments.num_samples
    prepared = prepare_model(model, [arguments.fold], device=arguments.device, num_samples=samples, is_fast=is_fast)
    out = arguments.out / ("fast" if is_fast else "samples")
    for record in (out / "nnssl_predict" / "cases").glob("*.json"):  # all is to be timed
        record.unlink()
    seconds = seconds_per_case(arguments, lambda: predict_folder(prepared, arguments.out / "images", out), len(images))
    dice = true_dice(arguments, out, images)
    found: dict[str, Any] = {"seconds per case": seconds, "mean Dice": sum(dice.values()) / len(dice), "score": prepared.findings.score}
    for name, scores in all_case_scores(prepared, images).items():
        proof = prove_score(name, scores, dice)
        found[f"Spearman of {name}"] = {"rho": proof.spearman, "95 %": proof.interval, "cases": proof.num_cases}
    return found


def all_case_scores(prepared: Any, images: Mapping[str, list[str]]) -> dict[str, dict[str, float | None]]:
    """Every uncalibrated case score, and the baseline, by name and case; outside the time that is measured."""
    import zlib

    from nnunet_ssl.confidence.case_scores import softmax_maximum
    from nnunet_ssl.confidence.case_under_map import scores_of
    from nnunet_ssl.nnunet_api.new_case import preprocess_new_case
    from nnunet_ssl.nnunet_api.swept_evidence import to_evidence

    scores: dict[str, dict[str, float | None]] = {}
    setup, predictor = prepared.setup, prepared.predictor
    for case, files in images.items():
        new = preprocess_new_case(case, files, setup)
        swept = predictor.sweep(new.image, seed=zlib.crc32(case.encode()))
        evidence = to_evidence(swept, heads=setup.heads, num_samples=predictor.num_samples, has_regions=setup.has_regions)
        found = {**scores_of(evidence, new.nonzero, is_calibrated=False), "softmax": softmax_maximum(evidence)}
        for name, score in found.items():
            scores.setdefault(name, {})[case] = score.value
    return {name: values for name, values in scores.items() if any(value is not None for value in values.values())}


def true_dice(arguments: argparse.Namespace, predictions: Path, images: Mapping[str, list[str]]) -> dict[str, float]:
    """Mean Dice over the classes of every case, in [0, 1]."""
    content = json.loads((arguments.model / "dataset.json").read_text())
    classes = {name: label for name, label in content["labels"].items() if name != "ignore"}
    found = folder_cases(predictions, arguments.labels, cases=images, classes=classes)
    return {case: mean_metrics({case: metrics})["dice"] / 100 for case, metrics in found.items()}


if __name__ == "__main__":
    sys.exit(main())
