"""Where a model gains and where it loses: Dice by difficulty of the cases, and paired differences between models.

    python tests/benchmarks/by_difficulty.py --truth /data/hippocampus/labels /data/predictions/teacher /data/predictions/student

The first folder sorts the cases: those that its model finds hardest come first, in groups of equal number. Differences between models are
paired by case; their standard errors tell how much chance is in the choice of cases, and nothing about how much two trainings differ.
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

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> int:
    """Print everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", nargs="+", type=Path, help="folders that nnUNetv2_predict has written, with the same cases")
    parser.add_argument("--truth", type=Path, required=True, help="folder of reference labels")
    parser.add_argument("--groups", type=int, default=4, help="of cases (default: %(default)s)")
    arguments = parser.parse_args()
    json.dump(by_difficulty(arguments.predictions, arguments.truth, groups=arguments.groups), sys.stdout, indent=1)
    print()
    return 0


def by_difficulty(folders: Sequence[Path], truth: Path, *, groups: int = 4) -> dict[str, Any]:
    """Compare models case by case.

    Args:
        folders: label images of the same cases, one folder per model, named differently; the first one's Dice sorts the cases.
        truth: folder of label images.
        groups: number of groups of cases; where they cannot be equally large, the first are larger by one.

    Returns:
        By model the mean Dice in per cent, that of all classes taken as one, and the Dice of every group, hardest first; by pair of models
        the mean difference (second minus first) with its standard error over the cases, of all cases and of every group.

    Raises:
        ValueError: if there are fewer cases than groups, or a folder lacks some.
    """
    cases = sorted(path.name for path in folders[0].glob("*.nii.gz"))
    if len(cases) < groups:
        raise ValueError(f"{len(cases)} label images (*.nii.gz) in {folders[0]}, fewer than {groups} groups")
    for folder in (truth, *folders):
        if missing := [case for case in cases if not (folder / case).is_file()]:
            raise ValueError(f"{folder} lacks {len(missing)} of the cases of {folders[0]}, the first is {missing[0]}")
    dice = {folder.name: np.array([case_dice(folder / case, truth / case) for case in cases]) for folder in folders}
    order = np.argsort(dice[folders[0].name][:, 0], kind="stable")
    members = np.array_split(order, groups)
    return {
        "cases": len(cases),
        "models": {
            name: {
                "dice": rounded(of_model[:, 0].mean()),
                "dice_of_classes_as_one": rounded(of_model[:, 1].mean()),
                "by_difficulty": [rounded(of_model[group, 0].mean()) for group in members],
            }
            for name, of_model in dice.items()
        },
        "pairs": {
            f"{other} - {one}": {
                "all": paired(dice[one][:, 0], dice[other][:, 0]),
                "by_difficulty": [paired(dice[one][group, 0], dice[other][group, 0]) for group in members],
            }
            for one, other in itertools.combinations(dice, 2)
        },
    }


def case_dice(prediction: Path, truth: Path) -> tuple[float, float]:
    """Dice of a case in per cent: mean over the classes that the truth has, and of all classes taken as one."""
    predicted, true = (sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (prediction, truth))
    classes = [overlap(predicted == label, true == label) for label in np.unique(true) if label != 0]
    return float(np.mean(classes)), overlap(predicted != 0, true != 0)


def overlap(one: Array, other: Array) -> float:
    """Dice of two masks in per cent, not both empty."""
    return float(200 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def paired(one: Array, other: Array) -> dict[str, float | None]:
    """Mean of `other - one` (n,), and its standard error, None for a single case."""
    differences = other - one
    error = rounded(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else None
    return {"difference": rounded(differences.mean()), "standard_error": error}


def rounded(number: float) -> float:
    """To two digits."""
    return round(float(number), 2)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"by_difficulty.py: {error}")
