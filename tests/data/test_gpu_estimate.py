"""What our network takes of a GPU is said for the plans of other networks as well."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from tiny_setup import Project

from nnunet_ssl.data.gpu_estimate import describe_size
from nnunet_ssl.nnunet_api.setup import NnunetSetup

STOCK = "nnUNetPlans"


def with_architecture(setup: NnunetSetup, **changes: Any) -> NnunetSetup:
    plans = copy.deepcopy(setup.plans)
    plans["configurations"][setup.configuration]["architecture"].update(changes)
    return replace(setup, plans=plans)


def gigabytes(text: str | None) -> tuple[float, float]:
    found = re.search(r"on a GPU about ([\d.]+) GB to train, ([\d.]+) GB for evidence", text or "")
    assert found, text
    return float(found[1]), float(found[2])


def test_plans_of_another_network(project: Project) -> None:
    setup = project.setup(STOCK)
    assert "PlainConvUNet" in json.dumps(setup.plans)
    text = describe_size(setup)
    patch = " x ".join(map(str, setup.configuration_manager.patch_size))
    assert str(text).startswith(f"patch {patch}, batch {setup.configuration_manager.batch_size}; ")
    assert min(gigabytes(text)) > 0


def test_more_regions_take_more(project: Project) -> None:
    setup = project.setup(STOCK)
    labels = {"background": 0, "whole": list(range(1, 200)), **{f"part {i}": i for i in range(2, 200)}}
    many = replace(setup, dataset_json={**setup.dataset_json, "labels": labels, "regions_class_order": list(range(1, 200))})
    assert many.heads == 199
    assert gigabytes(describe_size(many)) > gigabytes(describe_size(setup))


@pytest.mark.parametrize("changes", [{"network_class_name": "mine.Transformer"}, {"arch_kwargs": {"n_stages": 1}}])
def test_plans_that_ours_cannot_be_derived_from(project: Project, changes: dict[str, Any]) -> None:
    assert describe_size(with_architecture(project.setup(STOCK), **changes)) is None
