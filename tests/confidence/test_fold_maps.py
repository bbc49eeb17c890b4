"""A fold's own calibration map is used only where it is better than the common one; the error that is told is of the maps in use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from nnunet_ssl.confidence.calibration_fit import fit_map
from nnunet_ssl.confidence.fold_maps import FoldMaps, fit_fold_maps
from nnunet_ssl.confidence.held_out import NUM_BINS, HeldOutCounts, bin_logits, case_shares
from nnunet_ssl.confidence.reliability import expected_calibration_error

Cases = dict[str, HeldOutCounts]
NOTHING = np.zeros((1, NUM_BINS))


def case_of(slope: float, bias: float, rng: np.random.Generator) -> HeldOutCounts:
    """One region whose true logit is slope * l + bias + u at a voxel of logit l, with one u for the whole case, N(0, 0.6)."""
    bins = rng.normal(NUM_BINS / 2, NUM_BINS / 12, size=2000).astype(int).clip(0, NUM_BINS - 1)
    true = rng.random(2000) < expit(slope * bin_logits()[bins] + bias + 0.6 * rng.normal())
    sizes = np.array([true.sum()]), np.array([2000]), np.array([true.sum()])
    totals, positives = (np.bincount(of, minlength=NUM_BINS)[None] for of in (bins, bins[true]))
    return HeldOutCounts(totals=totals, positives=positives, true_voxels=sizes[0], predicted_voxels=sizes[1], overlap=sizes[2])


def cases_of(slope: float, bias: float, number: int, seed: int, name: str) -> Cases:
    rng = np.random.default_rng(seed)
    return {f"{name}_{i}": case_of(slope, bias, rng) for i in range(number)}


def error_on_new_cases(found: FoldMaps, fold: int, slope: float, bias: float) -> float:
    assert found.maps is not None
    error = expected_calibration_error(cases_of(slope, bias, 200, 99, "new"), found.maps[fold], has_regions=True)
    assert error is not None
    return error


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_teachers_that_do_not_differ_share_a_map(seed: int) -> None:
    folds = {fold: cases_of(0.6, -0.8, 4, 10 * seed + fold, f"fold{fold}") for fold in range(5)}
    found = fit_fold_maps(folds, list(folds), has_regions=True)
    assert found.own == ()
    assert found.maps == dict.fromkeys(folds, found.common.map)
    assert found.common.ece_before is not None
    assert found.common.ece_after is not None
    # what is told is near what new cases show
    assert found.common.ece_before > 0.08
    assert error_on_new_cases(found, 0, 0.6, -0.8) == pytest.approx(found.common.ece_after, abs=0.05)


def test_teacher_that_differs_has_its_own_map() -> None:
    folds = {0: cases_of(0.6, -3.0, 6, 0, "odd"), **{fold: cases_of(0.6, 1.0, 6, fold, f"fold{fold}") for fold in (1, 2, 3)}}
    found = fit_fold_maps(folds, [0, 1, 2, 3, 4], has_regions=True)
    assert 0 in found.own
    assert found.maps is not None
    assert found.maps[4] == found.common.map
    assert found.maps[0] != found.common.map
    assert "Better by a standard error with a map of its own: fold 0" in found.common.reason
    alone = fit_fold_maps({"all": {name: case for of_fold in folds.values() for name, case in of_fold.items()}}, ["all"], has_regions=True)
    assert alone.common.map == found.common.map
    assert found.common.ece_after is not None
    assert alone.common.ece_after is not None
    # without its own map the odd one spoils the figure
    assert found.common.ece_after < alone.common.ece_after - 0.02
    assert error_on_new_cases(found, 0, 0.6, -3.0) < 0.1


def test_every_case_has_a_map_that_it_had_no_part_in() -> None:
    folds = {0: cases_of(0.6, -3.0, 6, 0, "odd"), **{fold: cases_of(0.6, 1.0, 6, fold, f"fold{fold}") for fold in (1, 2, 3)}}
    folds[4] = cases_of(0.6, 1.0, 3, 4, "few")
    folds[4]["empty"] = HeldOutCounts(totals=NOTHING, positives=NOTHING, true_voxels=[0], predicted_voxels=[0], overlap=[0])
    found = fit_fold_maps(folds, list(folds), has_regions=True)
    assert found.own == (0, 1, 2, 3)
    assert found.maps is not None
    everything = {name: case for of_fold in folds.values() for name, case in of_fold.items()}
    for fold, of_fold in folds.items():
        for name in of_fold:
            others = {other: case for other, case in (of_fold if fold in found.own else everything).items() if other != name}
            shares, kind = case_shares(others), found.maps[fold].kind
            assert found.without(name, fold) == fit_map(kind, shares, np.ones(len(shares.names)), has_regions=True)
            assert (found.without(name, fold) == found.maps[fold]) == (name == "empty")


def test_too_few_cases_have_no_map() -> None:
    found = fit_fold_maps({0: cases_of(1, 0, 2, 0, "a"), 1: cases_of(1, 0, 1, 1, "b")}, [0, 1], has_regions=True)
    assert (found.maps, found.own, found.without("a_0", 0)) == (None, (), None)
    assert found.common.reason.startswith("no calibration: 3 held-out cases")
