"""Models that could be the teacher, named before another one is trained."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation
from nnunet_ssl.run.models_there import flags_of_trained_models

TEACHER = ModelLocation(dataset="Dataset137_Tiny", trainer="TransASPPTeacherTrainer", plans="nnUNetPlans", configuration="3d_fullres")


def trained(trainer: str, plans: str = "nnUNetPlans", configuration: str = "3d_fullres", fold: int | str = 0) -> ModelLocation:
    model = ModelLocation(dataset=TEACHER.dataset, trainer=trainer, plans=plans, configuration=configuration)
    model.fold_folder(fold).mkdir(parents=True)
    model.checkpoint(fold).touch()
    return model


@pytest.fixture(autouse=True)
def folders(nnunet_environment: Any) -> None:
    """nnU-Net's, empty."""


def test_nothing_is_there() -> None:
    assert flags_of_trained_models(TEACHER, 0) == {}


def test_models_of_the_same_configuration_and_fold() -> None:
    trained("nnUNetTrainer")
    trained("nnUNetTrainer", "nnUNetResEncUNetMPlans")
    trained("TransASPPTeacherTrainer", "nnUNetPlans_nnssl_cpu")
    trained("nnUNetTrainer", configuration="2d")
    trained("nnUNetTrainerNoMirroring", fold=1)
    trained("TransASPPTeacherTrainer")
    found = flags_of_trained_models(TEACHER, 0)
    assert list(found) == [
        "-tr TransASPPTeacherTrainer -p nnUNetPlans_nnssl_cpu",
        "-tr nnUNetTrainer",
        "-tr nnUNetTrainer -p nnUNetResEncUNetMPlans",
    ]
    assert list(found.values()) == [[0]] * 3


def test_models_of_any_of_several_folds() -> None:
    trained("nnUNetTrainerNoMirroring", fold=1)
    assert flags_of_trained_models(TEACHER, 0, "all") == {}
    assert flags_of_trained_models(TEACHER, 0, 1, "all") == {"-tr nnUNetTrainerNoMirroring": [1]}


def test_a_control_from_scratch_is_no_teacher() -> None:
    trained("TransASPPTeacherTrainer", "nnUNetPlans_nnssl_control_from_scratch_40")
    assert flags_of_trained_models(TEACHER, 0) == {}


def test_a_published_student_is_no_teacher() -> None:
    student = trained("TransASPPStudentTrainer")
    (student.fold_folder(0) / PUBLISHED_MARKER).touch()
    assert flags_of_trained_models(TEACHER, 0) == {}
