"""Names and paths in files that would lead out of our folders: refused, the file named, and nothing written outside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import CONFIGURATION, DATASET, OUR_TEACHER, PLANS, POOL, Project, open_tiny_run, teacher_store, write_evidence

from nnunet_ssl.cli import predict, prepare, pseudolabel, run
from nnunet_ssl.data.files import replacing, write_json
from nnunet_ssl.errors import InputError
from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation
from nnunet_ssl.names import check_names, check_relative_path
from nnunet_ssl.prediction.origin import find_origin

SET_UP = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS]
GROW = [*SET_UP, "-f", "0", "-device", "cpu"]
AWAY = "../../../away"
"""Leads out of the folder of any case."""


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "a/b", "/etc/x", "a\\b", "a\0b", "a\nb", 7, None])
def test_no_plain_names(name: Any) -> None:
    with pytest.raises(InputError, match=r"a\.json has the case id .*, which is no plain file name; correct it"):
        check_names(["good", name], "case id", Path("a.json"))


@pytest.mark.parametrize("name", ["case", "-case", "a..b", "...", "ä b", ".hidden", "scan_0001"])
def test_plain_names(name: str) -> None:
    check_names([name], "case id", Path("a.json"))
    check_relative_path(f"a/{name}", "workspace", Path("a.json"))


@pytest.mark.parametrize("path", ["/etc", "../a", "a/../../b", "a/..", "", "a\\..\\b", None])
def test_paths_that_lead_out(path: Any) -> None:
    with pytest.raises(InputError, match=r"a\.json has the workspace .*, which leads out of its folder; correct it"):
        check_relative_path(path, "workspace", Path("a.json"))


def edit(path: Path, change: Callable[[Any], None]) -> Path:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.unlink()  # it may be a link to another's file
    path.write_text(json.dumps(content))
    return path


def manifest_of(project: Project) -> Path:
    return open_tiny_run(project).workspace / "manifest.json"


def index_of(project: Project) -> Path:
    (path,) = (project.preprocessed / DATASET).glob("*__pool_*.json")
    return path


def splits_of(project: Project) -> Path:
    return project.preprocessed / DATASET / "splits_final.json"


def dataset_of(project: Project) -> Path:
    return project.preprocessed / DATASET / "dataset.json"


def plans_of(project: Project) -> Path:
    return project.plans_file


def rename(cases: dict[str, Any]) -> None:
    cases[AWAY] = cases.pop("pool_0")


def name_images(content: dict[str, Any]) -> None:
    content["dataset"] = {AWAY: {"images": ["imagesTr/lab_0_0000.nii.gz"], "label": "labelsTr/lab_0.nii.gz"}}


PLANTED: dict[str, tuple[Callable[[Project], Path], Callable[[Any], None]]] = {
    "manifest: pool": (manifest_of, lambda c: c["pool"].__setitem__(0, AWAY)),
    "manifest: dataset": (manifest_of, lambda c: c.update(dataset=f"Dataset137_{AWAY}")),
    "manifest: student": (manifest_of, lambda c: c.update(student_trainer=AWAY)),
    "manifest: folds": (manifest_of, lambda c: c.update(teacher_folds=[AWAY])),
    "manifest: accepted": (manifest_of, lambda c: c["accepted"].update({AWAY: {"fingerprint": "a", "is_partial": False, "stage": 1}})),
    "manifest: fingerprint": (manifest_of, lambda c: c["accepted"].update(pool_0={"fingerprint": AWAY, "is_partial": False, "stage": 1})),
    "pool index": (index_of, lambda c: rename(c["cases"])),
    "splits": (splits_of, lambda c: c[0]["val"].append(AWAY)),
    "dataset.json: file ending": (dataset_of, lambda c: c.update(file_ending=f"/{AWAY}.nii.gz")),
    "dataset.json: dataset": (dataset_of, name_images),
    "plans: data identifier": (plans_of, lambda c: c["configurations"][CONFIGURATION].update(data_identifier=AWAY)),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_commands_refuse(taught_project: Project, tmp_path: Path, capsys: Any, planted: str) -> None:
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    find, change = PLANTED[planted]
    path = edit(find(taught_project), change)
    before = {str(f) for f in tmp_path.rglob("*")}
    capsys.readouterr()
    assert pseudolabel.main(GROW) == 2
    (line,) = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if ": error: " in line]
    assert path.name in line
    assert "which is no plain file name; correct it" in line
    assert {str(f) for f in tmp_path.rglob("*")} == before


def test_run_refuses_before_it_does_anything(taught_project: Project, tmp_path: Path, capsys: Any) -> None:
    edit(manifest_of(taught_project), PLANTED["manifest: pool"][1])
    before = {str(f) for f in tmp_path.rglob("*")}
    assert run.main(GROW) == 2
    assert "manifest.json has the case id" in capsys.readouterr().err
    assert {str(f) for f in tmp_path.rglob("*")} == before


def test_pool_is_not_prepared_elsewhere(fresh_project: Project, tmp_path: Path, capsys: Any) -> None:
    edit(fresh_project.plans_file, lambda c: c["configurations"][CONFIGURATION].update(data_identifier=AWAY))
    before = {str(f) for f in tmp_path.rglob("*")}
    assert prepare.main([*SET_UP, "-u", str(fresh_project.unlabelled), "-np", "1"]) == 2
    assert "data_identifier" in capsys.readouterr().err
    assert {str(f) for f in tmp_path.rglob("*")} == before


def test_model_from_elsewhere(taught_project: Project, tmp_path: Path, capsys: Any) -> None:
    model = ModelLocation(dataset=DATASET, trainer=OUR_TEACHER, plans=PLANS, configuration=CONFIGURATION)
    path = edit(model.folder / "dataset.json", lambda c: c.update(file_ending=f"/{AWAY}.nii.gz"))
    arguments = [*GROW, "-tr", OUR_TEACHER, "-i", str(taught_project.unlabelled), "-o", str(tmp_path / "out")]
    assert predict.main(arguments) == 2
    assert f"{path} has the file_ending" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workspace_of_a_published_model(taught_project: Project) -> None:
    model = ModelLocation(dataset=DATASET, trainer=OUR_TEACHER, plans=PLANS, configuration=CONFIGURATION)
    write_json(model.fold_folder(0) / PUBLISHED_MARKER, {"schema": 1, "workspace": AWAY, "teacher_fingerprint": "a"})
    assert f"{PUBLISHED_MARKER} has the workspace '{AWAY}', which leads out of its folder" in str(find_origin(model, 0))


# ---- links


def test_files_are_not_written_through_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    (tmp_path / "a.json").symlink_to(outside)
    write_json(tmp_path / "a.json", {"a": 1})
    assert outside.read_text() == "mine"
    assert not (tmp_path / "a.json").is_symlink()
    with replacing(tmp_path / "b.json") as temporary:
        place = temporary
        place.touch()
    place.symlink_to(outside)
    write_json(tmp_path / "b.json", {"a": 1})
    assert outside.read_text() == "mine"
    assert not os.path.lexists(place)


def test_stage_takes_the_place_of_a_link(taught_project: Project, tmp_path: Path) -> None:
    """A stage dataset that was moved away and linked is written again here; what was moved stays."""
    write_evidence(teacher_store(open_tiny_run(taught_project)))
    assert pseudolabel.main(GROW) == 0
    stage = taught_project.raw / "Dataset601_Tiny_f0s1"
    stage.rename(tmp_path / "moved")
    stage.symlink_to(tmp_path / "moved")
    (tmp_path / "moved" / "labelsTr" / f"{POOL[0]}.nii.gz").write_bytes(b"mine")
    assert pseudolabel.main([*GROW, "--stage", "1"]) == 0
    assert not stage.is_symlink()
    assert (tmp_path / "moved" / "labelsTr" / f"{POOL[0]}.nii.gz").read_bytes() == b"mine"
