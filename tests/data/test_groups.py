"""Groups of cases: tables and folders they come from, where they are kept, and folds that hold out whole groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_setup import DATASET, LABELLED, POOL, Project, mtimes, write_teacher

from nnunet_ssl.data.group_folds import write_group_folds
from nnunet_ssl.data.groups import asked_groups, check_asked, describe_groups, groups_file, held_out_groups, keep_groups, kept_groups
from nnunet_ssl.data.pool_index import PoolIndex, load_pool
from nnunet_ssl.errors import InputError, StateError

OF_POOL = {case: "north" if i < 4 else "south" for i, case in enumerate(POOL)}
OF_LABELLED = {case: ("east", "north", "south")[i % 3] for i, case in enumerate(LABELLED)}


def table(path: Path, *lines: str, header: str = "case,group") -> str:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def lines_of(groups: dict[str, str]) -> list[str]:
    return [f"{case},{group}" for case, group in groups.items()]


def test_table_of_pool_and_labelled_cases(project: Project, tmp_path: Path) -> None:
    setup = project.setup()
    asked = table(tmp_path / "groups.csv", *lines_of({**OF_LABELLED, **OF_POOL}))
    assert asked_groups(asked, setup, load_pool(setup)) == {**OF_LABELLED, **OF_POOL}
    assert asked_groups("none", setup, load_pool(setup)) == {}


def test_table_as_spreadsheets_write_it(project: Project, tmp_path: Path) -> None:
    """A byte order mark, further columns, spaces, Windows line ends, empty lines, a case that was skipped."""
    text = "\ufeffage, group ,case\r\n" + "".join(f"60, Zürich-3T ,{case}\r\n" for case in POOL) + ",,\r\n\r\n7,x,gone\r\n"
    (tmp_path / "groups.csv").write_bytes(text.encode())
    setup = project.setup()
    pool = load_pool(setup)
    pool = PoolIndex(pool.folder, pool.images, {"gone": "bad"})
    assert asked_groups(str(tmp_path / "groups.csv"), setup, pool) == dict.fromkeys(POOL, "Zürich-3T")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"case,site\na,b\n", r"has no column 'group': its first line is 'case,site', and must name the columns: case,group\."),
        (b"case;group\na;b\n", r"has no column 'case'"),
        (b"case,group,group\na,b,c\n", r"has 2 columns 'group'"),
        (b"", r"has no column 'case': its first line is ''"),
        (b"case,group\n", r"lists no case"),
        (b"case,group\na,x\nb,\n", r"line 3: case 'b' has an empty group"),
        (b"case,group\na\n", r"line 2: case 'a' has an empty group"),
        (b"case,group\n ,x\n", r"line 2: the case is missing"),
        (b"case,group\na,x\nb,y\na,y\n", r"line 4: case 'a' stands there twice"),
        (b"case,group\na,Z\xfcrich\n", r"is not UTF-8 text \(byte 15\); save the table as UTF-8"),
        (b'case,group\na,"x\ny"\n', r"line 3: a name holds a line break"),
        (b'case,group\na,"x"y\n', r"line 2: cannot be read as CSV"),
    ],
)
def test_bad_table_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        check_asked(str(path))
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_table_that_is_not_there(tmp_path: Path) -> None:
    for asked in (str(tmp_path), str(tmp_path / "none.csv")):
        with pytest.raises(InputError, match="is not a file; --groups takes a CSV table"):
            check_asked(asked)
    for asked in (None, "folders", "none"):
        check_asked(asked)


def test_table_that_does_not_fit_the_pool(project: Project, tmp_path: Path) -> None:
    setup = project.setup()
    unknown = table(tmp_path / "unknown.csv", *lines_of(OF_POOL), "pool_0_0000,north", "x,y")
    with pytest.raises(InputError, match=r"'pool_0_0000' is neither a case of the pool nor a labelled case of Dataset137_Tiny \(2 such"):
        asked_groups(unknown, setup, load_pool(setup))
    missing = table(tmp_path / "missing.csv", *lines_of(OF_LABELLED), *lines_of(OF_POOL)[1:])
    with pytest.raises(InputError, match=r"has no group for pool case 'pool_0' \(1 of 6\); add a line for it"):
        asked_groups(missing, setup, load_pool(setup))


def test_folders_are_told_apart_by_as_much_of_the_path_as_it_takes(project: Project) -> None:
    setup = project.setup()

    def pool(*folders: str) -> PoolIndex:
        return PoolIndex(Path("x"), {f"c{i}": (f"{folder}/c{i}_0000.nii.gz",) for i, folder in enumerate(folders)})

    assert asked_groups("folders", setup, pool("/a/siemens", "/a/siemens", "/b/ge")) == {"c0": "siemens", "c1": "siemens", "c2": "ge"}
    assert asked_groups("folders", setup, pool("/a/images", "/b/images")) == {"c0": "a/images", "c1": "b/images"}
    with pytest.raises(InputError, match="all pool images lie in /a; give several folders to -u, or a table"):
        asked_groups("folders", setup, pool("/a", "/a"))


def test_groups_are_kept_beside_the_pool(project: Project) -> None:
    pool = load_pool(project.setup())
    assert kept_groups(pool.folder) == {}
    keep_groups(pool, OF_POOL)
    assert kept_groups(pool.folder) == OF_POOL
    assert groups_file(pool.folder).parent == pool.folder.parent
    before = groups_file(pool.folder).stat().st_mtime_ns
    keep_groups(pool, OF_POOL)
    assert groups_file(pool.folder).stat().st_mtime_ns == before
    keep_groups(pool, {})
    assert not groups_file(pool.folder).exists()
    keep_groups(pool, {})


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', '{"schema": 1, "groups": {"a": 1}}'])
def test_damaged_file_of_groups(project: Project, content: str) -> None:
    pool = load_pool(project.setup())
    groups_file(pool.folder).write_text(content)
    with pytest.raises(StateError, match=r"_groups\.json .*; give --groups to nnssl_prepare again"):
        kept_groups(pool.folder)
    keep_groups(pool, OF_POOL)  # what the message says works
    assert kept_groups(pool.folder) == OF_POOL


def test_groups_of_a_newer_version(project: Project) -> None:
    pool = load_pool(project.setup())
    groups_file(pool.folder).write_text('{"schema": 9, "groups": {}}')
    with pytest.raises(StateError, match=r"_groups\.json has schema 9, this version reads up to 1; update nnunet-ssl"):
        kept_groups(pool.folder)
    with pytest.raises(StateError, match=r"_groups\.json has schema 9"):
        keep_groups(pool, OF_POOL)


def test_groups_that_a_fold_holds_out() -> None:
    groups = {"a": "north", "b": "north", "c": "south", "d": "south", "p": "west"}
    assert held_out_groups(["c", "d"], ["a", "b"], groups) == ["north"]
    assert held_out_groups(["b", "c", "d"], ["a"], groups) == []
    assert held_out_groups(["x"], ["a", "c", "y"], groups) == ["north", "south"]
    assert describe_groups(groups, ["a", "b", "c", "x"]) == "north 2, south 1"


# ---- folds of whole groups


def splits_file(project: Project) -> Path:
    return project.preprocessed / DATASET / "splits_final.json"


def test_folds_of_whole_groups(project: Project) -> None:
    splits_file(project).unlink()
    setup = project.setup()
    folds = write_group_folds(setup, OF_LABELLED)
    assert list(folds) == ["east", "north", "south"]
    assert json.loads(splits_file(project).read_text()) == list(folds.values())
    assert [setup.fold_cases(k)[1] for k in range(3)] == [["lab_0", "lab_3"], ["lab_1", "lab_4"], ["lab_2", "lab_5"]]
    for fold in folds.values():
        assert sorted(fold["train"] + fold["val"]) == LABELLED
    before = mtimes(project.preprocessed)
    assert write_group_folds(setup, OF_LABELLED) == folds
    assert mtimes(project.preprocessed) == before


def test_folds_that_are_there_are_never_changed(project: Project) -> None:
    before = splits_file(project).read_bytes()
    with pytest.raises(StateError, match=r"splits_final\.json holds other folds and is never overwritten; hold groups out in a copy"):
        write_group_folds(project.setup(), OF_LABELLED)
    assert splits_file(project).read_bytes() == before
    # nnU-Net would copy this one when it plans
    splits_file(project).rename(project.raw / DATASET / "splits_final.json")
    with pytest.raises(StateError, match="holds other folds"):
        write_group_folds(project.setup(), OF_LABELLED)
    assert not splits_file(project).exists()


def test_models_of_other_folds_are_not_taken_for_models_of_groups(project: Project) -> None:
    splits_file(project).unlink()
    write_teacher(fold=1)  # nnU-Net writes folds of its own
    splits_file(project).unlink(missing_ok=True)
    with pytest.raises(StateError, match=r"fold_1/checkpoint_final\.pth was trained on other folds .* may have seen what they hold out"):
        write_group_folds(project.setup(), OF_LABELLED)
    assert not splits_file(project).exists()


def test_labelled_cases_that_cannot_be_held_out(project: Project) -> None:
    with pytest.raises(InputError, match=r"labelled case 'lab_0' has no group \(1 of 6\)"):
        write_group_folds(project.setup(), {case: group for case, group in OF_LABELLED.items() if case != "lab_0"})
    with pytest.raises(InputError, match="all labelled cases are of group 'x'"):
        write_group_folds(project.setup(), dict.fromkeys(LABELLED, "x"))
