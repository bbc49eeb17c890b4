"""How much the pool's labels changed from one source to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from nnunet_ssl.confidence.agreement import changed_foreground, overall_change, pooled_changes
from nnunet_ssl.pseudolabel.pool_labels import PoolLabels


@dataclass(frozen=True)
class ChangeReport:
    """Share of foreground voxels that changed, over the whole pool."""

    per_class: dict[str, float]
    """Changed voxels of a class over voxels that have it before or after; by class (region) name."""
    overall: float
    """The same over all classes together."""

    def describe(self) -> str:
        """One line for the log."""
        return (
            ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.per_class.items()) + f" changed; all {100 * self.overall:.1f} %"
        )


def label_change(before: PoolLabels, after: PoolLabels, cases: Sequence[str]) -> ChangeReport:
    """Compare two sources of labels, case by case."""
    setup = before.setup
    compared = (
        changed_foreground(
            before.evidence(case)[0].predicted_labels(),
            after.evidence(case)[0].predicted_labels(),
            setup.heads,
            has_regions=setup.has_regions,
        )
        for case in tqdm(cases, desc="comparing labels")
    )
    changes = pooled_changes(compared)
    shares = {name: change.share or 0.0 for name, change in zip(setup.foreground_names, changes.values(), strict=True)}
    return ChangeReport(shares, overall_change(changes).share or 0.0)
