"""The table of a run, and what it will need on disk."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny_setup import (
    DATASET,
    IDENTIFIER,
    POOL,
    Project,
    grow_stage,
    open_tiny_run,
    teacher_store,
    write_evidence,
    write_student,
)

from nnunet_ssl.run.estimate import estimate_disk
from nnunet_ssl.run.stage_table import HEADER, StageRow, format_table, stage_rows, training_minutes


def test_rows_of_a_run(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    (teacher,) = stage_rows(run)
    assert teacher == StageRow(0, None, None, None, None, None, None, 0.0)
    summary = run.teacher.fold_folder(0) / "validation" / "summary.json"
    summary.parent.mkdir()
    summary.write_text(json.dumps({"foreground_mean": {"Dice": 0.25}}))
    record = grow_stage(run)
    teacher, first = stage_rows(run)
    assert teacher.dice == 0.25
    assert (first.stage, first.fraction, first.cases, first.score_range) == (1, 0.5, 3, record.score_range)
    assert (first.change, first.dice, first.minutes) == (None, None, None)
    write_student(run, 1)
    write_evidence(run.student_store(1))
    grow_stage(run)
    _, first, second = stage_rows(run)
    assert first.dice == 0.6
    assert first.minutes == pytest.approx(record.seconds / 60)
    assert (second.cases, second.change, second.dice) == (6, 0.0, None)


def test_minutes_are_those_of_the_epochs(taught_project: Project) -> None:
    teacher = open_tiny_run(taught_project).teacher
    path = teacher.checkpoint(0)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["logging"] |= {"epoch_start_timestamps": [0.0, 1000.0, 2000.0], "epoch_end_timestamps": [30.0, 1060.0]}
    torch.save(checkpoint, path)
    assert training_minutes(teacher, 0) == 1.5
    assert training_minutes(teacher, 3) is None
    path.write_bytes(b"damaged")
    assert training_minutes(teacher, 0) is None


def test_table_as_text() -> None:
    rows = [StageRow(0, None, None, None, None, None, 0.71234, None), StageRow(1, 0.5, 3, (0.25, 0.75), 0.912, 0.034, None, 12.34)]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == " ".join(HEADER).split()
    assert lines[1].split() == ["teacher", "-", "-", "-", "-", "-", "0.7123", "-"]
    assert lines[2].split() == ["1", "0.5", "3", "0.250-0.750", "91.2%", "3.4%", "-", "12.3"]
    assert len({len(line) for line in lines}) == 1


# ---- disk space


def test_pool_resembles_the_labelled_cases(project: Project) -> None:
    setup = project.setup()
    found = estimate_disk(setup, 10, setup.method)
    (pool,) = (f for f in (project.preprocessed / DATASET).glob("*__pool_*") if f.is_dir())
    used = sum(f.stat().st_size for f in pool.iterdir()) / len(POOL) * 10 / 1e6
    assert found.pool == pytest.approx(used, rel=0.2)
    assert found.total == found.pool + found.evidence + found.stages


def test_cases_whose_names_begin_alike_are_not_counted_twice(project: Project) -> None:
    folder = project.preprocessed / DATASET / IDENTIFIER
    before = estimate_disk(project.setup(), 1, project.setup().method).pool
    (folder / "lab_10.b2nd").write_bytes(b"0" * 10**6)
    assert estimate_disk(project.setup(), 1, project.setup().method).pool == before


def test_every_predictor_and_stage_counts(project: Project) -> None:
    setup = project.setup()

    def estimate(**settings: Any) -> Any:
        return estimate_disk(setup, len(POOL), setup.method.with_settings({k.replace("__", "."): v for k, v in settings.items()}))

    plain = estimate()
    assert estimate(agreement__weight=0.0).evidence == pytest.approx(plain.evidence / 2)  # the teacher's alone
    assert estimate(curriculum__fractions=[1.0]).stages == pytest.approx(plain.stages * 6 / 9)
    assert estimate(student__targets="hard", student__unlearning="off").stages < plain.stages


def test_slices_of_a_2d_configuration_count(project: Project) -> None:
    setup = project.setup()
    two = {**setup.plans["configurations"]["2d"], "data_identifier": IDENTIFIER}
    project.change_plans(lambda plans, c: plans["configurations"].update({"2d": two}))
    from nnunet_ssl.nnunet_api.setup import load_setup

    flat = load_setup("137", "2d", setup.plans_name)
    assert estimate_disk(flat, 5, setup.method).evidence == pytest.approx(estimate_disk(setup, 5, setup.method).evidence)
