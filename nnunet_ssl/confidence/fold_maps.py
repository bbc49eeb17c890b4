"""Calibration maps of cross-fitted teachers: a common one, and one of its own for a fold whose held-out cases are better off with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nnunet_ssl.confidence.calibration import Calibration, LeftOut, fit_calibration, gains, standard_error
from nnunet_ssl.confidence.calibration_map import CalibrationMap
from nnunet_ssl.confidence.held_out import HeldOutCounts

Fold = int | str


@dataclass(frozen=True, kw_only=True)
class FoldMaps:
    """Which map each fold's teacher has."""

    common: Calibration
    """Over the held-out cases of all folds together; its `ece_after` is of the maps in force, folds' own ones among them."""
    maps: dict[Fold, CalibrationMap] | None
    """By fold; None where there are too few cases in all."""
    own: tuple[Fold, ...]
    """Folds with a map of their own."""
    left_out: Mapping[str, CalibrationMap]
    """By held-out case, the map of its fold fitted without the case; a case without a labelled voxel in its band has no part in any."""

    def without(self, case: str, fold: Fold) -> CalibrationMap | None:
        """The map under which a held-out case of a fold is judged: one that it has had no part in."""
        return None if self.maps is None else self.left_out.get(case, self.maps[fold])


def fit_fold_maps(cases: Mapping[Fold, Mapping[str, HeldOutCounts]], folds: Sequence[Fold], *, has_regions: bool) -> FoldMaps:
    """Fit the common map, and a fold's own where it is worth it.

    A fold that has cases enough gets its own map if the Brier score of its held-out cases, each left out in its turn, is better by more
    than one standard error than under the common map, fitted without the same case. Few cases of one fold make a poor map; where the
    teachers do not differ it would be worse than the common one.

    Args:
        cases: by fold of the teacher, its held-out cases by id.
        folds: all folds that label, also those without held-out cases.
        has_regions: whether the heads are regions.

    Raises:
        StateError: if the cases differ in the number of heads.
    """
    common = fit_calibration({name: case for of_fold in cases.values() for name, case in of_fold.items()}, has_regions=has_regions)
    if (shared := common.map) is None or common.left_out is None:
        return FoldMaps(common=common, maps=None, own=(), left_out={})
    own: dict[Fold, CalibrationMap] = {}
    in_force = common.left_out
    for fold, of_fold in cases.items():
        fit = fit_calibration(of_fold, has_regions=has_regions)
        if fit.map is not None and fit.left_out is not None and _is_better(fit.left_out, common.left_out):
            own[fold] = fit.map
            in_force = in_force.replaced_by(fit.left_out)
    if own:
        better = f" Better by a standard error with a map of its own: fold {', '.join(map(str, own))}."
        common = replace(common, ece_after=in_force.error(has_regions=has_regions), reason=common.reason + better)
    return FoldMaps(common=common, maps={fold: own.get(fold, shared) for fold in folds}, own=tuple(own), left_out=in_force.maps)


def _is_better(own: LeftOut, common: LeftOut) -> bool:
    gain = gains(own, common)
    return bool(gain.mean() > standard_error(gain))
