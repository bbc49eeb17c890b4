"""A disk that is full, in every kind of step: one line, nothing half-written, and the same command continues once there is room."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blosc2
import pytest
import torch
from small_disk import SmallDisk, small_disk
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    OUR_TEACHER,
    PLANS,
    Project,
    environment,
    folders,
    grow_stage,
    open_tiny_run,
    teacher_store,
    write_evidence,
)

from nnunet_ssl.cli.prepare import main as prepare
from nnunet_ssl.cli.pseudolabel import main as pseudolabel
from nnunet_ssl.cli.report import main as report
from nnunet_ssl.data.files import TEMPORARY_PREFIX

ROOM = 64_000_000
CALL = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS]
GROW = [*CALL, "-f", "0", "-device", "cpu", "--num-samples", "2"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("small") / "disk", ROOM) as found:
        yield found


@pytest.fixture
def full_project(
    disk: SmallDisk, built_project: Project, built_teacher: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The set-up with pool and teacher, all of it on the small disk; what is free is not looked at before a step."""
    monkeypatch.setattr("nnunet_ssl.disk.free_bytes", lambda path: 10**15)
    disk.leave(ROOM)
    root = disk.root / "project"
    found = folders(root)
    project = Project(found.raw, found.preprocessed, found.results, built_project.unlabelled)
    for source, target in (
        (built_project.raw, found.raw),
        (built_project.preprocessed, found.preprocessed),
        (built_teacher, found.results),
    ):
        shutil.copytree(source, target, dirs_exist_ok=True)
    with environment(project):
        yield project
    shutil.rmtree(root)


