"""The table of a run."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_setup import (
    Project,
    grow_stage,
    open_tiny_run,
    teacher_store,
    write_evidence,
    write_student,
)

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


def test_a_student_of_labelled_samples_alone_has_no_cases_of_the_pool(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, settings={"student.labelled_share": 1.0})
    write_evidence(teacher_store(run))
    grow_stage(run)
    assert stage_rows(run)[1].cases == 0


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
    rows.append(StageRow(2, 1.0, 6, (0.25, 0.75), 0.5, 0.0, float("nan"), 1.0))  # no validation case has the class
    rows.append(StageRow(3, 1.0, 6, (0.25, 0.75), 0.5, 0.31, 0.7, 1.0, is_kept=True))
    lines = format_table(rows).splitlines()
    assert lines[0].split() == " ".join(HEADER).split()
    assert lines[1].split() == ["teacher", "-", "-", "-", "-", "-", "0.7123", "-"]
    assert lines[2].split() == ["1", "0.5", "3", "0.250-0.750", "91.2%", "3.4%", "-", "12.3"]
    assert lines[3].split() == ["2", "1", "6", "0.250-0.750", "50.0%", "0.0%", "-", "1.0"]
    assert lines[4].split()[5:7] == ["31.0%", "refused"]
    assert len({len(line) for line in lines}) == 1
