"""nnU-Net finds our trainers with and without the user's variable, and the variable is as before afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny_setup import Project

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import trainers_folder
from nnunet_ssl.nnunet_api.external_trainers import (
    VARIABLE,
    environment_with_trainers,
    external_trainers,
    find_trainer,
    is_our_teacher,
    line_to_export,
    settings_of_student,
    student_uses,
    trains_uncertainty_head,
)


def test_our_folder_is_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = str(trainers_folder())
    monkeypatch.delenv(VARIABLE, raising=False)
    assert environment_with_trainers()[VARIABLE] == ours
    monkeypatch.setenv(VARIABLE, ours)
    assert environment_with_trainers()[VARIABLE] == ours
    monkeypatch.setenv(VARIABLE, "/mine")
    assert environment_with_trainers()[VARIABLE].split(os.pathsep) == ["/mine", ours]


def test_line_that_a_user_types_before_a_command_of_nnunets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(trainers_folder()))
    assert line_to_export("TransASPPTeacherTrainer") is None
    monkeypatch.setenv(VARIABLE, "/mine")
    assert line_to_export("TransASPPTeacherTrainer") == 'export nnUNet_extTrainer="$nnUNet_extTrainer:$(nnssl_trainers)"'
    monkeypatch.delenv(VARIABLE)
    assert line_to_export("MeanTeacherTrainer") == 'export nnUNet_extTrainer="$(nnssl_trainers)"'
    assert line_to_export("nnUNetTrainer") is None
    with pytest.raises(SetupError, match="no trainer class 'Nobody'"):
        line_to_export("Nobody")


def test_the_line_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed in a shell where the user has named a folder, it adds ours."""
    monkeypatch.setenv(VARIABLE, "/mine")
    script = f'nnssl_trainers() {{ echo "{trainers_folder()}"; }}; {line_to_export("TransASPPTeacherTrainer")}; echo "${VARIABLE}"'
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip().split(os.pathsep) == ["/mine", str(trainers_folder())]


@pytest.mark.parametrize("before", [None, "/mine"])
def test_variable_is_restored(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)

    def use() -> None:
        with external_trainers():
            assert str(trainers_folder()) in os.environ[VARIABLE]
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert os.environ.get(VARIABLE) == before


@pytest.mark.parametrize("name", ["TransASPPTeacherTrainer", "TransASPPStudentTrainer", "SemiSupervisedStudentTrainer", "nnUNetTrainer"])
def test_trainers_are_found_without_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, capfd: Any) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_trainer(name).__name__ == name
    assert capfd.readouterr().out == ""


def test_the_users_own_trainers_are_found_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n\n\nclass MyTrainer(nnUNetTrainer):\n    pass\n"
    (tmp_path / "my_trainer.py").write_text(source)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert find_trainer("MyTrainer").__name__ == "MyTrainer"
    assert find_trainer("TransASPPTeacherTrainer").__name__ == "TransASPPTeacherTrainer"


def test_a_teacher_derived_from_ours_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = (
        "from nnunet_ssl.training.teacher import TransASPPTeacherTrainer\n\n\nclass PatientTeacher(TransASPPTeacherTrainer):\n    pass\n"
    )
    (tmp_path / "patient_teacher.py").write_text(source)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    names = ("PatientTeacher", "TransASPPTeacherTrainer", "TransASPPStudentTrainer", "nnUNetTrainer")
    assert [is_our_teacher(name) for name in names] == [True, True, False, False]


def test_settings_that_a_trainer_has_of_its_own() -> None:
    method = MethodConfig().with_settings({"student.ema": False})
    assert settings_of_student(method, "SemiSupervisedStudentTrainer") == method
    assert settings_of_student(method, "MeanTeacherTrainer").student.ema


def test_settings_that_a_trainer_does_not_heed() -> None:
    assert student_uses("TransASPPStudentTrainer", "unlearning")
    assert not student_uses("MeanTeacherTrainer", "unlearning")
    assert student_uses("MeanTeacherTrainer", "optimizer")


def test_unknown_trainer(project: Project) -> None:
    with pytest.raises(SetupError, match=f"no trainer class 'NobodysTrainer' in nnunetv2 or on {VARIABLE}; check -tr"):
        find_trainer("NobodysTrainer")


@pytest.mark.parametrize("network", ["nnunet_ssl.networks.trans_aspp_unet.TransASPPUNet", "architectures.unet.PlainConvUNet"])
@pytest.mark.parametrize(
    ("trainer", "builds_its_own"),
    [
        *((name, True) for name in ("TransASPPStudentTrainer", "TransASPPTeacherTrainer", "MeanTeacherTrainer", "UAMTTrainer")),
        *((name, True) for name in ("NaiveSelfTrainingTrainer", "CrossPseudoSupervisionTrainer")),
        ("SemiSupervisedStudentTrainer", False),
    ],
)
def test_who_trains_an_uncertainty_head(trainer: str, network: str, builds_its_own: bool) -> None:
    assert trains_uncertainty_head(find_trainer(trainer), network) is (builds_its_own or network.endswith("TransASPPUNet"))
