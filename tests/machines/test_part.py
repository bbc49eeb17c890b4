"""Shares of a list of cases."""

from __future__ import annotations

import argparse
import inspect

import pytest
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ssl.cli.arguments import add_part_arguments, part_of
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.machines.part import WHOLE, Part

CASES = list("abcdefg")


def test_parts_are_nnunets() -> None:
    parts = [Part(num_parts=3, part_id=i).share(CASES) for i in range(3)]
    assert parts == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert "[part_id::num_parts]" in inspect.getsource(nnUNetPredictor._manage_input_and_output_lists)
    assert WHOLE.share(CASES) == CASES


def test_more_parts_than_cases() -> None:
    assert [Part(num_parts=4, part_id=i).share(["a", "b"]) for i in range(4)] == [["a"], ["b"], [], []]


@pytest.mark.parametrize(
    ("num_parts", "part_id", "message"),
    [
        (0, 0, "--num_parts 0: there is at least one part"),
        (3, 3, "--part_id 3: the 3 parts are numbered from 0 to 2"),
        (3, -1, "--part_id -1: the 3 parts are numbered from 0 to 2"),
    ],
)
def test_parts_that_do_not_exist(num_parts: int, part_id: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Part(num_parts=num_parts, part_id=part_id)


def asked(*flags: str) -> Part | None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-p")
    parser.add_argument("-np", type=int)
    add_part_arguments(parser, "count the cases")
    return part_of(parser.parse_args(["-np", "2", "-p", "plans", *flags]))


def test_flags_in_both_spellings() -> None:
    assert asked() is None
    assert asked("--num_parts", "4", "--part_id", "1") == asked("-num_parts", "4", "-part_id", "1") == Part(num_parts=4, part_id=1)
    assert asked("--num_parts", "1", "--part_id", "0") == WHOLE
    for lone in (["--num_parts", "4"], ["--part_id", "0"]):
        with pytest.raises(ConfigError, match="--num_parts and --part_id go together"):
            asked(*lone)
