"""Every row of the table of bad inputs: one line that names the file, exit code 2, and nothing left behind."""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input import BadInput, command_line
from bad_input_table import ROWS
from tiny_setup import Project, environment, folders, open_tiny_run, phantom, teacher_store, write_evidence, write_image

PROGRESS = re.compile(r"[\w ,-]+: +\d+%\|.*\]")
"""A bar of tqdm."""


@pytest.fixture(scope="module")
def begun(built_project: Project, built_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """The set-up with a run that has evidence and no stage yet, which tests break and mend, and a copy to mend it from."""
    found = folders(tmp_path_factory.mktemp("begun") / "project")
    for source, target in (
        (built_project.raw, found.raw),
        (built_project.preprocessed, found.preprocessed),
        (built_teacher, found.results),
        (built_project.unlabelled, found.unlabelled),
    ):
        shutil.copytree(source, target, dirs_exist_ok=True)
    with environment(found):
        found.prepare_pool()
        write_evidence(teacher_store(open_tiny_run(found)))
    root = found.raw.parent
    write_image(phantom("new_0")[0], root / "new" / "new_0_0000.nii.gz")
    return found, Path(shutil.copytree(root, root.with_name("sound")))


@pytest.fixture
def broken(begun: tuple[Project, Path], quiet_machine: None) -> Iterator[Project]:
    """The set-up, to be broken; it is mended afterwards."""
    project, sound = begun
    with environment(project):
        yield project
    mend(project.raw.parent, sound)


FINISHED = re.compile(r".*/evidence/held_out_f0(/lab_0\.b2nd)?|.*__nnssl_fingerprints(/lab_0\.json)?")
"""Whole evidence of a case, with which the same command continues, and the fingerprint of its image."""


def everything_in(root: Path) -> dict[str, tuple[object, ...]]:
    """What lies below a folder: links with their targets, folders, and files with what changes when they are written."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            if os.path.islink(path):
                found[os.path.relpath(path, root)] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[os.path.relpath(path, root)] = ("folder",)
            else:
                found[os.path.relpath(path, root)] = ("file", state.st_size, state.st_mtime_ns)
    return found


def mend(root: Path, sound: Path) -> None:
    """Make a folder equal to another; both have times to the nanosecond, so that only what differs is copied."""
    now, wanted = everything_in(root), everything_in(sound)
    for name in sorted(set(now) - {n for n in now if wanted.get(n) == now[n]}):
        path = root / name
        if os.path.lexists(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in sorted(wanted):
        if not os.path.lexists(root / name):
            (root / name).mkdir() if wanted[name] == ("folder",) else shutil.copy2(sound / name, root / name)


def run_row(bad: BadInput, project: Project, *more: str) -> int:
    main = importlib.import_module(f"nnunet_ssl.cli.{bad.command.removeprefix('nnssl_')}").main
    return int(main([*command_line(bad, project), *more]))


def messages(err: str) -> list[str]:
    """Lines on stderr without bars of progress."""
    return [line for line in re.split(r"[\r\n]+", err) if line.strip() and not PROGRESS.fullmatch(line)]


def matches(words: str, text: str) -> bool:
    """Whether a text has words in which `<...>` stands for anything."""
    return re.search(".+?".join(map(re.escape, re.split(r"<[a-z ]+>", words))), text) is not None


@pytest.mark.parametrize("bad", ROWS, ids=lambda bad: bad.what)
def test_one_line_that_names_the_file(bad: BadInput, broken: Project, capfd: pytest.CaptureFixture[str]) -> None:
    name, root = str(bad.make(broken)), broken.raw.parent
    before = everything_in(root)
    assert run_row(bad, broken) == 2
    lines = messages(capfd.readouterr().err)
    (error,) = [line for line in lines if not line.startswith(f"{bad.command}: warning: ")]
    assert error.startswith(f"{bad.command}: error: ")
    assert name in error
    assert matches(bad.says, error), error
    after = everything_in(root)
    assert {path: state for path, state in after.items() if path in before or not FINISHED.fullmatch(path)} == before


@pytest.mark.parametrize("bad", [bad for bad in ROWS if bad.is_skipped], ids=lambda bad: bad.what)
def test_skipped_cases_are_listed_by_reason(bad: BadInput, broken: Project, capfd: pytest.CaptureFixture[str]) -> None:
    name = str(bad.make(broken))
    code = run_row(bad, broken, "--skip-bad")
    out, err = capfd.readouterr()
    if code == 2:  # the only case of the pool was bad
        ending = Path(name).name.partition("_000")[2][1:]
        assert [path.name for path in broken.unlabelled.iterdir() if path.name.endswith(f"_0000{ending}")] in ([], [f"pool_3_0000{ending}"])
        assert "no usable case is left" in messages(err)[-1]
        return
    assert code == 0
    (skipped,) = [line for line in out.splitlines() if line.startswith("skipped ")]
    assert name in skipped
    assert matches(bad.says, skipped), skipped
    assert messages(err) == []
    assert not list(broken.raw.parent.rglob(".nnssl_tmp_*[0-9]_*"))


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len({bad.what for bad in ROWS}) == len(ROWS) >= 40
    assert all(bad.says for bad in ROWS)
