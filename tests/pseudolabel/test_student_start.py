"""Which weights a student starts from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_setup import CONFIGURATION, DATASET, OUR_STUDENT, PLANS, Project, write_teacher

from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.pseudolabel.student_start import default_student, resolve_start, teacher_mirroring

TEACHER = f"{DATASET}/TransASPPTeacherTrainer__{PLANS}__{CONFIGURATION}/fold_0/checkpoint_final.pth"
PREVIOUS = f"Dataset601_Tiny_f0s1/{OUR_STUDENT}__{PLANS}__{CONFIGURATION}/fold_0/checkpoint_final.pth"


def start(project: Project, init: Any, stage: int, *, teacher: str = "TransASPPTeacherTrainer", student: str = OUR_STUDENT) -> Any:
    def student_of(number: int) -> ModelLocation:
        return ModelLocation(dataset=f"Dataset60{number}_Tiny_f0s{number}", trainer=student, plans=PLANS, configuration=CONFIGURATION)

    location = ModelLocation(dataset=DATASET, trainer=teacher, plans=PLANS, configuration=CONFIGURATION)
    return resolve_start(init, stage, location, 0, student_of, 0, project.setup())


@pytest.mark.parametrize(
    ("init", "stage", "expected"),
    [
        ("auto", 1, ("teacher", TEACHER)),
        ("auto", 2, ("previous", PREVIOUS)),
        ("previous", 1, ("teacher", TEACHER)),
        ("previous", 2, ("previous", PREVIOUS)),
        ("teacher", 1, ("teacher", TEACHER)),
        ("teacher", 2, ("teacher", TEACHER)),
        ("scratch", 1, ("scratch", None)),
        ("scratch", 2, ("scratch", None)),
    ],
)
def test_students_with_the_teachers_network(taught_project: Project, init: str, stage: int, expected: tuple[str, str | None]) -> None:
    assert start(taught_project, init, stage) == expected


def test_students_with_another_network(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """A stock teacher whose plans name another network than the student has."""
    project.change_plans(lambda plans, c: c.update(architecture=PLAIN))
    write_teacher("nnUNetTrainer")
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        assert start(project, "auto", 1, teacher="nnUNetTrainer") == ("scratch", None)
    assert "network is not the student's: stage 1 starts from scratch" in caplog.text
    with pytest.raises(SetupError, match=r"cannot start from nnUNetTrainer__.*--student-init scratch or --student-tr SemiSupervised"):
        start(project, "teacher", 1, teacher="nnUNetTrainer")
    found = start(project, "auto", 1, teacher="nnUNetTrainer", student="SemiSupervisedStudentTrainer")
    assert found == ("teacher", f"{DATASET}/nnUNetTrainer__{PLANS}__{CONFIGURATION}/fold_0/checkpoint_final.pth")


def test_a_trainer_derived_from_our_teacher_gets_our_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from nnunet_ssl.training.teacher import TransASPPTeacherTrainer\n"
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class PatientTeacher(TransASPPTeacherTrainer): pass\n"
        "class PatientTrainer(nnUNetTrainer): pass\n"
        "class PlainTeacher(TransASPPTeacherTrainer):\n"
        "    has_uncertainty_head = None\n"
        "    build_network_architecture = staticmethod(nnUNetTrainer.build_network_architecture)\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert default_student("PatientTeacher") == OUR_STUDENT
    # the plans' network is theirs
    assert default_student("PatientTrainer") == default_student("PlainTeacher") == "SemiSupervisedStudentTrainer"
    assert default_student("NobodysTrainer") == "SemiSupervisedStudentTrainer"


@pytest.mark.parametrize(
    ("by_fold", "expected"),
    [([(0, 1, 2)], [0, 1, 2]), ([None], []), ([(0, 1)], [0, 1]), ([(0, 1, 2), (1, 2)], [1, 2]), ([(0,), None], []), ([], None)],
)
def test_axes_along_which_the_teacher_was_mirrored(
    project: Project, by_fold: list[tuple[int, ...] | None], expected: list[int] | None
) -> None:
    for fold, axes in enumerate(by_fold):
        write_teacher(fold=fold, mirroring=axes)
    teacher = ModelLocation(dataset=DATASET, trainer="TransASPPTeacherTrainer", plans=PLANS, configuration=CONFIGURATION)
    assert teacher_mirroring(teacher, range(max(1, len(by_fold)))) == expected


@pytest.mark.parametrize("axes", ["01", 3, (3,), (-1,), [0.5]])
def test_axes_that_no_image_has_are_refused(project: Project, axes: Any) -> None:
    path = write_teacher(mirroring=axes) / "checkpoint_final.pth"
    teacher = ModelLocation(dataset=DATASET, trainer="TransASPPTeacherTrainer", plans=PLANS, configuration=CONFIGURATION)
    with pytest.raises(StateError, match=r"checkpoint_final\.pth has the mirroring axes .*, which no image has"):
        teacher_mirroring(teacher, [0])
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["inference_allowed_mirroring_axes"]
    torch.save(checkpoint, path)
    assert teacher_mirroring(teacher, [0]) is None  # nothing is known


PLAIN = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
