"""`nnssl_run -f all` with real trainings of two steps: cross-fitted teachers, the audit, and a run that goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from file_watch import watching
from real_trainings import copy_project, serve_trainings
from tiny_setup import CONFIGURATION, DATASET, LABELLED, PLANS, POOL, Project, environment, label_files, mtimes, open_tiny_run

from nnunet_ssl.cli.run import main
from nnunet_ssl.pseudolabel.publish import published_model

pytestmark = pytest.mark.slow

CALL = ["-d", "137", "-c", CONFIGURATION, "-f", "all", "-p", PLANS, "-device", "cpu", "-np", "1", "--stages", "1.0", "--num-samples", "2"]


def test_audit_then_run(
    built_project: Project, tmp_path: Path, quiet_machine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_project(built_project, tmp_path, with_pool=True)
    parts = (LABELLED[:2], LABELLED[2:4], LABELLED[4:])
    splits = [{"train": [c for c in LABELLED if c not in held_out], "val": held_out} for held_out in parts]
    (project.preprocessed / DATASET / "splits_final.json").write_text(json.dumps(splits))
    serve_trainings(monkeypatch)
    with environment(project, workers=0), watching(label_files(project.unlabelled)) as opened:
        assert main([*CALL, "-u", str(project.unlabelled), "--audit"]) == 0
        assert opened() == set()
        printed = capsys.readouterr().out
        assert "held-out cases: 6" in printed
        assert ": the same command without --audit" in printed
        run = open_tiny_run(project, "all")
        assert run.manifest.teacher_folds == [0, 1, 2]
        assert run.manifest.stages == []
        teachers = mtimes(*(run.teacher.fold_folder(fold) for fold in (0, 1, 2)))
        evidence = mtimes(run.workspace / "evidence")
        assert main([*CALL, "-u", str(project.unlabelled)]) == 0
        run = open_tiny_run(project, "all")
        (record,) = run.manifest.stages
        assert sorted(record.cases) == POOL
        assert record.is_last
        assert mtimes(*(run.teacher.fold_folder(fold) for fold in (0, 1, 2))) == teachers
        assert mtimes(run.workspace / "evidence") == evidence
        assert json.loads((run.workspace / "held_out.json").read_text())["ranking"]["chosen"] == record.case_score
        assert published_model(run).checkpoint("all").is_file()
        assert opened() == set()
