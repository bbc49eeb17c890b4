"""The audit that is named where nothing is known of held-out cases is one of exactly the folds that are predicted with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prediction_kinds import DATASET, KINDS, network_of, prepared, setup_of

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.files import write_json
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import OUR_STUDENT
from nnunet_ssl.prediction.audit_command import audit_clause
from nnunet_ssl.prediction.findings import NONE_HELD_OUT, findings_of, no_findings
from nnunet_ssl.prediction.origin import NO_RUN, Origin
from nnunet_ssl.prediction.prepared_model import PreparedModel

RUN = "; run: nnssl_run -d 137 -c 3d_fullres "
OF_MODEL = "-tr nnUNetTrainer -u FOLDER"


def model_of(folds: list[int | str], origins: list[Origin | str] | None = None, *, audit_helps: bool = True) -> PreparedModel:
    setup = setup_of(KINDS["regions"])
    findings = no_findings(NO_RUN, "pairwise_dice", audit_helps=audit_helps)
    return replace(prepared(setup, network_of(setup)), folds=folds, origins=origins or [NO_RUN] * len(folds), findings=findings)


def clause(model: PreparedModel, *, device: str = "cuda", num_samples: int | None = None) -> str:
    return audit_clause(model, device=device, num_samples=num_samples)


def run_of(workspace: Path, fold: int | str, **entries: Any) -> Origin:
    """The run of a teacher, whose held-out cases nobody has looked at."""
    manifest = Manifest(
        dataset=DATASET,
        configuration="3d_fullres",
        plans="nnUNetPlans",
        fold=fold,
        teacher_trainer="nnUNetTrainer",
        teacher_folds=[0, 1, 2, 3, 4] if fold == "all" else [fold],
        teacher_fingerprint="0123456789ab",
        student_trainer="SemiSupervisedStudentTrainer",
        pool=[],
        dataset_ids=[],
        method=MethodConfig(),
    )
    return Origin(workspace=workspace / f"{fold}", manifest=replace(manifest, **entries), is_student=False)


@pytest.mark.parametrize(
    ("folds", "asked"),
    [
        ([0], f"-f 0 {OF_MODEL}"),
        ([3], f"-f 3 {OF_MODEL}"),
        ([0, 1], f"-f all --teacher-folds 0 1 {OF_MODEL}"),
        ([4, 2, 4], f"-f all --teacher-folds 4 2 {OF_MODEL}"),
        ([1, 1], f"-f 1 {OF_MODEL}"),
    ],
)
def test_model_without_a_run(folds: list[int | str], asked: str) -> None:
    assert clause(model_of(folds)) == f"{RUN}{asked} --audit"
    assert clause(model_of(folds), device="cpu", num_samples=16) == f"{RUN}{asked} --num-samples 16 --audit -device cpu"


@pytest.mark.parametrize("folds", [["all"], [0, "all"]])
def test_a_model_of_all_labels_has_no_audit(folds: list[int | str]) -> None:
    said = clause(model_of(folds))
    assert said == "; an audit would find no held-out cases, since a model of -f all has seen every label"


def test_students_and_what_no_audit_helps() -> None:
    assert clause(model_of([0], audit_helps=False)) == ""
    student = model_of(["all"])
    student = replace(student, model=replace(student.model, trainer=OUR_STUDENT))
    assert clause(student) == "; nnssl_run --audit gives one, in the run that the student comes from"


def test_audit_of_the_runs_that_have_none(tmp_path: Path) -> None:
    runs: list[Origin | str] = [run_of(tmp_path, fold) for fold in (0, 1, 2)]
    write_json(tmp_path / "0" / "audit.json", {"schema": 3, "study": {"teacher_fingerprint": "0123456789ab"}})
    assert clause(model_of([0, 1, 2], runs), device="cpu") == f"{RUN}-f 1 2 -tr nnUNetTrainer --audit -device cpu"
    assert clause(model_of([0], [run_of(tmp_path, "all")])) == f"{RUN}-f all -tr nnUNetTrainer --audit"
    mixed = [runs[1], run_of(tmp_path, "all")]
    assert clause(model_of([1, 3], mixed)) == f"{RUN}-f 1 -tr nnUNetTrainer --audit"
    assert clause(model_of([3, 1], mixed[::-1])) == f"{RUN}-f all -tr nnUNetTrainer --audit"
    others = [runs[1], run_of(tmp_path, 2, teacher_trainer="OtherTrainer")]
    assert clause(model_of([1, 2], others)) == f"{RUN}-f 1 -tr nnUNetTrainer --audit"


def test_one_fold_has_a_run_and_the_other_none(tmp_path: Path) -> None:
    """Both folds are audited together; the run of one alone says nothing of the other."""
    model = model_of([0, 1], [run_of(tmp_path, 0), NO_RUN])
    assert clause(model) == f"{RUN}-f all --teacher-folds 0 1 {OF_MODEL} --audit"


def test_when_an_audit_helps(tmp_path: Path) -> None:
    def helps(*origins: Origin | str) -> bool:
        return findings_of(origins, [0] * len(origins), 8, "pairwise_dice").audit_helps

    assert helps(NO_RUN)
    assert helps(run_of(tmp_path, 0))
    assert not helps(NO_RUN, "the workspace of its run is gone")
    taught_by_all = run_of(tmp_path, "all", teacher_folds=["all"])
    assert not helps(taught_by_all)
    assert findings_of([taught_by_all], ["all"], 8, "pairwise_dice").ranking == NONE_HELD_OUT
