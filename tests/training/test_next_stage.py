"""The first stage of a cascade is validated whether or not the data of the second are there."""

from __future__ import annotations

from typing import Any

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.training.next_stage import leave_out_missing_next_stages

DATASET = "Dataset137_Tiny"


@pytest.mark.parametrize(
    ("planned", "there", "left", "missing"),
    [
        (None, [], None, []),
        ("cascade", ["fine"], "cascade", []),
        ("cascade", [], None, ["cascade"]),
        (["cascade", "finer_cascade"], ["fine"], ["cascade"], ["finer_cascade"]),
    ],
)
def test_stages_without_data_are_left_out(nnunet_environment: Any, planned: Any, there: list[str], left: Any, missing: list[str]) -> None:
    configurations = {
        "lowres": {"data_identifier": "coarse", **({"next_stage": planned} if planned else {})},
        "cascade": {"data_identifier": "fine", "previous_stage": "lowres"},
        "finer_cascade": {"data_identifier": "finer", "previous_stage": "lowres"},
    }
    plans = PlansManager(
        {"dataset_name": DATASET, "configurations": {name: {"architecture": {}, **content} for name, content in configurations.items()}}
    )
    for identifier in there:
        (nnunet_environment.preprocessed / DATASET / identifier).mkdir(parents=True)
    configuration = plans.get_configuration("lowres")
    assert leave_out_missing_next_stages(plans, configuration) == missing
    assert configuration.configuration.get("next_stage") == left
    assert plans.plans["configurations"]["lowres"].get("next_stage") == planned
