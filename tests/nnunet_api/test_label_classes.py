"""Which classes and regions labelled cases have, by what nnU-Net has stored of them."""

from __future__ import annotations

import json
import pickle

from tiny_setup import DATASET, LABELLED, Project

from nnunet_ssl.nnunet_api.label_classes import classes_in_labels


def lose(project: Project, case: str, *classes: object) -> None:
    """Let a labelled case have none of some classes (regions)."""
    path = project.setup().data_folder / f"{case}.pkl"
    properties = pickle.loads(path.read_bytes())
    properties["class_locations"].update({key: [] for key in classes})
    path.unlink()
    path.write_bytes(pickle.dumps(properties))


def test_classes(project: Project) -> None:
    assert classes_in_labels(project.setup(), LABELLED) == {"rim", "core"}
    assert classes_in_labels(project.setup(), []) == set()
    for case in LABELLED[:2]:
        lose(project, case, 2)
    assert classes_in_labels(project.setup(), LABELLED[:2]) == {"rim"}
    assert classes_in_labels(project.setup(), LABELLED[:3]) == {"rim", "core"}


def test_regions(project: Project) -> None:
    """A region of several labels has a tuple for its key, one of a single label its number."""
    for root in (project.raw, project.preprocessed):
        path = root / DATASET / "dataset.json"
        regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **regions}))
    setup = project.setup()
    for case in LABELLED[:2]:
        path = setup.data_folder / f"{case}.pkl"
        properties = {**pickle.loads(path.read_bytes()), "class_locations": {(1, 2): [[0, 1, 1, 1]], 2: []}}
        path.unlink()
        path.write_bytes(pickle.dumps(properties))
    assert classes_in_labels(setup, LABELLED[:2]) == {"whole"}
    lose(project, LABELLED[0], (1, 2))
    assert classes_in_labels(setup, LABELLED[:1]) == set()