def written(project: Project, before: dict[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of every file below nnU-Net's folders, or of those that are not in an earlier result."""
    root = project.raw.parent
    found = {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(root.rglob("*")) if f.is_file()}
    return found if before is None else {name: value for name, value in found.items() if name not in before}


def written_values(project: Project) -> dict[str, str]:
    """As `written`, with the values of arrays in place of their bytes: nnU-Net compresses with four threads, whose order differs."""
    found, root = written(project), project.raw.parent
    for name in found:
        if name.endswith(".b2nd"):
            found[name] = hashlib.sha256(blosc2.open(str(root / name), mode="r")[:].tobytes()).hexdigest()
    return found


def fails_for_lack_of_space(command: Callable[[list[str]], int], arguments: list[str], capsys: Any, project: Project) -> bool:
    """Whether the command stopped, which it must do in one line; False if it ended well."""
    capsys.readouterr()
    code = command(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert not list(project.raw.parent.rglob(f"{TEMPORARY_PREFIX}*"))
    if code == 0:
        return False
    assert code == 2
    (line,) = lines
    assert "no space is left on the file system" in line
    assert line.endswith("give the same command again: it continues.")
    return True


def steps_of_room(disk: SmallDisk, most: int, count: int) -> Iterator[int]:
    """Leave more and more room, from none at all."""
    for number in range(count):
        disk.leave(most * number // count)
        yield number
    disk.leave(ROOM)


def test_pool(full_project: Project, disk: SmallDisk, capsys: Any) -> None:
    arguments = [*CALL, "-u", str(full_project.unlabelled), "-np", "1"]
    index = next((full_project.preprocessed / DATASET).glob("*__pool_*.json"))
    pool = index.with_suffix("")
    undisturbed = written_values(full_project)
    shutil.rmtree(pool)
    index.unlink()
    # a full disk is no bad case: it is not left out
    for flags in ([], ["--skip-bad"]):
        disk.leave(60_000)
        assert fails_for_lack_of_space(prepare, [*arguments, *flags], capsys, full_project)
        assert not index.exists()
    whole = {f.name.split(".")[0].removesuffix("_seg") for f in pool.glob("*.pkl")}
    assert {f.name.split(".")[0].removesuffix("_seg") for f in pool.iterdir()} == whole  # no case is there in part
    disk.leave(ROOM)
    assert prepare(arguments) == 0
    assert written_values(full_project) == undisturbed


def test_too_little_room_for_the_pool_is_known_before(
    full_project: Project, disk: SmallDisk, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ssl.disk.free_bytes", lambda path: disk.free)
    for found in (full_project.preprocessed / DATASET).glob("*__pool_*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    before = written(full_project)
    disk.leave(100_000)
    arguments = [*CALL, "-u", str(full_project.unlabelled), "-np", "1"]
    assert prepare(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "the pool (6 cases to be preprocessed) needs about 0.2 MB in " in line
    assert f", and 0.1 MB are free on its file system {disk.root}; make space there" in line
    assert written(full_project) == before
    assert not list(full_project.preprocessed.glob("*/*__pool_*"))
    disk.leave(ROOM)
    assert prepare(arguments) == 0


def simulated_sweep(predictor: Any, image: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Moments and votes of one sample, as quick as they can be had."""
    random = torch.rand(predictor.heads, *image.shape[1:], generator=torch.Generator().manual_seed(seed))
    p = random / random.sum(0)
    return torch.cat([p, p.square(), p])


def test_evidence(full_project: Project, disk: SmallDisk, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_ssl.nnunet_api.evidence_predictor.EvidencePredictor.sweep", simulated_sweep)
    start = written(full_project)
    assert pseudolabel(GROW) == 0
    undisturbed = {name: value for name, value in written(full_project, start).items() if "/evidence/" in name}
    (workspace,) = full_project.results.glob("*/*/fold_0/nnssl")
    shutil.rmtree(workspace)
    for root in (full_project.raw, full_project.preprocessed):
        (stage,) = root.glob("Dataset601_*")
        shutil.rmtree(stage)
    failures = 0
    for room in (0, 40_000, 120_000):
        disk.leave(room)
        failures += fails_for_lack_of_space(pseudolabel, GROW, capsys, full_project)
        found = {name: value for name, value in written(full_project, start).items() if "/evidence/" in name}
        assert found.items() <= undisturbed.items()  # what is there is whole
    assert failures == 3
    disk.leave(ROOM)
    assert pseudolabel(GROW) == 0
    assert {name: value for name, value in written(full_project, start).items() if "/evidence/" in name} == undisturbed


def test_stage_and_manifest(full_project: Project, disk: SmallDisk, capsys: Any) -> None:
    """The disk is full at one file of a stage after the other, its labels, maps, targets, JSON files, the ranking and the manifest."""
    run = open_tiny_run(full_project, settings={"evidence.num_samples": 2})
    write_evidence(teacher_store(run))
    start, used = written(full_project), disk.used
    assert pseudolabel(GROW) == 0
    undisturbed, most = _without_seconds(written(full_project, start)), disk.used - used
    _remove_stage(full_project, start)
    failures = 0
    for _ in steps_of_room(disk, most, 12):
        if not fails_for_lack_of_space(pseudolabel, GROW, capsys, full_project):
            break
        failures += 1
        assert not list(full_project.raw.glob("Dataset601_*")) or failures > 8  # whole, and only the ranking or manifest is missing
        assert run.manifest.load(run.workspace).stages == []
    assert failures > 8
    disk.leave(ROOM)
    assert pseudolabel(GROW) == 0
    assert _without_seconds(written(full_project, start)) == undisturbed


def _without_seconds(found: dict[str, str]) -> dict[str, str]:
    """The manifest holds how long a stage took."""
    return {name: value for name, value in found.items() if not name.endswith("manifest.json")}


def _remove_stage(project: Project, start: dict[str, str]) -> None:
    (workspace,) = project.results.glob("*/*/fold_0/nnssl")
    open_run_manifest = workspace / "manifest.json"
    content = open_run_manifest.read_text()
    assert '"stages": []' not in content
    for name in written(project, start):
        (project.raw.parent / name).unlink()
    for root in (project.raw, project.preprocessed):
        (stage,) = root.glob("Dataset601_*")
        shutil.rmtree(stage)
    open_run_manifest.unlink(missing_ok=True)
    open_tiny_run(project, settings={"evidence.num_samples": 2})


def test_report(full_project: Project, disk: SmallDisk, capsys: Any) -> None:
    run = open_tiny_run(full_project)
    write_evidence(teacher_store(run))
    grow_stage(run)
    arguments = [*CALL, "-f", "0", "-tr", OUR_TEACHER]
    start, used = written(full_project), disk.used
    assert report(arguments) == 0
    names, most = set(written(full_project, start)), disk.used - used
    shutil.rmtree(run.workspace / "report")
    failures = 0
    for _ in steps_of_room(disk, most, 2):
        failures += fails_for_lack_of_space(report, arguments, capsys, full_project)
        assert not (run.workspace / "report" / "report.html").exists()
    assert failures == 2
    assert report(arguments) == 0
    assert set(written(full_project, start)) == names
