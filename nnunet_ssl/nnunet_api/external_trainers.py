"""Let nnU-Net find our trainers, whether or not the user exported `nnUNet_extTrainer`."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import OUR_TEACHER, trainers_folder

VARIABLE = "nnUNet_extTrainer"


def environment_with_trainers() -> dict[str, str]:
    """The environment with our trainers' folder added to nnU-Net's search path; what the user set there stays."""
    folder, present = str(trainers_folder()), _search_path()
    return {**os.environ, VARIABLE: os.pathsep.join(present if folder in present else [*present, folder])}


def line_to_export(trainer: str) -> str | None:
    """What a user types before a command of nnU-Net's own with a trainer of ours; None where that command finds the trainer already.

    Args:
        trainer: the name after `-tr`.

    Raises:
        SetupError: if there is no trainer of that name.
    """
    present = _search_path()
    if str(trainers_folder()) in present or not find_trainer(trainer).__module__.startswith("nnunet_ssl."):
        return None
    others = f"${VARIABLE}{os.pathsep}" if present else ""
    return f'export {VARIABLE}="{others}$(nnssl_trainers)"'


@contextlib.contextmanager
def external_trainers() -> Iterator[None]:
    """Set the variable for the duration of a block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = environment_with_trainers()[VARIABLE]
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def find_trainer(name: str) -> Any:
    """The trainer class of that name: nnU-Net's, ours, or any other on `nnUNet_extTrainer`.

    Raises:
        SetupError: if there is none.
    """
    return _found(name, environment_with_trainers()[VARIABLE])


def trains_uncertainty_head(trainer: type, network_class_name: str) -> bool:
    """Whether a trainer's network has an uncertainty head.

    Args:
        trainer: its class; one of ours may say so itself, in `has_uncertainty_head`, since it builds a network of its own.
        network_class_name: of the plans, which the others build.
    """
    of_its_own: bool | None = getattr(trainer, "has_uncertainty_head", None)
    return network_class_name.endswith("TransASPPUNet") if of_its_own is None else of_its_own


def is_our_teacher(name: str) -> bool:
    """Whether a trainer is our teacher or derived from it, so that it is trained by our settings and has phases of ours.

    Raises:
        SetupError: if there is no trainer of that name.
    """
    return name == OUR_TEACHER or any(base.__name__ == OUR_TEACHER for base in find_trainer(name).__mro__)


def settings_of_student(method: MethodConfig, name: str) -> MethodConfig:
    """The settings that a student's trainer trains by: some, of peers for instance, have settings of their own, whatever is given.

    Args:
        method: settings as given.
        name: of the trainer.

    Raises:
        SetupError: if there is no trainer of that name.
    """
    return method.with_settings(getattr(find_trainer(name), "fixed_settings", {}))


def student_uses(name: str, setting: str) -> bool:
    """Whether a student's trainer heeds a setting of the section `student`; a peer's, for instance, learns in its own way.

    Args:
        name: of the trainer.
        setting: for instance `unlearning`.

    Raises:
        SetupError: if there is no trainer of that name.
    """
    in_use = getattr(find_trainer(name), "settings_in_use", None)
    return in_use is None or setting in in_use()


def _search_path() -> list[str]:
    """Folders that the user has named."""
    return [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


@functools.lru_cache
def _found(name: str, search_path: str) -> Any:
    """Look once in every process for a name on a search path: nnU-Net imports every file of a folder anew each time it looks."""
    try:
        with external_trainers(), contextlib.redirect_stdout(io.StringIO()):
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise SetupError(f"no trainer class '{name}' in nnunetv2 or on {VARIABLE}; check -tr.") from error
