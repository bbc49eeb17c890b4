"""Which run a trained model comes from, so that what its held-out cases say may be used for the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import NnsslError, SetupError
from nnunet_ssl.locations import PUBLISHED_MARKER, STAGE_SIDECAR, ModelLocation, raw_root, results_root
from nnunet_ssl.names import check_relative_path
from nnunet_ssl.nnunet_api.checkpoints import fingerprint_of_samples
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.prediction.study_files import has_study
from nnunet_ssl.schemas import PUBLISHED, SIDECAR, schema_of

NO_RUN = "the model belongs to no run of nnssl_run, or its run has another teacher by now"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run of one fold of a model."""

    workspace: Path
    manifest: Manifest
    is_student: bool
    """Whether the model is a student of the run; else it is the teacher, or one of its folds."""

    @property
    def num_samples(self) -> int:
        """Samples per case that the run's evidence, and so its calibration and scores, are of."""
        return self.manifest.method.evidence.num_samples

    @property
    def has_study(self) -> bool:
        """Whether held-out cases of this teacher were looked at, for labels or in an audit."""
        return has_study(self.workspace, self.manifest.teacher_fingerprint)


def find_origin(model: ModelLocation, fold: int | str) -> Origin | str:
    """The run that a fold of a model belongs to, with the teacher that it had then; or why none is known, in a clause.

    A published student names its run in the marker beside it, a student of a stage in the sidecar of its dataset; a teacher has its
    workspace in its own fold, or in the one of all folds.
    """
    try:
        if (marker := model.fold_folder(fold) / PUBLISHED_MARKER).is_file():
            return _of_student(read_json(marker), marker, PUBLISHED, first_has_none=True)
        if (sidecar := _sidecar(model.dataset)) is not None:
            return _of_student(sidecar, raw_root() / model.dataset / STAGE_SIDECAR, SIDECAR)
        return _of_teacher(model, fold)
    except NnsslError as error:
        return str(error).rstrip(".")


def _sidecar(dataset: str) -> dict[str, Any] | None:
    try:
        return read_sidecar(raw_root() / dataset)
    except SetupError:  # prediction needs no raw data
        return None


def _of_student(content: dict[str, Any], source: Path, newest: int, *, first_has_none: bool = False) -> Origin | str:
    schema_of(content, newest, source, first_has_none=first_has_none)
    if "workspace" not in content or "teacher_fingerprint" not in content:
        return f"{source} does not name its run; publish the student again with nnssl_pseudolabel"
    check_relative_path(content["workspace"], "workspace", source)
    workspace = results_root() / content["workspace"]
    manifest = Manifest.load(workspace)
    if manifest is None:
        return f"the workspace of its run, {workspace}, is gone"
    if manifest.teacher_fingerprint != content["teacher_fingerprint"]:
        return f"the run in {workspace} has another teacher by now"
    return Origin(workspace=workspace, manifest=manifest, is_student=True)


def _of_teacher(model: ModelLocation, fold: int | str) -> Origin | str:
    found: list[Origin] = []
    for workspace in dict.fromkeys((model.workspace("all"), model.workspace(fold))):
        manifest = Manifest.load(workspace)
        if manifest is not None and fold in manifest.teacher_folds and _is_teacher_of(manifest, model):
            found.append(Origin(workspace=workspace, manifest=manifest, is_student=False))
    studied = [origin for origin in found if origin.has_study]
    if not found:
        return NO_RUN
    return (studied or found)[0]


def _is_teacher_of(manifest: Manifest, model: ModelLocation) -> bool:
    checkpoints = [model.checkpoint(fold) for fold in manifest.teacher_folds]
    if not all(path.is_file() for path in checkpoints):
        return False
    num_samples = manifest.method.evidence.num_samples
    return fingerprint_of_samples(checkpoints, num_samples) == manifest.teacher_fingerprint
