"""`nnssl_run --leave-group-out` with real trainings of two steps: no pool image of the scanner that judges is looked at by anyone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from file_watch import watching
from real_trainings import copy_project, serve_trainings
from tiny_setup import CONFIGURATION, DATASET, LABELLED, PLANS, POOL, Project, environment, open_tiny_run

from nnunet_ssl.cli.prepare import main as prepare
from nnunet_ssl.cli.run import main
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.pseudolabel.publish import published_model
from nnunet_ssl.training.stage import read_stage

pytestmark = pytest.mark.slow

SET_UP = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS]
CALL = [*SET_UP, "-f", "1", "-device", "cpu", "-np", "1", "--leave-group-out", "--num-samples", "2", "--set", "agreement.max_change=1"]
NORTH, SOUTH = POOL[:4], POOL[4:]


def test_the_other_scanner_only_validates(
    built_project: Project, tmp_path: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_project(built_project, tmp_path, with_pool=True)
    (project.preprocessed / DATASET / "splits_final.json").unlink()
    groups = tmp_path / "groups.csv"
    rows = [f"{case},{'north' if case in (*NORTH, *LABELLED[:4]) else 'south'}\n" for case in (*POOL, *LABELLED)]
    groups.write_text("case,group\n" + "".join(rows))
    serve_trainings(monkeypatch)
    with environment(project, workers=0):
        flags = ["-u", str(project.unlabelled), "-np", "1", "--groups", str(groups), "--group-folds"]
        assert prepare([*SET_UP, *flags]) == 0
        pool = load_pool(project.setup()).folder
        files = [file for case in SOUTH for file in (project.unlabelled / f"{case}_0000.nii.gz", *pool.glob(f"{case}*"))]
        assert len(files) == 2 * 4
        other = pool / f"{NORTH[0]}.b2nd"
        with watching([*files, other]) as opened:
            assert main([*CALL, "--stages", "0.5", "1.0"]) == 0
            assert opened() == {other}
        assert "groups left out: south; 4 pool cases take part" in capsys.readouterr().out
        run = open_tiny_run(project, 1)
        assert [sorted(stage.cases) for stage in run.manifest.stages][-1] == NORTH
        assert load_checkpoint(run.teacher.checkpoint(1))["nnssl"]["pool_images"] == NORTH
        for stage in run.manifest.stages:
            assert sorted(read_stage(stage.dataset).labelled_cases) == LABELLED[:4]
            with (run.workspace / f"ranking_{stage.stage}.csv").open() as file:
                assert sorted(row["case"] for row in csv.DictReader(file)) == NORTH
        assert not [path for case in SOUTH for path in run.workspace.rglob(f"{case}*")]
        assert not [path for case in SOUTH for path in project.raw.glob(f"Dataset6*/**/{case}*")]
        published = published_model(run)
        assert published.checkpoint(1).is_file()
        summary = json.loads((published.fold_folder(1) / "validation" / "summary.json").read_text())
        assert sorted(Path(case["prediction_file"]).name for case in summary["metric_per_case"]) == [f"{c}.nii.gz" for c in LABELLED[4:]]
