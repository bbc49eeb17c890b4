"""The freeze on a repository of its own: what a result depends on may not differ, the rest may."""

from __future__ import annotations

import subprocess
from pathlib import Path

import freeze
import pytest
from freeze import require_frozen

import nnunet_ssl


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "nnunet_ssl/__init__.py",
        "trainers/all.py",
        "plans/cpu.json",
        "docs/page.md",
        "tests/benchmarks/arms.py",
        "tests/benchmarks/trainers/planned.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as it was\n")
    monkeypatch.setattr(nnunet_ssl, "__file__", str(tmp_path / "nnunet_ssl" / "__init__.py"))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "freeze"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def head(repository: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True).stdout.strip()


def test_pages_may_change_after_the_freeze(repository: Path) -> None:
    (repository / "docs" / "page.md").write_text("new\n")
    require_frozen(head(repository), repository)


@pytest.mark.parametrize(
    "name", ["nnunet_ssl/__init__.py", "plans/cpu.json", "tests/benchmarks/arms.py", "tests/benchmarks/trainers/planned.py"]
)
def test_what_a_result_depends_on_may_not(repository: Path, name: str) -> None:
    (repository / name).write_text("new\n")
    with pytest.raises(SystemExit, match=f"not as in the frozen commit .*: {name}; check it out"):
        require_frozen(head(repository), repository)


def test_a_new_file_counts(repository: Path) -> None:
    (repository / "nnunet_ssl" / "more.py").write_text("new\n")
    with pytest.raises(SystemExit, match=r"nnunet_ssl/more.py"):
        require_frozen(head(repository), repository)


def test_a_name_that_may_move_is_refused(repository: Path) -> None:
    for name in ("HEAD", head(repository)[:12]):
        with pytest.raises(SystemExit, match=f"--frozen {name}: give the full hash of the commit"):
            require_frozen(name, repository)


def test_a_commit_of_another_branch_is_refused(repository: Path) -> None:
    before = head(repository)
    (repository / "docs" / "page.md").write_text("new\n")
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "later"], cwd=repository, check=True)
    later = head(repository)
    require_frozen(before, repository)
    subprocess.run(["git", "checkout", "-q", before], cwd=repository, check=True)
    with pytest.raises(SystemExit, match="is not among the commits that led to the one that is checked out"):
        require_frozen(later, repository)


def test_other_code_than_the_repositorys_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnunet_ssl, "__file__", "/somewhere/nnunet_ssl/__init__.py")
    with pytest.raises(SystemExit, match="runs /somewhere/nnunet_ssl, which is not the code"):
        require_frozen(head(repository), repository)


def test_an_unknown_commit_is_refused(repository: Path) -> None:
    with pytest.raises(SystemExit, match="git rev-parse failed"):
        require_frozen("0" * 40, repository)


def test_everything_that_is_frozen_exists() -> None:
    assert all((freeze.REPOSITORY / name).exists() for name in freeze.FROZEN)
