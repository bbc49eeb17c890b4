"""The command of every step, as a user would type it for this step alone."""

from __future__ import annotations

import shlex
from pathlib import Path

from run_requests import run_request
from tiny_setup import OUR_STUDENT, OUR_TEACHER, PLANS, Project, open_tiny_run

from nnunet_ssl.cli import pseudolabel
from nnunet_ssl.cli.arguments import method_assignments
from nnunet_ssl.run.pipeline import pipeline


def test_commands_are_those_a_user_would_type(project: Project) -> None:
    commands = [step.command for step in pipeline(run_request(project))]
    grow = f"nnssl_pseudolabel -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr {OUR_TEACHER} --set evidence.num_samples=2 -device cpu"
    assert commands[0] == f"nnssl_prepare -d 137 -c 3d_fullres -p {PLANS} -u {project.unlabelled}"
    assert commands[1] == f"nnUNetv2_train 137 3d_fullres 0 -tr {OUR_TEACHER} -p {PLANS} -device cpu"
    assert commands[2] == commands[4] == commands[6] == grow
    assert commands[3] == f"nnUNetv2_train STAGE_ID 3d_fullres 0 -tr {OUR_STUDENT} -p {PLANS} -device cpu"
    on_gpu = [step.command for step in pipeline(run_request(project, device="cuda", skip_bad=True, dask="local:2"))]
    assert not any("-device" in command for command in on_gpu)
    assert on_gpu[0] == f"{commands[0]} --skip-bad --dask local:2"
    assert on_gpu[2] == grow.removesuffix(" -device cpu") + " --dask local:2"


def test_commands_carry_what_no_run_keeps_yet(project: Project) -> None:
    """Typed one by one they make the run that was asked for, which knows its settings from its first stage on alone."""
    settings = {"curriculum.fractions": (0.4, 0.7, 1.0), "student.tau": 0.6, "curriculum.order": "random", "student.ema_decay": None}
    asked = run_request(project, fold="all", teacher_folds=(0, 1), student_trainer="MeanTeacherTrainer", first_id=801, settings=settings)
    arguments = pseudolabel.parser().parse_args(shlex.split(pipeline(asked)[-1].command)[1:])
    assert asked.setup.method.with_settings(method_assignments(arguments)) == asked.method
    assert (arguments.student_tr, arguments.first_id, arguments.teacher_folds) == ("MeanTeacherTrainer", 801, [0, 1])


def test_commands_of_a_run_that_has_begun_are_short(taught_project: Project) -> None:
    open_tiny_run(taught_project, settings={"student.tau": 0.6, "evidence.num_samples": 2})
    asked = run_request(taught_project, settings={"student.tau": 0.6})
    assert pipeline(asked)[-1].command == f"nnssl_pseudolabel -d 137 -c 3d_fullres -f 0 -p {PLANS} -tr {OUR_TEACHER} -device cpu"


def test_commands_can_be_typed_where_names_have_spaces(project: Project, tmp_path: Path) -> None:
    folders = (tmp_path / "new scans", tmp_path / "it's old")
    asked = run_request(project, unlabelled=folders, groups="site (A|B)", accept=tmp_path / "corrected by hand")
    lines = [shlex.split(step.command) for step in pipeline(asked)]
    assert lines[0][-2:] == list(map(str, folders))
    assert ["--groups", "site (A|B)"] in [line[-2:] for line in lines]
    assert ["--accept", str(tmp_path / "corrected by hand")] in [line[-2:] for line in lines]
