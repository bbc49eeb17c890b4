"""All bad inputs, in the order and with the headings of docs/reference/bad-input.md."""

from __future__ import annotations

from collections.abc import Sequence

from bad_images import CHANNELS, FILES, NAMES
from bad_input import BadInput
from bad_runs import CHECKPOINTS, EVIDENCE, FINDINGS, GIVEN, LABELLED_DATA, MANIFESTS, OUTPUTS, POOLS, PREDICTIONS
from bad_setups import DATASETS, FOLDERS, OVERLAYS, PLANNING, PLANS, SETTINGS, SPLITS

GROUPS: dict[str, Sequence[BadInput]] = {
    "Image files": FILES,
    "Channels": CHANNELS,
    "Names of images": NAMES,
    "Folders": FOLDERS,
    "Plans": PLANS,
    "dataset.json": DATASETS,
    "splits_final.json": SPLITS,
    "Overlays": OVERLAYS,
    "Settings": SETTINGS,
    "Planning": PLANNING,
    "Manifests": MANIFESTS,
    "Pool": POOLS,
    "Evidence": EVIDENCE,
    "Labelled data": LABELLED_DATA,
    "Models": CHECKPOINTS,
    "Predictions as the teacher": PREDICTIONS,
    "Labels to accept": GIVEN,
    "Findings and tables": FINDINGS,
    "Inputs and outputs": OUTPUTS,
}
ROWS = [bad for rows in GROUPS.values() for bad in rows]


def page_rows(rows: Sequence[BadInput]) -> list[str]:
    """Lines of the page's tables."""
    return [f"| {bad.what} | `{bad.command}` | `{bad.says}` | {'left out and listed' if bad.is_skipped else ''} |" for bad in rows]


def page_tables() -> str:
    """All tables of the page."""
    head = ["| what is bad | command | said with the file's name | with `--skip-bad` |", "|---|---|---|---|"]
    return "\n".join("\n".join([f"## {heading}", "", *head, *page_rows(rows), ""]) for heading, rows in GROUPS.items())
