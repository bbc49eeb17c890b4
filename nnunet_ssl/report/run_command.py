"""The command of `nnssl_run` that begins or continues a run, for a user to type."""

from __future__ import annotations

from nnunet_ssl.locations import OUR_TEACHER, ModelLocation, dataset_number, plans_flag
from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open


def run_command(teacher: ModelLocation, fold: int | str, *, has_begun: bool) -> str:
    """The command line.

    A run that has begun remembers its pool and the folds of its teacher. Of one that has not, a teacher of all labels that is there, if
    only in part, is named: by default `-f all` trains one for every fold.

    Args:
        teacher: of the run.
        fold: of the run.
        has_begun: whether there is a manifest.
    """
    flags = f"-d {dataset_number(teacher.dataset)} -c {teacher.configuration} -f {fold}{plans_flag(teacher.plans)}"
    if teacher.trainer != OUR_TEACHER:
        flags += f" -tr {teacher.trainer}"
    if not has_begun:
        flags += " --teacher-folds all" if fold == "all" and checkpoint_to_open(teacher, fold) is not None else ""
        flags += " -u FOLDER"
    return f"nnssl_run {flags}"
