"""Which classes preprocessed labels contain."""

from __future__ import annotations

from collections.abc import Iterable

from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def classes_in_labels(setup: NnunetSetup, cases: Iterable[str]) -> set[str]:
    """Names of the foreground classes (regions) that any of the labelled cases has, by the locations that nnU-Net has stored of them.

    Raises:
        StateError: if the properties of a case are missing or damaged.
    """
    labels = setup.label_manager
    classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    missing = {tuple(c) if isinstance(c, list) else c: name for c, name in zip(classes, setup.foreground_names, strict=True)}
    found: set[str] = set()
    for case in cases:
        if not missing:
            break
        locations = load_properties(setup.data_folder, case).get("class_locations")
        there = [c for c in missing if isinstance(locations, dict) and len(locations.get(c, ()))]
        found.update(missing.pop(c) for c in there)
    return found
