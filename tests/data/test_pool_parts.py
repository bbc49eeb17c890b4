"""A pool that several processes prepare, one part each."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import blosc2
import pytest
from several_processes import run_rounds
from tiny_setup import DATASET, PLANS, POOL, Project, mtimes, phantom, write_image

from nnunet_ssl.cli.prepare import main
from nnunet_ssl.data import pool as pool_module
from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.data.pool import prepare_part
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.data.pool_progress import PoolProgress
from nnunet_ssl.errors import InputError, SetupError
from nnunet_ssl.machines.part import Part


def call(project: Project) -> list[str]:
    return ["-d", "137", "-c", "3d_fullres", "-p", PLANS, "-u", str(project.unlabelled), "-np", "1"]


def part(part_id: int, num_parts: int = 2) -> list[str]:
    return ["--num_parts", str(num_parts), "--part_id", str(part_id)]


def prepare(project: Project, part_id: int, **options: Any) -> Any:
    options = {"skip_bad": False, "num_processes": 1, **options}
    return prepare_part(project.setup(), [project.unlabelled], Part(num_parts=2, part_id=part_id), **options)


def pool_files(project: Project) -> list[Path]:
    return sorted(f for f in (project.preprocessed / DATASET).glob("*__pool_*/**/*") if f.is_file())


def contents(project: Project) -> dict[str, str]:
    """What every file of the pool holds, by name; the blocks of an image are compressed by threads, and stand in any order."""
    found = {}
    for path in (project.preprocessed / DATASET).glob("*__pool_*/*.*"):
        if path.suffix != ".json":
            content = blosc2.open(str(path), mode="r")[:].tobytes() if path.suffix == ".b2nd" else path.read_bytes()
            found[path.name] = hashlib.sha256(content).hexdigest()
    return found


def progress(project: Project) -> Path:
    return next((project.preprocessed / DATASET).glob("*__pool_*.progress"))


def test_parts_do_their_share_and_the_command_the_rest(fresh_project: Project, project: Project, capsys: Any) -> None:
    assert main([*call(fresh_project), *part(1, 3)]) == 0
    out = capsys.readouterr().out
    assert "part 1 of 3: 2 of 6 unlabelled cases are ready in " in out
    assert ", 2 of them new\n" in out
    assert out.endswith("next, when every part is done: the same command without --num_parts and --part_id\n")
    assert {f.name.partition(".")[0].removesuffix("_seg") for f in pool_files(fresh_project)} == {"pool_1", "pool_4"}
    with pytest.raises(SetupError, match="no pool is prepared"):
        load_pool(fresh_project.setup())
    before = mtimes(*progress(fresh_project).parent.glob("*__pool_*"))
    assert main([*call(fresh_project), *part(1, 3)]) == 0  # given again: nothing is left to do
    assert ", 0 of them new\n" in capsys.readouterr().out
    assert mtimes(*progress(fresh_project).parent.glob("*__pool_*")) == before
    assert main(call(fresh_project)) == 0  # part 1 has run, the others have not
    assert "(4 new)" in capsys.readouterr().out
    assert load_pool(fresh_project.setup()).case_ids == POOL
    assert not list((fresh_project.preprocessed / DATASET).glob("*.progress"))


def test_parts_of_an_existing_pool(project: Project, tmp_path: Path) -> None:
    """New images are added in parts; the index stays as it is until the command without parts has run."""
    shutil.copytree(project.unlabelled, tmp_path / "more")
    added = Project(project.raw, project.preprocessed, project.results, tmp_path / "more")
    added.prepare_pool()
    write_image(phantom("pool_6")[0], tmp_path / "more" / "pool_6_0000.nii.gz")
    assert prepare(added, 1).new == []
    assert prepare(added, 0).new == ["pool_6"]
    assert load_pool(added.setup()).case_ids == POOL
    assert added.prepare_pool().case_ids == [*POOL, "pool_6"]


def test_bad_case_of_a_part(fresh_project: Project) -> None:
    (fresh_project.unlabelled / "pool_2_0000.nii.gz").write_bytes(b"no image")
    assert prepare(fresh_project, 1).ready == ["pool_1", "pool_3", "pool_5"]
    with pytest.raises(InputError, match=r"case 'pool_2': .*--skip-bad"):
        prepare(fresh_project, 0)
    done = prepare(fresh_project, 0, skip_bad=True)
    assert (done.ready, done.num_cases) == (["pool_0", "pool_4"], 6)
    pool = fresh_project.prepare_pool(skip_bad=True)
    assert (pool.case_ids, list(pool.skipped)) == (["pool_0", "pool_1", "pool_3", "pool_4", "pool_5"], ["pool_2"])


def test_parts_need_the_images(project: Project, capsys: Any) -> None:
    assert main(["-d", "137", "-c", "3d_fullres", "--preset", "cpu", *part(0)]) == 2
    assert "--num_parts shares out the unlabelled images: give their folder with -u." in capsys.readouterr().err
    assert not (project.preprocessed / DATASET / "nnUNetPlans_nnssl_cpu.json").exists()


def test_record_of_another_process_is_kept(tmp_path: Path) -> None:
    ours, theirs = PoolProgress(tmp_path / "p"), PoolProgress(tmp_path / "p")
    ours.forget(["a"])  # nothing was ever done
    ours.add("a", [[1, 2]])
    known = ours.stamps()
    theirs.add("b.c", [[3, 4]])
    (tmp_path / "p" / "d.json").write_text("{")  # damaged
    ours.forget(known)
    assert theirs.stamps() == {"b.c": [[3, 4]]}
    (tmp_path / "p" / "d.json").unlink()
    theirs.forget(["b.c"])
    assert not (tmp_path / "p").exists()


def test_folder_that_another_process_removes_at_that_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_ssl.data import pool_progress

    write, calls = pool_progress.write_json, []

    def write_late(path: Path, content: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(path)
        write(path, content)

    monkeypatch.setattr(pool_progress, "write_json", write_late)
    PoolProgress(tmp_path / "p").add("a", [[1, 2]])
    assert PoolProgress(tmp_path / "p").stamps() == {"a": [[1, 2]]}


@pytest.mark.slow
def test_two_processes_at_once_leave_what_one_leaves(fresh_project: Project, built_project: Project) -> None:
    """One of them dies at its second case and is given again beside the other, which is given twice."""
    serial = contents(built_project)
    jobs = [{"command": "prepare", "arguments": [*call(fresh_project), *part(i)]} for i in range(2)]
    codes, output = run_rounds([{**jobs[0], "point": "second pool case"}, jobs[1]], [jobs[0], jobs[1], jobs[1]])
    assert codes == [[-9, 0], [0, 0, 0]], output
    assert "2 of them new" in output
    assert contents(fresh_project) == serial
    assert fresh_project.prepare_pool().case_ids == POOL
    assert contents(fresh_project) == serial
    assert not [f for f in fresh_project.preprocessed.rglob("*") if f.name.startswith(TEMPORARY_PREFIX)]
    assert pool_module.pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
