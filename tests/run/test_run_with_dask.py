"""`nnssl_run --dask local:2`, from the first image to the published model: what a single process makes, case by case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from real_trainings import copy_project
from tiny_setup import CONFIGURATION, PLANS, Project, digests, environment, open_tiny_run, pretend_training

from nnunet_ssl.cli.run import main
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.machines.dask_engine import DaskEngine

CALL = ["-d", "137", "-c", CONFIGURATION, "-f", "0", "-p", PLANS, "-device", "cpu", "-np", "1", "--num-samples", "2"]
CALL += ["--stages", "0.5", "1.0", "--set", "agreement.max_change=1"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Cases that workers were asked for, with trainings that take no time and come out the same in every run."""
    names: list[str] = []
    real = DaskEngine.run

    def noted(self: DaskEngine, work: Any, jobs: Any) -> Any:
        names.extend(f"{work.__name__} {name}" for name in jobs)
        return real(self, work, jobs)

    def pretend(model: ModelLocation, fold: int | str, *, device: str, log: Path, epochs: int | None, npz: bool = False) -> None:
        pretend_training(model, fold, seed=len(model.dataset) + int(model.dataset[7:10]))

    monkeypatch.setattr(DaskEngine, "run", noted)
    monkeypatch.setattr("nnunet_ssl.run.pipeline.train", pretend)
    return names


@pytest.mark.thorough
def test_workers_make_what_one_process_makes(built_project: Project, tmp_path: Path, quiet_machine: None, asked: list[str]) -> None:
    found: list[dict[str, Any]] = []
    for name, flags in (("alone", []), ("workers", ["--dask", "local:2"])):
        project = copy_project(built_project, tmp_path / name, with_pool=False)
        with environment(project, workers=0):
            assert main([*CALL, "-u", str(project.unlabelled), *flags]) == 0
            assert bool(asked) == bool(flags)
            run = open_tiny_run(project)
            assert run.manifest.published
            stores = sorted(path for path in (run.workspace / "evidence").rglob("*.b2nd"))
            found.append(
                {
                    "evidence": {str(path.relative_to(run.workspace)): blosc2.open(str(path), mode="r")[:] for path in stores},
                    "rankings": {path.name: path.read_text() for path in sorted(run.workspace.glob("ranking_*.csv"))},
                    "cases": [stage.cases for stage in run.manifest.stages],
                    "labels": {
                        str(path.relative_to(project.raw)): digest
                        for path, digest in ((p, digests([p])[str(p)]) for p in sorted(project.raw.glob("Dataset6*/labelsTr/*.nii.gz")))
                    },
                }
            )
    alone, by_workers = found
    assert alone["evidence"].keys() == by_workers["evidence"].keys()
    assert alone["evidence"]
    for case, values in alone["evidence"].items():
        np.testing.assert_array_equal(values, by_workers["evidence"][case], err_msg=case)
    assert len(alone["rankings"]) == 2
    assert len(alone["labels"]) > 0
    assert {name: alone[name] for name in ("rankings", "cases", "labels")} == {
        name: by_workers[name] for name in ("rankings", "cases", "labels")
    }
    assert len([name for name in asked if name.startswith("_work_elsewhere")]) == 6, "the pool's images"
    assert len([name for name in asked if not name.startswith("_work_elsewhere")]) >= 2 * 6, "evidence of teacher and student"
