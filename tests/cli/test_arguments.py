"""Flags that several commands share."""

from __future__ import annotations

import argparse
import os
from typing import Any

import pytest
import torch

from nnunet_ssl.cli.arguments import (
    add_dataset_arguments,
    add_device_argument,
    add_method_arguments,
    add_run_arguments,
    evidence_device,
    fold_argument,
    make_parser,
    method_assignments,
    use_device,
)
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    made = make_parser("nnssl_x", "Does something.", "  nnssl_x -d 137")
    for add in (add_dataset_arguments, add_run_arguments, add_device_argument, add_method_arguments):
        add(made)
    return made


def parse(*flags: str) -> argparse.Namespace:
    return parser().parse_args(["-d", "137", "-c", "3d_fullres", "-f", "0", *flags])


def test_defaults_are_nnunets() -> None:
    found = parse()
    assert (found.d, found.c, found.f, found.p, found.device) == ("137", "3d_fullres", 0, "nnUNetPlans", "cuda")
    assert found.tr == "TransASPPTeacherTrainer"
    assert (found.teacher_folds, found.student_tr, found.first_id) == (None, None, None)
    assert method_assignments(found) == {}


@pytest.mark.parametrize(("text", "fold"), [("0", 0), ("12", 12), ("all", "all")])
def test_folds(text: str, fold: int | str) -> None:
    assert fold_argument(text) == fold


@pytest.mark.parametrize("text", ["-1", "one", "", "1.0", "ALL"])
def test_what_is_no_fold(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="neither a fold number nor 'all'"):
        fold_argument(text)


@pytest.mark.parametrize(
    "flags",
    [
        ["-f", "x"],
        ["--order", "best"],
        ["--confidence", "high"],
        ["--schedule", "fast"],
        ["-device", "tpu"],
        ["--stages"],
        ["--first-id", "a"],
    ],
)
def test_wrong_flags_are_refused_by_argparse(flags: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*flags)
    assert stop.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_every_method_flag_is_a_setting() -> None:
    found = parse(
        *("--stages", "0.5", "1", "--order", "random", "--case-score", "mean", "--num-samples", "16", "--unlearning", "bounded"),
        *("--targets", "hard", "--student-init", "scratch", "--agreement", "0.25", "--confidence", "paper", "--schedule", "adaptive"),
    )
    assignments = method_assignments(found)
    assert assignments == {
        "curriculum.fractions": [0.5, 1.0],
        "curriculum.schedule": "adaptive",
        "curriculum.order": "random",
        "evidence.confidence": "paper",
        "evidence.case_score": "mean",
        "evidence.num_samples": 16,
        "student.unlearning": "bounded",
        "student.targets": "hard",
        "student.init": "scratch",
        "agreement.weight": 0.25,
    }
    MethodConfig().with_settings(assignments)


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        ("--confidence", "evidence.confidence"),
        ("--schedule", "curriculum.schedule"),
        ("--order", "curriculum.order"),
        ("--case-score", "evidence.case_score"),
    ],
)
def test_flags_with_choices_offer_what_the_settings_take(flag: str, path: str) -> None:
    action = next(a for a in parser()._actions if flag in a.option_strings)
    assert action.choices
    for choice in action.choices:
        assignments = method_assignments(parse(flag, choice))
        assert assignments == {path: choice}
        MethodConfig().with_settings(assignments)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("student.cutmix=0", "student.cutmix", 0),
        ("student.ema=false", "student.ema", False),
        ("student.ema_decay=null", "student.ema_decay", None),
        ("student.tau=null", "student.tau", None),
        ("student.tau=[0.6, 0.7, 0.8]", "student.tau", [0.6, 0.7, 0.8]),
        ("curriculum.order=random", "curriculum.order", "random"),
        ("curriculum.order=a=b", "curriculum.order", "a=b"),
    ],
)
def test_any_setting(text: str, path: str, value: Any) -> None:
    assert method_assignments(parse("--set", text)) == {path: value}


def test_set_wins_over_a_flag_and_can_be_repeated() -> None:
    found = method_assignments(parse("--targets", "hard", "--set", "student.targets=soft", "--set", "student.cutmix=0"))
    assert found == {"student.targets": "soft", "student.cutmix": 0}


@pytest.mark.parametrize("text", ["student.cutmix", "=1", ""])
def test_set_needs_a_name_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form NAME=VALUE"):
        method_assignments(parse("--set", text))


def test_teachers_settings_are_the_plans() -> None:
    with pytest.raises(ConfigError, match=r"--set teacher\.lambda_ce: .* use nnssl_prepare --preset"):
        method_assignments(parse("--set", "teacher.lambda_ce=2"))


@pytest.mark.parametrize("fractions", [["0.5", "0.5"], ["1", "0.5"], ["0"], ["1.5"]])
def test_fractions_that_do_not_increase_are_refused(fractions: list[str]) -> None:
    assignments = method_assignments(parse("--stages", *fractions))
    with pytest.raises(ConfigError, match=r"curriculum\.fractions.* increasing numbers in \(0, 1\]"):
        MethodConfig().with_settings(assignments)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert use_device("cpu") == "cpu"
    assert threads == [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    for name in ("cuda", "mps"):
        with pytest.raises(ConfigError, match=f"-device {name}: .*use -device cpu"):
            use_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert use_device("cuda") == "cuda"
    assert threads[1:] == [1]


@pytest.mark.parametrize(
    ("address", "is_here"), [(None, True), ("local", True), ("local:2", True), ("localhost:8786", False), ("tcp://node1:8786", False)]
)
def test_device_of_evidence_is_looked_for_where_networks_run(address: str | None, is_here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's workers have GPUs that this machine need not have; `localhost:8786` is a scheduler's address."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = argparse.Namespace(device="cuda", dask=address)
    if is_here:
        with pytest.raises(ConfigError, match="PyTorch finds no CUDA device"):
            evidence_device(asked)
    else:
        assert evidence_device(asked) == "cuda"


def test_help_ends_with_an_example() -> None:
    assert parser().format_help().rstrip().endswith("example:\n  nnssl_x -d 137")
