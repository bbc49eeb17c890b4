from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_ssl.training.epoch_terms import EpochTerms, to_host

TERMS = EpochTerms({"a": 1, "b": 2})


def test_every_step_has_every_term() -> None:
    complete = TERMS.complete({"loss": 1.0, "a": np.float32(2)})
    assert complete["loss"] == 1.0
    assert complete["a"].tolist() == [2.0]
    assert np.isnan(complete["b"]).tolist() == [True, True]


def test_means_leave_out_what_was_not_measured() -> None:
    steps = [TERMS.complete({"a": 1.0, "b": [np.nan, 1.0]}), TERMS.complete({"a": 2.0, "b": [np.nan, 2.0]}), TERMS.complete({})]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = TERMS.epoch_means(steps)
    assert means["a"] == pytest.approx(1.5)
    assert np.isnan(means["b"][0])
    assert means["b"][1] == pytest.approx(1.5)


def test_terms_of_a_loss_as_arrays() -> None:
    terms = to_host({"a": torch.tensor(1.5), "b": torch.tensor([1, 2]), "c": torch.tensor(2.5, dtype=torch.float64)})
    assert {name: value.tolist() for name, value in terms.items()} == {"a": [1.5], "b": [1.0, 2.0], "c": [2.5]}
    assert to_host({}) == {}


def test_registering_keeps_what_is_there() -> None:
    logger = SimpleNamespace(local_logger=SimpleNamespace(my_fantastic_logging={"lrs": [1], "a": [2]}))
    TERMS.register(logger)
    assert logger.local_logger.my_fantastic_logging == {"lrs": [1], "a": [2], "b": []}
