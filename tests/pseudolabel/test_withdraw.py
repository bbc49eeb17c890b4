"""Accepted labels that are taken back: the stages after that do without, those before keep them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given_labels import write_labels
from tiny_setup import IDENTIFIER, PLANS, POOL, Project, grow_stage, mtimes, open_tiny_run, phantom, write_evidence, write_student

from nnunet_ssl.cli.pseudolabel import main
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.pseudolabel.accept import accept
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage
from nnunet_ssl.pseudolabel.withdraw import withdraw

STAGES = ("Dataset601_Tiny_f0s1", "Dataset602_Tiny_f0s2")
CALL = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-p", PLANS, "-device", "cpu"]


@pytest.fixture
def given(taught_project: Project, tmp_path: Path) -> tuple[Any, Path]:
    """A run that has not written a stage, with evidence of the teacher and labels of the two best cases."""
    run = open_tiny_run(taught_project, settings={"agreement.weight": 0.0})
    for store in run.teacher_stores().values():
        write_evidence(store)
    folder = write_labels(tmp_path / "given", {case: np.minimum(phantom(case)[1], 1) for case in POOL[:2]})
    accept(run, folder)
    return run, folder


def test_as_if_it_had_not_been_accepted(given: tuple[Any, Path], caplog: pytest.LogCaptureFixture) -> None:
    run, folder = given
    withdraw(run, [POOL[0]])
    assert not caplog.records
    assert list(open_tiny_run(run_project(run)).accepted) == [POOL[1]]
    assert POOL[0] in run.pseudo_cases
    record = grow_stage(run)
    assert POOL[0] in record.cases
    assert list(record.accepted) == [POOL[1]]
    assert accept(run, folder) == [POOL[0]]  # the one that is in force is not new


def test_stages_that_are_written_keep_it(given: tuple[Any, Path], caplog: pytest.LogCaptureFixture) -> None:
    run, folder = given
    first = grow_stage(run)
    write_student(run, 1)
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        withdraw(run, [POOL[0]])
    assert "the stages written before keep the labels (stage 1), and their students have learned from them" in caplog.text
    second = grow_stage(run)
    assert (list(first.accepted), list(second.accepted)) == ([POOL[0], POOL[1]], [POOL[1]])
    assert POOL[0] in second.cases
    raw = run_project(run).raw
    labels = [raw / stage / "labelsTr" / f"{POOL[0]}.nii.gz" for stage in STAGES]
    assert labels[0].read_bytes() == (folder / f"{POOL[0]}.nii.gz").read_bytes()
    assert labels[1].read_bytes() != labels[0].read_bytes()
    # written again, the first stage still has it
    labels[0].unlink()
    rewrite_stage(run, 1, device=torch.device("cpu"))
    assert labels[0].read_bytes() == (folder / f"{POOL[0]}.nii.gz").read_bytes()
    assert (run_project(run).preprocessed / STAGES[0] / IDENTIFIER / f"{POOL[0]}_seg.b2nd").is_file()


def test_all_that_are_named_or_none(given: tuple[Any, Path]) -> None:
    run, _ = given
    before = mtimes(run.workspace)
    with pytest.raises(InputError, match=r"--withdraw pool_9: the run has no accepted label of that case; it has: pool_0, pool_1\."):
        withdraw(run, [POOL[0], "pool_9"])
    assert mtimes(run.workspace) == before
    assert list(run.accepted) == POOL[:2]
    withdraw(run, [POOL[1], POOL[0], POOL[1]])  # named twice, taken back once
    with pytest.raises(InputError, match=r"--withdraw pool_0: .* it has: none\."):
        withdraw(run, [POOL[0]])


def test_no_stage_follows(given: tuple[Any, Path]) -> None:
    run, _ = given
    for stage in (1, 2):
        grow_stage(run)
        write_student(run, stage)
    with pytest.raises(StateError, match=r"is complete: no stage follows that could do without pool_0\."):
        withdraw(run, [POOL[0]])


def test_command(given: tuple[Any, Path], capsys: Any) -> None:
    run, folder = given
    grow_stage(run)
    assert main([*CALL, "--withdraw", POOL[0]]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accepted labels: 1 withdrawn, 1 are left\n")
    assert "its student is not trained yet" in out
    assert main([*CALL, "--withdraw", POOL[0], "--num_parts", "2", "--part_id", "0"]) == 2
    assert "--num_parts gathers evidence and does no more; --withdraw is for" in capsys.readouterr().err
    # first what is taken back, then what is given
    assert main([*CALL, "--withdraw", POOL[1], "--accept", str(folder)]) == 0
    assert "accepted labels: 1 withdrawn, 0 are left\n" in (out := capsys.readouterr().out)
    assert "accepted labels: 2 new, 2 in all\n" in out


def run_project(run: Any) -> Project:
    """The project that a run lies in."""
    results = run.teacher.folder.parents[1]
    return Project(
        raw=results.with_name("nnUNet_raw"),
        preprocessed=results.with_name("nnUNet_preprocessed"),
        results=results,
        unlabelled=Path(run.pool.images[POOL[0]][0]).parent,
    )
