"""Which run a model comes from, and what that run's held-out cases say about new cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cross_fitted import HELD_OUT, begin, rising
from tiny_setup import CONFIGURATION, DATASET, OUR_STUDENT, OUR_TEACHER, PLANS, Project, grow_stage

from nnunet_ssl.confidence.case_scores import Score
from nnunet_ssl.data.files import write_json
from nnunet_ssl.errors import StateError
from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation, results_root
from nnunet_ssl.prediction.findings import Findings, findings_of
from nnunet_ssl.prediction.origin import NO_RUN, Origin, find_origin
from nnunet_ssl.prediction.predict_case import mean_score_of
from nnunet_ssl.pseudolabel.audit import audit
from nnunet_ssl.pseudolabel.in_force import in_force

TEACHER = ModelLocation(dataset=DATASET, trainer=OUR_TEACHER, plans=PLANS, configuration=CONFIGURATION)
STUDENT = ModelLocation(dataset=DATASET, trainer=OUR_STUDENT, plans=PLANS, configuration=CONFIGURATION)


@pytest.fixture
def run(cross_fitted: Project) -> Any:
    """Cross-fitted teachers, the better in doubt the less; held-out cases have been studied."""
    begun = begin(cross_fitted, doubt=rising)
    in_force(begun)
    return begun


def mark_as_published(run: Any, **entries: Any) -> None:
    marker = {
        "student": "Dataset602_Tiny_falls2/x/fold_all",
        "workspace": run.workspace.relative_to(results_root()).as_posix(),
        "teacher_fingerprint": run.manifest.teacher_fingerprint,
    }
    write_json(STUDENT.fold_folder("all") / PUBLISHED_MARKER, {k: v for k, v in {**marker, **entries}.items() if v is not None})


def known(model: ModelLocation, *folds: int | str, num_samples: int = 8) -> Findings:
    return findings_of([find_origin(model, fold) for fold in folds], folds, num_samples, "pairwise_dice")


def study_of(run: Any) -> Any:
    return json.loads((run.workspace / "held_out.json").read_text())


def test_published_student_borrows_the_teachers_common_map(run: Any) -> None:
    mark_as_published(run)
    found = known(STUDENT, "all")
    study = study_of(run)
    assert found.state == "borrowed"
    assert found.maps is not None
    assert found.maps[0].to_dict() == study["calibration"]["map"]
    assert found.calibration == f"{study['calibration']['map']['kind']} map of 5 held-out cases"
    assert found.score == study["ranking"]["chosen"] == "pairwise_dice"
    assert found.ranking == "pairwise_dice in 5 held-out cases, as a ranking proven"


def test_what_is_known_outlives_a_clean_up(run: Any, cross_fitted: Project) -> None:
    """As docs/how-to/resume.md says: evidence, pool and stage datasets may go, for the student and for the teachers."""
    grow_stage(run)
    mark_as_published(run)
    before = known(STUDENT, "all"), known(TEACHER, 0, 1)
    pools = sorted((cross_fitted.preprocessed / DATASET).glob("*_pool_*"))
    stages = [root / run.stage_name(1) for root in (cross_fitted.raw, cross_fitted.preprocessed)]
    assert run.pool.folder in pools
    for path in (run.workspace / "evidence", *pools, *stages):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [found.state for found in before] == ["borrowed", "calibrated"]
    assert (known(STUDENT, "all"), known(TEACHER, 0, 1)) == before


def test_relation_and_limit_are_those_of_the_held_out_cases(run: Any) -> None:
    mark_as_published(run)
    found = known(STUDENT, "all")
    cases = {case["case"]: case for case in study_of(run)["cases"]}
    assert sorted(cases) == sorted(HELD_OUT)
    dice = sorted(case["mean_dice"] for case in cases.values())
    # a tenth of the way along five cases lies at 0.4 between the worst two
    assert found.limit == pytest.approx(max(0.5, dice[0] + 0.4 * (dice[1] - dice[0])))
    best, worst = cases["lab_0"], cases["lab_4"]
    assert best["scores"]["pairwise_dice"] > worst["scores"]["pairwise_dice"]
    predicted = [found.predicted_dice(Score(case["scores"]["pairwise_dice"])) for case in (best, worst)]
    assert all(p is not None and p.low <= p.mean <= p.high for p in predicted)
    assert predicted[0].mean > predicted[1].mean  # type: ignore[union-attr]
    assert found.predicted_dice(Score(None, "nothing")) is None


def test_relation_is_that_of_labels_without_calibration(run: Any) -> None:
    """They are what a prediction gets."""
    mark_as_published(run)
    study = study_of(run)
    for number, case in enumerate(sorted(study["cases"], key=lambda case: case["scores"]["pairwise_dice"])):
        case["mean_dice"], case["plain_mean_dice"] = 0.99, 0.6 + 0.05 * number
    write_json(run.workspace / "held_out.json", study)
    found = known(STUDENT, "all")
    assert found.relation is not None
    assert sorted(found.relation.dice) == pytest.approx([0.6, 0.65, 0.7, 0.75, 0.8])
    assert found.limit == pytest.approx(0.62)


def test_student_of_a_stage_is_known_by_its_dataset(run: Any) -> None:
    grow_stage(run)
    origin = find_origin(run.student(1), "all")
    assert isinstance(origin, Origin)
    assert origin.is_student
    assert origin.workspace == run.workspace


def test_each_teacher_has_the_map_that_was_fitted_for_it(run: Any) -> None:
    study = study_of(run)
    own = {"kind": "temperature", "has_regions": False, "heads": [{"slope": 3.0, "intercept": 0.0}] * 3}
    write_json(run.workspace / "held_out.json", {**study, "own_maps": {"1": own}})
    found = known(TEACHER, 0, 1)
    assert found.state == "calibrated"
    assert found.maps is not None
    assert [used.to_dict() for used in found.maps] == [study["calibration"]["map"], own]


def test_audit_is_enough(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=rising)
    mark_as_published(run)
    before = known(STUDENT, "all")
    assert (before.state, before.limit, before.audit_helps) == ("not calibrated", None, True)
    assert before.calibration == "its run has not looked at held-out cases"
    audit(run, device=torch.device("cpu"))
    assert known(STUDENT, "all").state == "borrowed"
    assert known(STUDENT, "all").limit is not None
    content = json.loads((run.workspace / "audit.json").read_text())
    write_json(run.workspace / "audit.json", {**content, "study": None})
    after = known(STUDENT, "all")
    assert (after.limit, after.audit_helps) == (None, False)
    assert after.ranking == "its run has no held-out cases, for every teacher has seen every label"


def test_refuted_ranking_predicts_nothing(cross_fitted: Project) -> None:
    run = begin(cross_fitted, doubt=lambda case: 0.2 - rising(case))
    in_force(run)
    found = known(TEACHER, 0)
    assert found.state == "calibrated"
    assert (found.relation, found.limit) == (None, None)
    assert found.ranking == f"held-out cases refute {found.score}"


def test_maps_are_of_a_number_of_samples(run: Any) -> None:
    found = known(TEACHER, 0, num_samples=32)
    assert found.state == "not calibrated"
    assert found.calibration == "32 samples are asked for, the run's held-out cases have 8"
    assert found.relation is None


def test_model_of_no_run(run: Any) -> None:
    other = ModelLocation(dataset=DATASET, trainer="nnUNetTrainer", plans=PLANS, configuration=CONFIGURATION)
    assert find_origin(other, 0) == NO_RUN
    found = known(other, 0)
    assert (found.calibration, found.audit_helps) == (NO_RUN, True)


def test_another_teacher_than_then(run: Any) -> None:
    """The run was started over, or its teacher trained again: nothing that was measured holds."""
    mark_as_published(run, teacher_fingerprint="0123456789ab")
    assert find_origin(STUDENT, "all") == f"the run in {run.workspace} has another teacher by now"
    with TEACHER.checkpoint(3).open("ab") as file:
        file.write(b"trained again")
    assert find_origin(TEACHER, 0) == NO_RUN
    TEACHER.checkpoint(3).unlink()
    assert find_origin(TEACHER, 0) == NO_RUN


def test_runs_that_cannot_be_found(run: Any) -> None:
    mark_as_published(run, workspace=None)
    assert "does not name its run; publish the student again" in str(find_origin(STUDENT, "all"))
    mark_as_published(run, workspace="nowhere")
    assert find_origin(STUDENT, "all") == f"the workspace of its run, {results_root() / 'nowhere'}, is gone"
    mark_as_published(run)
    (run.workspace / "manifest.json").write_text("{")
    assert "manifest.json cannot be read as JSON" in str(find_origin(STUDENT, "all"))


def test_without_raw_data(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw")
    assert isinstance(find_origin(TEACHER, 0), Origin)


def test_one_fold_is_judged_as_all_folds_are(run: Any) -> None:
    """Teacher 0 scores lower than the others, whatever the case: alone it must not make every case a bad one."""
    study = study_of(run)
    effects = {"0": -0.06, **{str(fold): 0.015 for fold in range(1, 5)}}
    write_json(run.workspace / "held_out.json", {**study, "teacher_effects": {"pairwise_dice": effects}})
    everybody, alone = known(TEACHER, 0, 1, 2, 3, 4), known(TEACHER, 0)
    scores = [Score(0.84), *[Score(0.915)] * 4]
    judged = [mean_score_of(found.comparable(of)) for found, of in ((everybody, scores), (alone, scores[:1]))]
    assert [score.value for score in judged] == pytest.approx([0.9, 0.9])
    assert alone.comparable([Score(None, "nothing was found")]) == [Score(None, "nothing was found")]
    mark_as_published(run)
    assert known(STUDENT, "all").comparable([Score(0.84)]) == [Score(0.84)]


def test_study_of_another_workspace_serves_where_the_first_is_of_an_earlier_run(run: Any) -> None:
    study = study_of(run)
    write_json(run.workspace / "held_out.json", {**study, "teacher_fingerprint": "0123456789ab"})
    origin = find_origin(TEACHER, 0)
    assert isinstance(origin, Origin)
    assert not origin.has_study
    write_json(run.workspace / "held_out.json", study)
    assert origin.has_study


def test_study_of_an_earlier_run_is_not_used(run: Any) -> None:
    """Started over in the same workspace with another number of samples: the file of then is still there."""
    study = study_of(run)
    write_json(run.workspace / "held_out.json", {**study, "teacher_fingerprint": "0123456789ab"})
    found = known(TEACHER, 0)
    assert (found.state, found.relation) == ("not calibrated", None)
    assert found.calibration == "its run has not looked at held-out cases"
    audit(run, device=torch.device("cpu"))
    own = known(TEACHER, 0)
    assert own.state == "calibrated"
    assert own.relation is not None
    write_json(run.workspace / "audit.json", {"schema": 3, "study": {**study, "teacher_fingerprint": "0123456789ab"}})
    assert known(TEACHER, 0).state == "not calibrated"


@pytest.mark.parametrize("content", [{}, {"cases": [], "own_maps": 3, "calibration": {}}])
def test_damaged_study(run: Any, content: Any) -> None:
    write_json(run.workspace / "held_out.json", content)
    with pytest.raises(StateError, match=r"held_out\.json is no study of held-out cases"):
        known(TEACHER, 0)


def test_students_of_several_runs_share_their_held_out_cases(run: Any, tmp_path: Path) -> None:
    """Two folds with a run each: every fold has its own map, and all held-out cases together give the relation."""
    study = study_of(run)
    origins = []
    for number in (0, 1):
        workspace = tmp_path / f"run_{number}"
        cases = [{**case, "case": f"{number}_{case['case']}"} for case in study["cases"][: 4 + number]]
        write_json(workspace / "held_out.json", {**study, "cases": cases})
        origins.append(Origin(workspace=workspace, manifest=run.manifest, is_student=True))
    found = findings_of(origins, [0, 1], 8, "pairwise_dice")
    assert found.relation is not None
    assert len(found.relation.scores) == 9
    assert found.maps is not None
    assert len(found.maps) == 2
    # one of them unknown: nothing is said of the mean of both
    assert findings_of([origins[0], NO_RUN], [0, 1], 8, "pairwise_dice").state == "not calibrated"
