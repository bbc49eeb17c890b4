"""Writing a stage again: the same files, whatever has happened to them since."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_setup import Project, digests, grow_stage, open_tiny_run, phantom, teacher_store, write_evidence, write_student

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage

CPU = torch.device("cpu")


def test_every_stage_can_be_written_again(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, settings={"agreement.weight": 0.6, "agreement.max_change": 1.0})
    write_evidence(teacher_store(run))
    first = grow_stage(run)
    write_student(run, 1)
    write_evidence(run.student_store(1), label=lambda case: phantom(case)[1].clip(max=1), doubt=lambda case: 0.1)
    second = grow_stage(run)
    manifest = (run.workspace / "manifest.json").read_bytes()
    for record in (first, second):
        folders = (taught_project.raw / record.dataset, taught_project.preprocessed / record.dataset)
        whole = [digests(sorted(folder.rglob("*.*"))) for folder in folders]
        shutil.rmtree(folders[0])  # lost
        next(folders[1].glob("*__nnssl/pool_0.b2nd")).write_bytes(b"")  # damaged
        assert rewrite_stage(open_tiny_run(taught_project), record.stage, device=CPU) == record
        assert [digests(sorted(folder.rglob("*.*"))) for folder in folders] == whole
    assert (run.workspace / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(
    ("written", "stage", "message"), [(0, 1, "none is written"), (1, 2, "stage 1 alone is"), (1, 0, "stage 1 alone is")]
)
def test_a_stage_that_was_not_written(taught_project: Project, written: int, stage: int, message: str) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    for _ in range(written):
        grow_stage(run)
    with pytest.raises(ConfigError, match=f"--stage {stage}: {message}"):
        rewrite_stage(run, stage, device=CPU)
