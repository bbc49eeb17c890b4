"""What a run was asked for and does not remember yet, for the commands that do its steps one by one."""

from __future__ import annotations

import json
import shlex

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.pseudolabel.student_start import default_student
from nnunet_ssl.run.run_request import RunRequest


def flags_not_kept(request: RunRequest) -> str:
    """Flags of `nnssl_pseudolabel`, with a blank before each: what is in the manifest, or the default of a run without one, is left out.

    A run keeps its student's trainer, its teacher's folds and left-out groups from its beginning, its settings then and with every stage.
    """
    manifest = Manifest.load(request.workspace)
    kept = (manifest.method if manifest else request.setup.method).by_path()
    flags = [word for path, value in request.method.by_path().items() if value != kept[path] for word in _as_set(path, value)]
    if manifest is None:
        if request.student_trainer not in (None, default_student(request.teacher_trainer)):
            flags += ["--student-tr", request.student]
        if request.teacher_folds and not request.is_from_predictions and request.fold == "all":
            flags += ["--teacher-folds", *map(str, request.teacher_folds)]
        if request.leave_group_out:
            flags.append("--leave-group-out")
    if request.first_id is not None:  # counts for every stage that is not written
        flags += ["--first-id", str(request.first_id)]
    return "".join(f" {shlex.quote(flag)}" for flag in flags)


def _as_set(path: str, value: object) -> tuple[str, str]:
    return "--set", f"{path}={json.dumps(value)}"
