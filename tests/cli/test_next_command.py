"""What is to be typed next can be typed as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_ssl.cli.next_command import print_next
from nnunet_ssl.locations import trainers_folder
from nnunet_ssl.nnunet_api.external_trainers import VARIABLE


def test_alternatives_stand_below(capsys: Any) -> None:
    print_next("a", "b", "c")
    assert capsys.readouterr().out == "next: a\n  or: b\n  or: c\n"


def test_what_the_command_needs_stands_before_it_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    print_next("nnUNetv2_train ...", trainer="TransASPPTeacherTrainer")
    first, second = capsys.readouterr().out.splitlines()
    assert first == 'once per shell, so that nnU-Net finds TransASPPTeacherTrainer: export nnUNet_extTrainer="$(nnssl_trainers)"'
    assert second == "next: nnUNetv2_train ..."
    print_next("nnUNetv2_train ...", trainer="nnUNetTrainer")
    assert capsys.readouterr().out == "next: nnUNetv2_train ...\n"
    monkeypatch.setenv(VARIABLE, str(trainers_folder()))
    print_next("nnUNetv2_train ...", trainer="TransASPPTeacherTrainer")
    assert capsys.readouterr().out == "next: nnUNetv2_train ...\n"
