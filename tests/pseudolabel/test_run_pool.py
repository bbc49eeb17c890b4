"""The cases of a run that has begun, when images come to the pool or leave it, and when somebody prepares another pool in its place."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from given_labels import probabilities_of, write_predictions
from tiny_setup import (
    LABELLED,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    grow_stage,
    mtimes,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_image,
    write_student,
)

from nnunet_ssl.cli import pseudolabel
from nnunet_ssl.cli import run as run_command
from nnunet_ssl.data.groups import keep_groups, kept_groups
from nnunet_ssl.data.pool import prepare_pool
from nnunet_ssl.data.pool_index import PoolIndex, load_pool
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.pseudolabel import start_run
from nnunet_ssl.pseudolabel.control_run import begin_control
from nnunet_ssl.pseudolabel.gather_part import missing_evidence
from nnunet_ssl.pseudolabel.run_spec import RunSpec

SOUTH = [*POOL[4:], "pool_6"]
GROUPS = {**{case: "south" if case == "lab_0" else "west" for case in LABELLED}, **dict.fromkeys(POOL[:4], "north")}
GROUPS |= dict.fromkeys(SOUTH, "south")
BEFORE = {case: group for case, group in GROUPS.items() if case != "pool_6"}


def prepare(project: Project, *folders: Path) -> PoolIndex:
    return prepare_pool(project.setup(), folders, skip_bad=False, num_processes=1)


@pytest.fixture
def more(taught_project: Project, tmp_path: Path) -> Path:
    """A folder with an image that is not in the pool yet."""
    write_image(phantom("pool_6")[0], tmp_path / "more" / "pool_6_0000.nii.gz")
    return tmp_path / "more"


def begin(project: Project, **options: Any) -> Any:
    """A run with evidence of the teacher."""
    run = open_tiny_run(project, **options)
    write_evidence(teacher_store(run), run.manifest.pool)
    return run


def table(path: Path, groups: dict[str, str]) -> str:
    path.write_text("case,group\n" + "".join(f"{case},{group}\n" for case, group in groups.items()))
    return str(path)


# ---- images that come


def test_later_cases_are_no_part_of_a_run(taught_project: Project, more: Path, caplog: pytest.LogCaptureFixture) -> None:
    begin(taught_project)
    prepare(taught_project, taught_project.unlabelled, more)
    with caplog.at_level(logging.INFO, "nnunet_ssl"):
        run = open_tiny_run(taught_project)
        assert open_tiny_run(taught_project).pool == run.pool
    assert [m for m in caplog.messages if "later" in m] == [f"1 pool cases came later and are no part of this run ({run.workspace})"]
    assert run.pool.case_ids == run.manifest.pool == run.pseudo_cases == POOL
    assert missing_evidence(run, 1) == []
    assert len(grow_stage(run, rescore=True).cases) == 3  # half of six
    sidecar = read_sidecar(taught_project.raw / run.stage_name(1))
    assert sidecar is not None
    assert set(sidecar["pool_cases"]) <= set(POOL)
    # a run that begins now has them all
    assert open_tiny_run(taught_project, 1).manifest.pool == [*POOL, "pool_6"]


def test_control_has_the_cases_of_its_run(taught_project: Project, more: Path) -> None:
    run = begin(taught_project, settings={"curriculum.fractions": [1.0]})
    grow_stage(run)
    write_student(run, 1)
    prepare(taught_project, taught_project.unlabelled, more)
    setup = begin_control(open_tiny_run(taught_project), "supervised")
    assert start_run.open_run(RunSpec(setup=setup, fold=0, teacher_trainer=OUR_TEACHER)).pool.case_ids == POOL


def test_later_case_that_is_labelled_is_not_the_runs_affair(taught_project: Project, more: Path) -> None:
    begin(taught_project)
    prepare(taught_project, taught_project.unlabelled, more)
    raw = next(taught_project.raw.glob("Dataset137*"))
    shutil.copy(more / "pool_6_0000.nii.gz", raw / "imagesTr")
    write_image(phantom("pool_6")[1], raw / "labelsTr" / "pool_6.nii.gz")
    for path in (raw / "dataset.json", taught_project.preprocessed / raw.name / "dataset.json"):
        path.write_text(path.read_text().replace('"numTraining": 6', '"numTraining": 7'))
    assert open_tiny_run(taught_project).pool.case_ids == POOL
    with pytest.raises(InputError, match=r"case 'pool_6' is in the pool .* and a labelled case"):
        open_tiny_run(taught_project, 1)


def test_predictions_of_later_cases_are_left_alone(project: Project, more: Path, tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "ensemble")
    first = open_tiny_run(project, predictions=[folder])
    prepare(project, project.unlabelled, more)
    write_predictions(folder, {"pool_6": probabilities_of(phantom("pool_6")[1], doubt=0.1)})
    run = open_tiny_run(project, predictions=[folder])
    assert run.manifest == first.manifest
    grow_stage(run)
    assert not teacher_store(run).has("pool_6")
    write_predictions(folder, {"pool_7": probabilities_of(phantom("pool_7")[1], doubt=0.1)})
    with pytest.raises(InputError, match=r"pool_7\.npz belongs to no case of the pool"):
        open_tiny_run(project, predictions=[folder])


# ---- images that go


def test_missing_cases_name_what_to_do(taught_project: Project, tmp_path: Path) -> None:
    shutil.copytree(taught_project.unlabelled, tmp_path / "images")
    run = begin(taught_project)
    for case in ("pool_4", "pool_5"):
        (tmp_path / "images" / f"{case}_0000.nii.gz").unlink()
    prepare(taught_project, tmp_path / "images")
    with pytest.raises(StateError) as raised:
        open_tiny_run(taught_project)
    assert str(raised.value) == (
        f"the run in {run.workspace} has the pool case 'pool_4', which the prepared pool lacks (2 of 6); prepare the pool again with every "
        f"folder that images of your runs lie in (nnssl_prepare -d 137 -c 3d_fullres -p {PLANS} -u FOLDER FOLDER2), or, to start over "
        f"without them, remove {run.workspace}/manifest.json."
    )
    (run.workspace / "manifest.json").unlink()
    again = open_tiny_run(taught_project)
    assert again.manifest.pool == POOL[:4]
    assert missing_evidence(again, 1) == []  # what the message advises keeps the evidence


def test_two_runs_of_different_folders(taught_project: Project, more: Path) -> None:
    """Each blocks the other until the pool has both folders, and then nothing is preprocessed again."""
    begin(taught_project)
    other = prepare(taught_project, more)
    open_tiny_run(taught_project, 1)
    with pytest.raises(StateError, match=r"has the pool case 'pool_0', which the prepared pool lacks \(6 of 6\)"):
        open_tiny_run(taught_project)
    before = mtimes(other.folder)
    prepare(taught_project, taught_project.unlabelled, more)
    assert mtimes(other.folder) == before
    run = open_tiny_run(taught_project)
    assert (run.pool.case_ids, open_tiny_run(taught_project, 1).pool.case_ids) == (POOL, ["pool_6"])
    assert missing_evidence(run, 1) == []


def test_run_that_another_process_begins_with_other_cases(taught_project: Project, more: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = start_run._begin

    def begin_late(*arguments: Any) -> Any:
        monkeypatch.setattr(start_run, "_begin", real)
        prepare(taught_project, taught_project.unlabelled, more)
        open_tiny_run(taught_project)
        return real(*arguments)

    monkeypatch.setattr(start_run, "_begin", begin_late)
    with pytest.raises(
        StateError, match=r"another process has begun the run in .* with other pool cases in the meantime; give the command"
    ):
        open_tiny_run(taught_project)
    assert open_tiny_run(taught_project).manifest.pool == [*POOL, "pool_6"]


# ---- groups


@pytest.fixture
def grouped(taught_project: Project) -> Project:
    keep_groups(load_pool(taught_project.setup()), BEFORE)
    return taught_project


@pytest.mark.parametrize("is_written", [False, True])
def test_groups_of_later_cases(grouped: Project, more: Path, tmp_path: Path, is_written: bool) -> None:
    """A table may name them or not; what is kept of them for other runs stays."""
    run = begin(grouped, leave_group_out=True)
    assert run.manifest.pool == POOL[:4]
    if is_written:
        grow_stage(run)
    whole = prepare(grouped, grouped.unlabelled, more)
    for groups in (BEFORE, GROUPS):
        run = open_tiny_run(grouped, groups=table(tmp_path / "groups.csv", groups))
        assert (run.manifest.pool, run.manifest.groups, run.pool.case_ids) == (POOL[:4], BEFORE, POOL[:4])
    assert open_tiny_run(grouped).manifest.groups == BEFORE
    with pytest.raises(InputError, match=r"_groups\.json has no group for pool case 'pool_6'"):
        open_tiny_run(grouped, 1)
    keep_groups(whole, GROUPS)
    assert open_tiny_run(grouped).manifest.groups == BEFORE
    keep_groups(run.pool, run.manifest.groups)
    assert kept_groups(whole.folder) == GROUPS


def test_commands_with_groups_go_on(grouped: Project, more: Path, tmp_path: Path, capsys: Any) -> None:
    begin(grouped)
    prepare(grouped, grouped.unlabelled, more)
    call = ["-d", "137", "-c", "3d_fullres", "-f", "0", "-p", PLANS, "--groups", table(tmp_path / "groups.csv", BEFORE)]
    assert run_command.main([*call, "--status"]) == 0
    assert "[done] groups" in capsys.readouterr().out
    assert pseudolabel.main([*call, "-device", "cpu", "--rescore"]) == 0
    assert kept_groups(load_pool(grouped.setup()).folder) == BEFORE


def test_case_of_a_run_that_gets_a_group_which_is_left_out(grouped: Project, tmp_path: Path) -> None:
    run = open_tiny_run(grouped, leave_group_out=True)
    other = table(tmp_path / "groups.csv", {**BEFORE, "pool_1": "south", "pool_5": "north"})
    wanted = (
        rf"the run in {run.workspace} leaves out the group 'south', and its pool case 'pool_1' is of that group by now \(1 such cases\)"
    )
    with pytest.raises(StateError, match=wanted):
        open_tiny_run(grouped, groups=other)
    later = table(tmp_path / "groups.csv", {**BEFORE, "pool_5": "north"})
    assert open_tiny_run(grouped, groups=later).pool.case_ids == POOL[:4]
