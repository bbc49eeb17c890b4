"""Beginning a run and finding it again: what may change, what may not, and which ids it gets."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from given_labels import write_labels
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    OUR_STUDENT,
    OUR_TEACHER,
    PLANS,
    POOL,
    Project,
    grow_stage,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_student,
    write_teacher,
)

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.workspace_lock import changing_run
from nnunet_ssl.errors import ConfigError, SetupError, StateError
from nnunet_ssl.pseudolabel.accept import accept
from nnunet_ssl.pseudolabel.dataset_ids import allotting
from nnunet_ssl.pseudolabel.run_spec import RunSpec, settings_in_force
from nnunet_ssl.pseudolabel.student_start import default_student


def workspace(project: Project, fold: int | str = 0, trainer: str = OUR_TEACHER) -> Path:
    return project.results / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}" / f"fold_{fold}" / "nnssl"


def test_run_begins_with_a_manifest(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    assert run.workspace == workspace(taught_project)
    manifest = Manifest.load(run.workspace)
    assert manifest is not None
    assert (manifest.dataset, manifest.plans, manifest.configuration, manifest.fold) == (DATASET, PLANS, CONFIGURATION, 0)
    assert (manifest.teacher_trainer, manifest.teacher_folds, manifest.student_trainer) == (OUR_TEACHER, [0], OUR_STUDENT)
    assert manifest.pool == POOL
    assert manifest.dataset_ids == [601, 602]
    assert manifest.method == taught_project.setup().method
    assert (manifest.stages, manifest.published) == ([], False)
    assert len(manifest.teacher_fingerprint) == 12


def test_run_begins_only_where_its_stages_can_be_written(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != taught_project.raw)
        with pytest.raises(StateError, match=f"{taught_project.raw} cannot be written to"):
            open_tiny_run(taught_project)
    run = open_tiny_run(taught_project)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert open_tiny_run(taught_project).manifest == run.manifest  # to look at it, nothing has to be written


def test_opening_again_changes_nothing(taught_project: Project) -> None:
    first = open_tiny_run(taught_project)
    path = first.workspace / "manifest.json"
    before = path.stat().st_mtime_ns
    again = open_tiny_run(taught_project)
    assert path.stat().st_mtime_ns == before
    assert again.manifest == first.manifest


# ---- teachers


@pytest.mark.parametrize(("trainer", "plans", "flag"), [(OUR_TEACHER, PLANS, f" -p {PLANS}"), ("nnUNetTrainer", "nnUNetPlans", "")])
def test_fold_without_a_teacher_names_the_command(taught_project: Project, trainer: str, plans: str, flag: str) -> None:
    from nnunet_ssl.pseudolabel.start_run import open_run

    with pytest.raises(SetupError) as raised:
        open_run(RunSpec(setup=taught_project.setup(plans), fold=3, teacher_trainer=trainer))
    message = str(raised.value)
    assert message.startswith("the teacher of fold 3 is not trained (")
    assert message.endswith(f"run: nnUNetv2_train 137 3d_fullres 3 -tr {trainer}{flag}")
    assert not workspace(taught_project, 3, trainer).exists()


def test_teacher_that_is_half_trained_is_not_trained_over(taught_project: Project) -> None:
    folder = taught_project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / "fold_3"
    folder.mkdir()
    (folder / "checkpoint_latest.pth").touch()
    with pytest.raises(SetupError, match=rf"run: nnUNetv2_train 137 3d_fullres 3 -tr {OUR_TEACHER} -p {PLANS} --c$"):
        open_tiny_run(taught_project, 3)


def test_another_folds_teacher_has_seen_the_validation_cases(taught_project: Project) -> None:
    for folds in ([1], [0, 1], ["all"]):
        with pytest.raises(ConfigError, match="fold 0 may only use the teacher of fold 0"):
            open_tiny_run(taught_project, 0, teacher_folds=folds)
    assert open_tiny_run(taught_project, 0, teacher_folds=[0]).manifest.teacher_folds == [0]


def test_final_mode_averages_folds(taught_project: Project) -> None:
    (taught_project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / "fold_all").mkdir()
    run = open_tiny_run(taught_project, "all", teacher_folds=[0, 1])
    assert run.workspace == workspace(taught_project, "all")
    assert open_tiny_run(taught_project, "all").manifest.teacher_folds == [0, 1]  # a run remembers its teachers
    with pytest.raises(SetupError, match=r"teacher of fold 2 is not trained"):
        open_tiny_run(taught_project, "all", teacher_folds=[0, 2])


def test_run_needs_a_pool(fresh_project: Project, built_teacher: Path) -> None:
    write_teacher()
    with pytest.raises(SetupError, match=r"no pool is prepared .*nnssl_prepare -d 137 -c 3d_fullres -p"):
        open_tiny_run(fresh_project)


def test_default_students_have_the_teachers_network() -> None:
    assert default_student(OUR_TEACHER) == OUR_STUDENT
    assert default_student("nnUNetTrainer") == default_student("MyTrainer") == "SemiSupervisedStudentTrainer"


def test_what_would_fail_after_hours_is_refused_at_once(taught_project: Project) -> None:
    with pytest.raises(SetupError, match="no trainer class 'NobodysTrainer'"):
        open_tiny_run(taught_project, student_trainer="NobodysTrainer")
    with pytest.raises(ConfigError, match="2 student epochs cannot be divided over 3 stages"):
        open_tiny_run(taught_project, settings={"curriculum.fractions": [0.2, 0.5, 1.0]})
    for tau in ([0.5], [0.5, 0.9]):
        with pytest.raises(ConfigError, match=rf"'student\.tau' has {len(tau)} thresholds; Dataset137_Tiny has 3 classes with background"):
            open_tiny_run(taught_project, settings={"student.tau": tau})
    assert not workspace(taught_project).exists()
    open_tiny_run(taught_project, settings={"student.tau": [0.5, 0.9, 0.8]})


# ---- what belongs together


def test_new_teacher_is_another_run(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    write_teacher(seed=5)
    with pytest.raises(StateError, match=r"used another teacher, or another number of samples, .*remove .* to start over"):
        open_tiny_run(taught_project)
    assert run.workspace.is_dir()


def test_other_number_of_samples_is_another_run(taught_project: Project) -> None:
    open_tiny_run(taught_project)
    with pytest.raises(StateError, match="another number of samples"):
        open_tiny_run(taught_project, settings={"evidence.num_samples": 16})


def test_touched_checkpoint_is_the_same_teacher(taught_project: Project) -> None:
    open_tiny_run(taught_project)
    os.utime(workspace(taught_project).parent / "checkpoint_final.pth", (1, 1))
    open_tiny_run(taught_project)


def test_other_student_is_another_run(taught_project: Project) -> None:
    open_tiny_run(taught_project)
    with pytest.raises(
        StateError, match=r"trains TransASPPStudentTrainer, not SemiSupervisedStudentTrainer; remove \S+/manifest.json to start"
    ):
        open_tiny_run(taught_project, student_trainer="SemiSupervisedStudentTrainer")
    open_tiny_run(taught_project, student_trainer=OUR_STUDENT)


def test_labels_accepted_before_a_run_began_are_named(taught_project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, given = open_tiny_run(taught_project), write_labels(tmp_path / "given", {case: phantom(case)[1] for case in POOL[:2]})
    accept(run, given)
    assert caplog.messages == []
    (run.workspace / "manifest.json").unlink()
    again = open_tiny_run(taught_project)
    assert again.manifest.accepted == {}
    said = "holds labels of 2 pool cases that a run before this one accepted; they are no part of this run unless they are given again:"
    assert [message for message in caplog.messages if message.startswith(f"{run.workspace / 'accepted'} {said} --accept with your folder")]
    caplog.clear()
    open_tiny_run(taught_project)  # once is enough
    assert accept(again, given) == POOL[:2]
    assert caplog.messages == []


def test_settings_of_a_run_are_kept_and_can_be_replaced(taught_project: Project) -> None:
    open_tiny_run(taught_project, settings={"agreement.weight": 0.25})
    assert open_tiny_run(taught_project).method.agreement.weight == 0.25
    assert settings_in_force(taught_project.setup(), OUR_TEACHER, 0).agreement.weight == 0.25
    assert settings_in_force(taught_project.setup(), OUR_TEACHER, 1).agreement.weight == 0.5
    assert open_tiny_run(taught_project, settings={"agreement.weight": 0.0}).method.agreement.weight == 0.0


def test_curriculum_is_fixed_from_the_first_stage_on(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    path = run.workspace / "manifest.json"
    content = json.loads(path.read_text())
    stage = {
        "stage": 1,
        "dataset": "Dataset601_Tiny_f0s1",
        "fraction": 0.5,
        "cases": POOL[:3],
        "is_last": False,
        "num_epochs": 1,
        "case_score": "pairwise_dice",
        "order": "ranked",
        "tau": 0.7,
        "calibration": None,
        "agreement_weight": 0.0,
        "label_stage": None,
        "kept_previous": False,
        "score_range": None,
        "share_confident": 0.5,
        "change": None,
        "seconds": 1.0,
    }
    path.write_text(json.dumps({**content, "stages": [stage]}))
    with pytest.raises(StateError, match=r'is fixed since its first stage \(curriculum\.order = "ranked"\); leave out what says otherwise'):
        open_tiny_run(taught_project, settings={"curriculum.order": "random"})
    open_tiny_run(taught_project, settings={"student.cutmix": 0.0})


def test_more_stages_before_the_first_get_more_ids(taught_project: Project) -> None:
    """Fractions may still change while no stage is written; every stage needs an id of its own."""
    open_tiny_run(taught_project, settings={"student.length.num_epochs": 4})
    run = open_tiny_run(taught_project, settings={"curriculum.fractions": [0.2, 0.5, 1.0]})
    assert run.manifest.dataset_ids == [601, 602, 603]
    assert run.stage_name(3) == "Dataset603_Tiny_f0s3"
    (taught_project.raw / "Dataset604_Heart").mkdir()
    run = open_tiny_run(taught_project, settings={"curriculum.fractions": [0.2, 0.5, 0.7, 1.0]})
    assert run.manifest.dataset_ids == [605, 606, 607, 608]
    # they are the run's from now on, although no stage is written; its settings are those of the first stage that is
    assert ids_and_fractions(run) == ([605, 606, 607, 608], [0.5, 1.0])
    with pytest.raises(StateError, match=r"dataset id 608 is already in use by \S+fold_0/nnssl/manifest.json"):
        open_tiny_run(taught_project, 1, first_id=608)
    assert open_tiny_run(taught_project, 1).manifest.dataset_ids == [601, 602]


def ids_and_fractions(run: Any) -> tuple[list[int], list[float]]:
    """As they are saved."""
    content = json.loads((run.workspace / "manifest.json").read_text())
    return content["dataset_ids"], content["method"]["curriculum"]["fractions"]


def test_a_look_saves_no_ids(taught_project: Project) -> None:
    open_tiny_run(taught_project, settings={"student.length.num_epochs": 4})
    more = {"curriculum.fractions": [0.2, 0.5, 1.0]}
    run = open_tiny_run(taught_project, settings=more, only_looks=True)
    assert (run.manifest.dataset_ids, ids_and_fractions(run)[0]) == ([601, 602, 603], [601, 602])
    assert open_tiny_run(taught_project, 1).manifest.dataset_ids == [603, 604]
    assert open_tiny_run(taught_project, settings=more).manifest.dataset_ids == [605, 606, 607]


# ---- ids


def test_ids_in_use_are_passed_over(taught_project: Project) -> None:
    (taught_project.raw / "Dataset602-old").mkdir()  # nnU-Net would not know which of the two has the id
    assert open_tiny_run(taught_project).manifest.dataset_ids == [603, 604]
    (taught_project.results / "Dataset605_Trained").mkdir()
    # neither may the block of a run that has written nothing yet be taken
    assert open_tiny_run(taught_project, 1).manifest.dataset_ids == [606, 607]


def test_ids_of_ones_own(taught_project: Project) -> None:
    (taught_project.preprocessed / "Dataset702_Heart").mkdir()
    with pytest.raises(StateError, match=r"dataset id 702 is already in use by \S+Dataset702_Heart; choose another --first-id"):
        open_tiny_run(taught_project, first_id=701)
    for first in (0, 999):
        with pytest.raises(ConfigError, match=f"--first-id {first} with 2 stages leaves the range 1 to 999"):
            open_tiny_run(taught_project, first_id=first)
    assert open_tiny_run(taught_project, first_id=703).manifest.dataset_ids == [703, 704]


def test_stages_that_are_not_written_can_get_other_ids(taught_project: Project) -> None:
    run = open_tiny_run(taught_project, first_id=703, settings={"agreement.weight": 0.0})
    path = run.workspace / "manifest.json"
    before = path.stat().st_mtime_ns
    for first_id in (703, None):
        assert open_tiny_run(taught_project, first_id=first_id).manifest.dataset_ids == [703, 704]
    assert path.stat().st_mtime_ns == before
    open_tiny_run(taught_project, first_id=704)
    assert ids_and_fractions(run)[0] == [704, 705]
    write_evidence(teacher_store(run))
    with pytest.raises(StateError, match="another process has changed the run"):
        grow_stage(run)  # opened before it got other ids
    grow_stage(open_tiny_run(taught_project))
    (taught_project.raw / "Dataset705_Heart").mkdir()
    (taught_project.raw / "Dataset713_Heart").mkdir()
    with pytest.raises(StateError, match=r"dataset id 705 is already in use by \S+Dataset705_Heart; choose another --first-id"):
        open_tiny_run(taught_project, first_id=704)
    with pytest.raises(StateError, match="dataset id 713 is already in use"):
        open_tiny_run(taught_project, first_id=712)
    for _ in range(2):
        assert open_tiny_run(taught_project, first_id=713).manifest.dataset_ids == [704, 714]  # nobody needs 713
    run = open_tiny_run(taught_project)
    write_student(run, 1)
    assert grow_stage(run).dataset == "Dataset714_Tiny_f0s2"
    assert open_tiny_run(taught_project, first_id=801).manifest.dataset_ids == [704, 714]  # all are written
    assert [stage.dataset for stage in run.manifest.stages] == ["Dataset704_Tiny_f0s1", "Dataset714_Tiny_f0s2"]


@pytest.mark.parametrize("lost", [False, True])
def test_no_two_stages_get_one_id(taught_project: Project, lost: bool) -> None:
    run = open_tiny_run(taught_project)
    write_evidence(teacher_store(run))
    grow_stage(run)
    if lost:
        for root in (taught_project.raw, taught_project.preprocessed):
            shutil.rmtree(root / "Dataset601_Tiny_f0s1")
    with pytest.raises(StateError, match=r"dataset id 601 is already in use by \S+; choose another --first-id"):
        open_tiny_run(taught_project, first_id=600)  # stage 2 would have 601
    assert open_tiny_run(taught_project, first_id=601).manifest.dataset_ids == [601, 602]
    assert open_tiny_run(taught_project, first_id=602).manifest.dataset_ids == [601, 603]


def test_other_ids_are_not_allotted_while_a_stage_is_written(taught_project: Project) -> None:
    run = open_tiny_run(taught_project)
    with changing_run(run.workspace), pytest.raises(StateError, match="another process is writing a stage"):
        open_tiny_run(taught_project, first_id=703)
    assert ids_and_fractions(run)[0] == [601, 602]


def test_processes_that_need_more_ids_at_once_get_the_same(taught_project: Project) -> None:
    """Parts of one array; who comes second waits, and takes what the first has allotted."""
    run = open_tiny_run(taught_project, settings={"student.length.num_epochs": 4})
    more, found = {"curriculum.fractions": [0.2, 0.5, 1.0]}, list[Any]()
    second = threading.Thread(target=lambda: found.append(open_tiny_run(taught_project, settings=more)))
    path = run.workspace / "manifest.json"
    with allotting():
        second.start()
        second.join(timeout=2)
        assert second.is_alive()
        path.write_text(json.dumps({**json.loads(path.read_text()), "dataset_ids": [801, 802, 803]}))
    second.join(timeout=60)
    assert found[0].manifest.dataset_ids == ids_and_fractions(run)[0] == [801, 802, 803]


def test_no_ids_left(taught_project: Project) -> None:
    for number in range(601, 1000, 2):
        (taught_project.raw / f"Dataset{number}_X").mkdir()
    with pytest.raises(SetupError, match="no 2 consecutive dataset ids are free"):
        open_tiny_run(taught_project)
