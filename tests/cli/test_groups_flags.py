"""`--groups`, `--group-folds` and `--leave-group-out` on the commands, with trainings that take no time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import DATASET, LABELLED, PLANS, POOL, Project, mtimes, open_tiny_run, pretend_training, teacher_store, write_evidence

from nnunet_ssl.cli import prepare, pseudolabel
from nnunet_ssl.cli import run as run_command
from nnunet_ssl.data.groups import groups_file, kept_groups
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.locations import ModelLocation

SET_UP = ["-d", "137", "-c", "3d_fullres", "-p", PLANS]
GROUPS = {case: "north" if int(case[-1]) < 4 else "south" for case in (*POOL, *LABELLED)}


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "groups.csv"
    path.write_text("case,group\n" + "".join(f"{case},{group}\n" for case, group in GROUPS.items()))
    return str(path)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        asked.append(f"{model.dataset} {fold}")
        pretend_training(model, fold, seed=len(asked))

    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    return asked


def test_prepare_keeps_groups_and_writes_folds(project: Project, table: str, capsys: Any) -> None:
    splits = project.preprocessed / DATASET / "splits_final.json"
    assert prepare.main([*SET_UP, "--groups", table, "--group-folds"]) == 2
    assert "holds other folds and is never overwritten" in capsys.readouterr().err
    splits.unlink()
    assert prepare.main([*SET_UP, "--group-folds"]) == 0
    out = capsys.readouterr().out
    assert "groups of the pool: north 4, south 2\n" in out
    assert "groups of labelled cases: north 4, south 2\n" in out
    assert "fold 0 holds out north: 2 training cases, 4 validation cases\n" in out
    assert "fold 1 holds out south: 4 training cases, 2 validation cases\n" in out
    assert [fold["val"] for fold in json.loads(splits.read_text())] == [LABELLED[:4], LABELLED[4:]]
    assert prepare.main([*SET_UP, "--groups", "none"]) == 0
    assert "groups of" not in capsys.readouterr().out
    assert prepare.main([*SET_UP, "--group-folds"]) == 2
    assert "labelled case 'lab_0' has no group (6 of 6)" in capsys.readouterr().err


def test_folders_as_groups(fresh_project: Project, capsys: Any) -> None:
    other = fresh_project.unlabelled.parent / "other_scanner"
    other.mkdir()
    for case in POOL[4:]:
        shutil.move(fresh_project.unlabelled / f"{case}_0000.nii.gz", other)
    folders = ["-u", str(fresh_project.unlabelled), str(other), "-np", "1"]
    assert prepare.main([*SET_UP, *folders]) == 0
    assert "groups of" not in capsys.readouterr().out  # several folders alone are one pool
    assert prepare.main([*SET_UP, *folders, "--groups", "folders"]) == 0
    out = capsys.readouterr().out
    assert "groups of the pool: other_scanner 2, unlabelled 4\n" in out
    assert "groups of labelled cases: none\n" in out


def test_bad_table_stops_before_anything_is_done(fresh_project: Project, trainings: list[str], tmp_path: Path, capsys: Any) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("case,site\n")
    before = mtimes(fresh_project.raw, fresh_project.preprocessed, fresh_project.results)
    for main, flags in ((prepare.main, []), (run_command.main, ["-f", "0", "-device", "cpu"])):
        assert main([*SET_UP, *flags, "-u", str(fresh_project.unlabelled), "--groups", str(bad)]) == 2
        assert f"error: {bad} has no column 'group'" in capsys.readouterr().err
    assert pseudolabel.main([*SET_UP, "-f", "0", "--groups", str(bad)]) == 2
    assert mtimes(fresh_project.raw, fresh_project.preprocessed, fresh_project.results) == before
    assert trainings == []


def test_pseudolabel_with_groups(taught_project: Project, table: str, capsys: Any) -> None:
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    assert pseudolabel.main([*SET_UP, "-f", "0", "-device", "cpu", "--groups", table]) == 0
    capsys.readouterr()
    run = open_tiny_run(taught_project)
    assert run.manifest.stages[0].cases == ["pool_0", "pool_4", "pool_1"]
    assert kept_groups(load_pool(run.setup).folder) == GROUPS
    assert pseudolabel.main([*SET_UP, "-f", "0", "-device", "cpu", "--groups", "none"]) == 2
    assert "are fixed since its first stage" in capsys.readouterr().err
    assert kept_groups(load_pool(run.setup).folder) == GROUPS


def test_damaged_file_of_groups_is_replaced(taught_project: Project, table: str, capsys: Any) -> None:
    path = groups_file(load_pool(taught_project.setup()).folder)
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    path.write_text("{")
    asked = [*SET_UP, "-f", "0", "-device", "cpu", "--groups", table]
    assert run_command.main([*asked, "--status"]) == 0
    assert "[ to do] groups" in capsys.readouterr().out
    assert run_command.main([*asked, "--only", "groups"]) == 0
    assert kept_groups(path.with_name(path.name.removesuffix("_groups.json"))) == GROUPS
    path.write_text("{")
    assert prepare.main([*SET_UP, "--groups", table]) == 0
    path.write_text("{")
    assert pseudolabel.main(asked) == 0
    assert kept_groups(path.with_name(path.name.removesuffix("_groups.json"))) == GROUPS


def test_run_leaves_each_folds_group_out(fresh_project: Project, trainings: list[str], table: str, capsys: Any) -> None:
    (fresh_project.preprocessed / DATASET / "splits_final.json").unlink()
    assert prepare.main([*SET_UP, "-u", str(fresh_project.unlabelled), "-np", "1", "--groups", table, "--group-folds"]) == 0
    call = [*SET_UP, "-device", "cpu", "--num-samples", "2", "--leave-group-out", "--stages", "1.0"]
    assert run_command.main([*call, "-f", "1", "--status"]) == 0
    assert "[done] leave-group-out  see that a group can be left out: nnssl_pseudolabel" in capsys.readouterr().out
    assert run_command.main([*call, "-f", "1", "--groups", table]) == 0
    out = capsys.readouterr().out
    assert "[1/6] keep the groups: done before" in out
    assert "groups left out: south; 4 pool cases take part" in out
    assert trainings == [f"{DATASET} 1", "Dataset601_Tiny_f1s1 1"]
    assert open_tiny_run(fresh_project, 1).manifest.pool == POOL[:4]
    assert run_command.main([*call, "-f", "1"]) == 0
    assert capsys.readouterr().out.count("done before") == 5
    assert len(trainings) == 2


def test_run_refuses_folds_of_mixed_groups_before_a_training(project: Project, trainings: list[str], table: str, capsys: Any) -> None:
    assert run_command.main([*SET_UP, "-f", "0", "-device", "cpu", "--groups", table, "--leave-group-out"]) == 2
    assert "fold 0 validates on 'lab_0' and trains on 'lab_1', both of group 'north'" in capsys.readouterr().err
    assert trainings == []
