"""Evidence that several processes gather, one part each."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several_processes import run_rounds
from tiny_setup import PLANS, POOL, Project, digests, open_tiny_run, replace_pool_image, teacher_store, write_evidence, write_student

from nnunet_ssl.cli.pseudolabel import main
from nnunet_ssl.data import image_fingerprints
from nnunet_ssl.machines.part import Part
from nnunet_ssl.pseudolabel import gather
from nnunet_ssl.pseudolabel.dataset_ids import allotting
from nnunet_ssl.pseudolabel.gather_part import gather_part, missing_evidence

CPU = torch.device("cpu")
CALL = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-p", PLANS, "-device", "cpu", "--num-samples", "8"]


def part(part_id: int, num_parts: int = 2) -> list[str]:
    return ["--num_parts", str(num_parts), "--part_id", str(part_id)]


def call(capsys: Any, *flags: str, code: int = 0) -> str:
    assert main([*CALL, *flags]) == code
    captured = capsys.readouterr()
    return str(captured.out if code == 0 else captured.err)


def evidence(run: Any) -> dict[str, str]:
    """SHA-256 of every file of evidence, by its name in the workspace."""
    folder = run.workspace / "evidence"
    found = digests([path for path in folder.rglob("*") if path.is_file()])
    return {Path(name).relative_to(folder).as_posix(): digest for name, digest in found.items()}


def test_parts_gather_and_the_command_ranks(taught_project: Project, capsys: Any) -> None:
    out = call(capsys, *part(1, 3))
    assert "part 1 of 3: evidence of 2 of 6 pool cases is there for stage 1" in out
    assert "missing in other parts: 4 cases" in out
    assert out.endswith("next, when every part is done: the same command without --num_parts and --part_id\n")
    run = open_tiny_run(taught_project)
    assert [case for case in POOL if teacher_store(run).has(case)] == ["pool_1", "pool_4"]
    assert run.manifest.stages == []
    assert "evidence of the teacher: 4 cases swept, 2 were there" in call(capsys)
    # the student of stage 1 is not trained yet: a part has nothing to do
    assert "part 0 of 3: no evidence is asked for now" in call(capsys, *part(0, 3))
    run = open_tiny_run(taught_project)
    write_student(run, 1)
    assert missing_evidence(run, 2) == POOL
    assert "part 0 of 3: evidence of 2 of 6 pool cases is there for stage 2" in call(capsys, *part(0, 3))
    assert missing_evidence(run, 2) == ["pool_1", "pool_2", "pool_4", "pool_5"]
    write_evidence(run.student_store(1))
    call(capsys)
    write_student(open_tiny_run(taught_project), 2)
    assert "part 2 of 3: no evidence is asked for now" in call(capsys, *part(2, 3))
    assert not open_tiny_run(taught_project).manifest.published


def test_parts_share_the_held_out_cases_of_all_folds(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all folds together are shared out: more parts than held-out cases of a fold still share the work."""
    run = open_tiny_run(taught_project, "all", teacher_folds=[0, 1])
    assert run.held_out_cases == {0: ["lab_0"], 1: ["lab_1"]}
    asked: list[tuple[Any, list[str]]] = []
    monkeypatch.setattr(gather, "_gather", lambda *a: asked.append((a[2], list(a[3]))))
    for part_id in range(2):
        gather_part(run, Part(num_parts=2, part_id=part_id), device=CPU)
    of_first, of_second = POOL[::2], POOL[1::2]
    first = [(0, of_first), (1, of_first), (0, ["lab_0"]), (1, [])]
    assert asked == [*first, (0, of_second), (1, of_second), (0, []), (1, ["lab_1"])]
    assert missing_evidence(run, 1) == ["lab_0", "lab_1", *POOL]


def test_no_image_is_read_to_count_what_is_missing(taught_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run), POOL[:3])
    monkeypatch.setattr(image_fingerprints, "fingerprint_of_values", lambda path: pytest.fail(f"{path} was read"))
    assert missing_evidence(run, 1) == POOL[3:]
    replace_pool_image(taught_project, "pool_0", tmp_path / "repaired")
    assert missing_evidence(run, 1) == ["pool_0", *POOL[3:]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rescore"], "--num_parts gathers evidence and does no more; --rescore is for the command without it."),
        (["--stage", "1"], "--num_parts gathers evidence and does no more; --stage is for"),
        (["--accept", "x"], "--num_parts gathers evidence and does no more; --accept is for"),
    ],
)
def test_parts_do_nothing_else(taught_project: Project, capsys: Any, flags: list[str], message: str) -> None:
    assert message in call(capsys, *part(0), *flags, code=2)
    assert not list(taught_project.results.glob("*/*/*/nnssl"))


def test_run_that_another_process_has_begun_meanwhile(taught_project: Project) -> None:
    """Whoever finds no manifest waits for its turn, and then takes the one that is there."""
    found: list[Any] = []
    beginner = threading.Thread(target=lambda: found.append(open_tiny_run(taught_project)))
    elsewhere = open_tiny_run(taught_project)
    manifest, workspace = elsewhere.manifest, elsewhere.workspace
    (workspace / "manifest.json").unlink()
    with allotting():
        beginner.start()
        beginner.join(timeout=2)
        assert beginner.is_alive()
        assert not (workspace / "manifest.json").exists()
        manifest.dataset_ids = [701, 702]
        manifest.save(workspace)
    beginner.join(timeout=60)
    assert found[0].manifest.dataset_ids == [701, 702]


@pytest.mark.slow
def test_two_processes_at_once_leave_the_evidence_of_one(taught_project: Project) -> None:
    """One dies in its second sweep and is given again beside the other; a run of another fold begins at the same moment."""
    jobs = [{"command": "pseudolabel", "arguments": [*CALL, *part(i)]} for i in range(2)]
    fold_1 = {"command": "pseudolabel", "arguments": [*CALL, "-f", "1", *part(0, 6)]}
    codes, output = run_rounds([{**jobs[0], "point": "second sweep"}, jobs[1], fold_1], [*jobs, jobs[0]])
    assert codes == [[-9, 0, 0], [0, 0, 0]], output
    assert "missing in other parts: 0 cases" in output
    run = open_tiny_run(taught_project)
    in_parts = evidence(run)
    assert sorted(in_parts) == [f"teacher/{case}.b2nd" for case in POOL]
    ids = [open_tiny_run(taught_project, fold).manifest.dataset_ids for fold in (0, 1)]
    assert sorted(ids) == [[601, 602], [603, 604]]
    store, of_both = teacher_store(run), ("pool_2", "pool_3")  # one of each part, again by one process
    found = {case: store.read(case) for case in of_both}
    for case in of_both:
        store.path(case).unlink()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes: sums depend on it in their last digits
    try:
        gather.gather_teacher_evidence(run, CPU)
    finally:
        torch.set_num_threads(before)
    # how blosc2 divides an array into blocks can differ between processes; what it holds cannot
    for case in of_both:
        for name in ("mean", "variance", "votes"):
            assert np.array_equal(getattr(store.read(case), name), getattr(found[case], name)), (case, name)
