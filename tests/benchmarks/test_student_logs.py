"""What is read from the logs of students, on a log written by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from finished_run import LOGS
from student_logs import NUM_EPOCHS, StageLog, describe, logs_of, parse, read_stages

RUN = "==> OUT/D137/trainer/fold_all/nnssl"


def epochs(name: str, values: list[float]) -> str:
    return "".join(f"2026-11-30 20:01:27.139895: {name} {value} \n2026-11-30 20:01:27.14: other_{name} 7 \n" for value in values)


def log(command: str, *students: str) -> str:
    parts = [f"==> queue/test_l4_d3.ours.log <==\n{command}", f"{RUN}/manifest.json <==\n{{}}\n"]
    parts += [f"{RUN}/logs/student_{number}.txt <==\n{text}" for number, text in enumerate(students, start=1)]
    return "\n".join([*parts, "==> OUT/training_log_2026.txt <==\n" + epochs("loss_supervised", [5.0, 5.0, 5.0])])


COMMAND = """[2/6] write stage 1
labels against stage 1: a 4.7 %, b 5.5 % changed; all 5.1 %
  stage  fraction  cases  score range  confident  changed  val. Dice  minutes
teacher         -      -            -          -        -          -     13.2
      1       0.5     78  0.921-0.952      86.4%        -          -     10.3
      2         1    156  0.803-0.955      83.6%     5.5%          -      9.6
"""
FIRST = epochs("loss_supervised", [0.0, -0.1, -0.2, -0.5, -0.7, -0.8, -0.9]) + epochs("loss_high", [0.9, 0.6, 0.3, 0.3])
SECOND = epochs("loss_supervised", [-0.4, -0.5, -0.6])


def test_both_ends_of_every_stage() -> None:
    assert NUM_EPOCHS == 3
    first, second = read_stages(log(COMMAND, FIRST, SECOND))
    assert first.terms == {"loss_supervised": pytest.approx((-0.1, -0.8)), "loss_high": pytest.approx((0.6, 0.4))}
    assert (first.confident, first.changed) == (86.4, None)
    assert second == StageLog({"loss_supervised": pytest.approx((-0.5, -0.5))}, 83.6, 5.1)
    assert read_stages(log("no table\n")) == []


def test_draws_are_averaged(tmp_path: Path) -> None:
    row = {"split": "test", "labels": 4, "arm": "ours", "network": "TransASPPUNet", "teachers": "single", "teacher": "x", "steps": 3000}
    for draw, command in ((4, COMMAND), (3, COMMAND.replace("5.1 %", "2.1 %").replace("83.6%", "80.6%"))):
        path = tmp_path / f"test_l4_d{draw}.ours.json"
        path.write_text(json.dumps({**row, "draw": draw, "teacher": f"t{draw}", "student_steps": 1500, "cases": 40, "frozen": "f"}))
        path.with_suffix(LOGS).write_bytes(gzip.compress(log(command, FIRST, SECOND).encode()))
    asked = parse(["--rows", str(tmp_path)])
    runs = logs_of(asked.rows, "ours", split=asked.split, labels=asked.labels, network=asked.network)
    assert list(runs) == [3, 4]
    assert describe([stages[0] for stages in runs.values()]) == (
        "loss_supervised -0.100 to -0.800, loss_high 0.600 to 0.400, confident 86.4 % (86.4 to 86.4)"
    )
    assert describe([stages[1] for stages in runs.values()]) == (
        "loss_supervised -0.500 to -0.500, confident 82.1 % (80.6 to 83.6), changed 3.6 % (2.1 to 5.1)"
    )
    with pytest.raises(ValueError, match="no run of 'naive' with 4 labels and stages"):
        logs_of(asked.rows, "naive", split="test", labels=4, network="TransASPPUNet")
