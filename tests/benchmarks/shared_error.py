"""How much of their error trained models share: what an ensemble of them, or another threshold, could gain and what neither can.

    nnUNetv2_predict ... -o /data/predictions/student --save_probabilities
    python tests/benchmarks/shared_error.py --truth /data/hippocampus/labels /data/predictions/control /data/predictions/student

Where models that were trained apart agree with each other far better than with the truth, their error is the labelled cases' and not the
training's: averaging takes away the rest. A shift of the background's log-probability shows whether structures are found too large.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""Added to the background's log-probability; above 0 structures shrink."""

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> int:
    """Print everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", nargs="+", type=Path, help="folders that nnUNetv2_predict --save_probabilities has written")
    parser.add_argument("--truth", type=Path, required=True, help="folder of reference labels")
    arguments = parser.parse_args()
    json.dump(shared_error(arguments.predictions, arguments.truth), sys.stdout, indent=1)
    print()
    return 0


def shared_error(folders: Sequence[Path], truth: Path) -> dict[str, Any]:
    """Compare models with the truth and with each other, on the cases of the first folder.

    Args:
        folders: predictions with class probabilities, one folder per model, named differently.
        truth: folder of label images.

    Returns:
        By model its mean Dice and `volume_ratio` (predicted over true, mean over cases and classes); by pair of models their Dice with each
        other and that of their mean probabilities with the truth; the Dice of the mean of all; by shift the Dice and ratio of each model.
    """
    cases = sorted(path.stem for path in folders[0].glob("*.npz"))
    if not cases:
        raise ValueError(f"no probabilities (*.npz) in {folders[0]}; predict with --save_probabilities")
    probabilities = {folder.name: [read_probabilities(folder / f"{case}.npz") for case in cases] for folder in folders}
    truths = [sitk.GetArrayFromImage(sitk.ReadImage(truth / f"{case}.nii.gz")) for case in cases]
    labels = {name: [p.argmax(0) for p in of_model] for name, of_model in probabilities.items()}
    pairs = itertools.combinations(probabilities, 2)
    return {
        "cases": len(cases),
        "models": {name: against(of_model, truths) for name, of_model in labels.items()},
        "pairs": {
            f"{one} + {other}": {
                "dice_with_each_other": mean_dice(labels[one], labels[other]),
                "dice_of_their_mean": mean_dice(averaged([probabilities[one], probabilities[other]]), truths),
            }
            for one, other in pairs
        },
        "dice_of_the_mean_of_all": mean_dice(averaged(list(probabilities.values())), truths),
        "background_shift": {
            name: {f"{shift:g}": against([shifted(p, shift) for p in of_model], truths) for shift in SHIFTS}
            for name, of_model in probabilities.items()
        },
    }


def read_probabilities(path: Path) -> Array:
    """Class probabilities of a case as nnU-Net saves them, (classes, *spatial) in the order of SimpleITK's arrays."""
    with np.load(path) as file:
        return np.asarray(file["probabilities"], dtype=np.float32)


def averaged(models: Sequence[Sequence[Array]]) -> list[Array]:
    """Labels of the models' mean probabilities, case by case."""
    return [np.mean(of_case, axis=0).argmax(0) for of_case in zip(*models, strict=True)]


def shifted(probabilities: Array, shift: float) -> Array:
    """Labels after a number is added to the background's log-probability; (classes, *spatial) to (*spatial)."""
    weighted = probabilities.copy()
    weighted[0] *= np.exp(shift)
    return np.asarray(weighted.argmax(0))


def against(labels: Sequence[Array], truths: Sequence[Array]) -> dict[str, float]:
    """Mean Dice in per cent and mean ratio of volumes, predicted over true."""
    ratios = [(p == k).sum() / (t == k).sum() for p, t in zip(labels, truths, strict=True) for k in foreground(t)]
    return {"dice": mean_dice(labels, truths), "volume_ratio": round(float(np.mean(ratios)), 3)}


def mean_dice(ones: Sequence[Array], others: Sequence[Array]) -> float:
    """Mean over classes and cases in per cent; a class that neither image has says nothing."""
    values = []
    for one, other in zip(ones, others, strict=True):
        for k in np.union1d(foreground(one), foreground(other)):
            values.append(200 * np.sum((one == k) & (other == k)) / (np.sum(one == k) + np.sum(other == k)))
    return round(float(np.mean(values)), 2)


def foreground(labels: Array) -> list[int]:
    """The labels that an image has, without background."""
    return [int(k) for k in np.unique(labels) if k > 0]


if __name__ == "__main__":
    sys.exit(main())
