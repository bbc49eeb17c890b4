"""Files are written whole or not at all, and links fall back to what the file system has."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.data.files import (
    TEMPORARY_PREFIX,
    cell_text,
    copy_file,
    link,
    mark_in_use,
    remove_folder,
    remove_leftovers,
    replacing,
    temporary_folder,
    this_host,
    write_csv,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


def test_replacing_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "b.txt") as temporary:
        assert temporary.parent == tmp_path / "a"
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        temporary.write_text("new")
        assert not (tmp_path / "a" / "b.txt").exists()
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    assert names(tmp_path / "a") == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "b.txt").write_text("old")

    def write_half() -> None:
        with replacing(tmp_path / "b.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert (tmp_path / "b.txt").read_text() == "old"
    assert names(tmp_path) == ["b.txt"]


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "b.txt"):
        pass
    assert (tmp_path / "b.txt").read_text() == "old"


def test_file_is_not_written_through_a_hard_link(tmp_path: Path) -> None:
    """A linked file belongs to somebody else."""
    (tmp_path / "theirs.json").write_text("1")
    link(tmp_path / "theirs.json", tmp_path / "ours.json")
    write_json(tmp_path / "ours.json", 2)
    assert (tmp_path / "theirs.json").read_text() == "1"


def test_temporary_folder_is_removed_whatever_happens(tmp_path: Path) -> None:
    def use() -> None:
        with temporary_folder(tmp_path / "parent") as folder:
            (folder / "x").mkdir()
            (folder / "x" / "y.txt").touch()
            assert folder.name.startswith(TEMPORARY_PREFIX)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert names(tmp_path / "parent") == []


def test_temporary_names_are_no_datasets() -> None:
    assert not TEMPORARY_PREFIX.startswith("Dataset")
    assert TEMPORARY_PREFIX.startswith(".")


def test_folder_is_never_removed_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Dataset601_X"
    (folder / "labelsTr").mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(TEMPORARY_PREFIX)
    monkeypatch.undo()
    leftover.rename(tmp_path / f"{TEMPORARY_PREFIX}{this_host()}_99999999_x")  # of a process that has ended
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_leftovers_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY_PREFIX}12_a.json").touch()
    (tmp_path / f"{TEMPORARY_PREFIX}xyz" / "deep").mkdir(parents=True)
    (tmp_path / "Dataset601_a").mkdir()
    (tmp_path / "kept.json").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["Dataset601_a", "kept.json"]
    remove_leftovers(tmp_path / "nowhere")


def test_what_a_running_process_works_on_is_no_leftover(tmp_path: Path) -> None:
    """Runs on two datasets share nnU-Net's folders."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = this_host()
    running = [f"{host}_{os.getppid()}_x", f"{host}_{os.getpid()}_a_b.json", "elsewhere_12_x"]
    abandoned = [f"{host}_{ended.pid}_x", f"{host}_x_y", "12_a.json", "elsewhere_12_old"]
    for name in running + abandoned:
        (tmp_path / f"{TEMPORARY_PREFIX}{name}").touch()
    os.utime(tmp_path / f"{TEMPORARY_PREFIX}elsewhere_12_old", (0, 0))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(f"{TEMPORARY_PREFIX}{name}" for name in running)


def test_what_another_host_marks_as_in_use_is_no_leftover(tmp_path: Path) -> None:
    folder = tmp_path / f"{TEMPORARY_PREFIX}elsewhere_12_x"
    (folder / "stage").mkdir(parents=True)
    os.utime(folder, (0, 0))
    (folder / "stage" / "new.json").touch()
    mark_in_use(folder)
    remove_leftovers(tmp_path)
    assert names(folder / "stage") == ["new.json"]


def test_own_temporary_things_carry_host_and_process(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder, replacing(tmp_path / "a.json") as temporary:
        (folder / "x").touch()
        temporary.touch()
        remove_leftovers(tmp_path)
        assert names(tmp_path) == sorted([folder.name, temporary.name])
        for path in (folder, temporary):
            assert path.name.startswith(f"{TEMPORARY_PREFIX}{this_host()}_{os.getpid()}_")


def test_json_keeps_its_order_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [None, 0.5]})
    text = (tmp_path / "a.json").read_text()
    assert list(json.loads(text)) == ["b", "a"]
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("x", "y"), [{"x": 1, "y": None, "ignored": 3}, {"y": 'a "b", c'}])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n1,\n,"a ""b"", c"\n'


# ---- links


def refuse(*_: Any, **__: Any) -> None:
    raise OSError("not here")


def test_hard_link_first(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino
    assert not (tmp_path / "b").is_symlink()


def test_symbolic_link_across_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("content")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    link(Path("a"), tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").is_symlink()
    assert (tmp_path / "deep" / "b").read_text() == "content"


def test_symbolic_link_names_where_the_file_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "a").write_text("content")
    link(tmp_path / "unfinished" / "a", tmp_path / "b", lasting=tmp_path / "done" / "a")
    (tmp_path / "unfinished").rename(tmp_path / "done")
    assert (tmp_path / "b").read_text() == "content"


def test_copy_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    (tmp_path / "a").write_text("content")
    link(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").is_symlink()
    assert (tmp_path / "b").read_text() == "content"
    assert (tmp_path / "a").stat().st_ino != (tmp_path / "b").stat().st_ino


def test_copy_takes_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    link(tmp_path / "a", tmp_path / "b")
    copy_file(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").write_text("other")
    assert (tmp_path / "a").read_text() == "content"


def test_link_of_a_link_is_one_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "alias").symlink_to(tmp_path / "a")
    link(tmp_path / "alias", tmp_path / "b")
    (tmp_path / "alias").unlink()
    assert (tmp_path / "b").read_text() == "content"
    assert not (tmp_path / "b").is_symlink()


def test_existing_destination_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "old"


def test_missing_source_is_an_error_and_no_dangling_link(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        link(tmp_path / "gone", tmp_path / "b")
    assert names(tmp_path) == []


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    texts = ['=HYPERLINK("http://x")', "+1+1", "-1+1", "@SUM(A1)", "\t=1", "'=1", "plain", "a=b"]
    numbers = ["-0.500000", "+1", -2, -0.5]
    write_csv(tmp_path / "a.csv", ["text", "number"], [{"text": t, "number": n} for t, n in zip_longest(texts, numbers)])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not [row for row in rows if row["text"][0] in "=+-@\t\r"]
    assert [cell_text(row["text"]) for row in rows] == texts
    assert [row["number"] for row in rows] == [*map(str, numbers), "", "", "", ""]
    assert rows[-2]["text"] == "plain"


def test_containers_with_one_host_name_are_two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one cannot see the other's processes by their numbers."""
    names = []
    for namespace in ("pid:[4026531836]", "pid:[4026532001]"):
        monkeypatch.setattr(os, "readlink", lambda path, found=namespace: found)
        names.append(this_host())
    assert names[0] != names[1]
    monkeypatch.setattr(os, "readlink", lambda path: (_ for _ in ()).throw(FileNotFoundError))
    assert this_host() not in names
