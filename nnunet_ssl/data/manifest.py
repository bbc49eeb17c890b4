"""The manifest: what was made from what. Written last, it is the point from which a run continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.files import write_json
from nnunet_ssl.errors import ConfigError, StateError
from nnunet_ssl.locations import MANIFEST_FILE, ModelLocation
from nnunet_ssl.names import check_names
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.schemas import schema_of

SCHEMA = 4


KEPT_BY_STAGES = ("agreement.", "evidence.case_score", "evidence.confidence")
"""Beginnings of settings that decided which cases and labels a stage has, which it keeps when it is written again."""


@dataclass(frozen=True)
class PredictionsRecord:
    """Predictions from elsewhere that are the teacher of a run; their fingerprint is the teacher's."""

    folders: list[str]
    """Absolute, one per sample."""
    stamp: str
    """Of the files' names, sizes and times, so that unchanged files need not be read to be known."""
    start_trainer: str
    """Trainer of the model whose weights stage 1 may start from, if that model is trained."""


@dataclass(frozen=True)
class AcceptedLabel:
    """A manual label of a pool case that was given back."""

    fingerprint: str
    """Of the label file; the copy in the workspace carries it."""
    is_partial: bool
    """Whether voxels of it have the ignore label."""
    stage: int
    """First stage that learns from it."""


@dataclass
class StageRecord:
    """One stage of the curriculum, once its dataset is on disk."""

    stage: int
    """t, from 1."""
    dataset: str
    """Name of the stage dataset."""
    fraction: float
    """K_t."""
    cases: list[str]
    """Pool cases in it, best first."""
    is_last: bool
    """Whether the curriculum ends with it."""
    num_epochs: int
    """Epochs of the student of this stage."""
    case_score: str
    """Score that ranked."""
    order: str
    """Order in force; `random` where held-out cases refute the ranking."""
    tau: float | list[float]
    """Threshold in force; one number, or one per class (region)."""
    calibration: str | None
    """Kind of the calibration map; None for the paper's confidence."""
    agreement_weight: float
    """a of the labels in it; 0 where they are the teacher's alone."""
    label_stage: int | None
    """Stage whose student took part in the labels (None: the teacher alone)."""
    kept_previous: bool
    """Whether the previous labels were kept: the refined ones changed too much, or their student is worse by a test."""
    score_range: tuple[float, float] | None
    """Lowest and highest case score in the stage."""
    share_confident: float
    """Share of predicted-foreground voxels of the chosen cases with confidence of at least tau."""
    change: dict[str, float] | None
    """Share of foreground voxels per class that differ from the previous stage's labels; None at the first stage."""
    seconds: float
    """Time spent on evidence, ranking and writing."""
    accepted: dict[str, str] = field(default_factory=dict)
    """Fingerprint of the accepted label of every pool case that is a labelled case of this stage."""

    @property
    def largest_change(self) -> float | None:
        """Share of changed foreground voxels of the class that changed most; None at the first stage."""
        return None if self.change is None else max(self.change.values(), default=None)


@dataclass
class Manifest:
    """State of one run: one labelled dataset, one fold, one teacher, one pool."""

    dataset: str
    configuration: str
    plans: str
    fold: int | str
    teacher_trainer: str
    teacher_folds: list[int | str]
    teacher_fingerprint: str
    """Of the teacher's checkpoints and the sampling settings, or of its predictions' content; evidence carries it."""
    student_trainer: str
    pool: list[str]
    """Case ids, sorted."""
    dataset_ids: list[int]
    """Stage t uses the t-th; those of stages that are not written can be allotted again."""
    method: MethodConfig
    """All settings; in the file as in the plans' `nnssl` section."""
    stages: list[StageRecord] = field(default_factory=list)
    published: bool = False
    """Whether the last student stands as a model of the labelled dataset."""
    predictions: PredictionsRecord | None = None
    """Where the teacher's predictions come from; None where the teacher is a model."""
    accepted: dict[str, AcceptedLabel] = field(default_factory=dict)
    """Accepted labels in force, by pool case."""
    groups: dict[str, str] = field(default_factory=dict)
    """Group (scanner, site) of every case of the prepared pool, and of labelled cases that have one; empty where there are none."""
    left_out_groups: list[str] = field(default_factory=list)
    """Groups whose pool cases take no part, since theirs are the fold's validation cases; sorted."""
    control: str | None = None
    """Name of what is changed, where the run is the control of another one; its groups are that one's."""
    schema: int = SCHEMA

    def save(self, workspace: Path) -> None:
        """Write `manifest.json` whole or not at all."""
        write_json(workspace / MANIFEST_FILE, {**asdict(self), "method": self.method.to_dict()})

    @property
    def is_complete(self) -> bool:
        """Whether every stage is written; an adaptive schedule may end before its last one."""
        return bool(self.stages) and self.stages[-1].is_last

    def student_on(self, dataset: str) -> ModelLocation:
        """The run's student as a model of a dataset: of a stage's, on which it trains, or of the labelled one, where it is published."""
        return ModelLocation(dataset=dataset, trainer=self.student_trainer, plans=self.plans, configuration=self.configuration)

    @classmethod
    def load(cls, workspace: Path) -> Manifest | None:
        """The manifest of a workspace, or None where no run has begun.

        Raises:
            StateError: if it is damaged or of a newer schema.
            InputError: if a name in it is no plain file name.
        """
        path = workspace / MANIFEST_FILE
        if not path.is_file():
            return None
        content = read_json(path)
        schema_of(content, SCHEMA, path)
        content = _migrated(content)
        if problem := sorted(set(content) ^ {f.name for f in fields(cls)}):
            raise StateError(f"{path} lacks or has in surplus the entry '{problem[0]}'; restore it or remove it to start over.")
        if strange := sorted(name for name, is_sound in _SOUND.items() if not is_sound(content[name])):
            raise StateError(f"{path} has the damaged entry '{strange[0]}'; restore it or remove it to start over.")
        try:
            content["method"] = MethodConfig.from_dict(content["method"])
        except ConfigError as error:
            raise StateError(f"{path}: {error} Restore it or remove it to start over.") from error
        try:
            content["stages"] = [StageRecord(**{**s, "score_range": _pair(s["score_range"])}) for s in content["stages"]]
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise StateError(f"{path} has a damaged stage entry ({error}); restore it or remove it to start over.") from error
        try:
            content["accepted"] = {case: AcceptedLabel(**entry) for case, entry in content["accepted"].items()}
            content["predictions"] = None if content["predictions"] is None else PredictionsRecord(**content["predictions"])
        except (AttributeError, TypeError) as error:
            raise StateError(f"{path} has a damaged entry on labels ({error}); restore it or remove it to start over.") from error
        if not _are_names(content["left_out_groups"]) or not _are_named(content["groups"]):
            raise StateError(f"{path} has a damaged entry on groups; restore it or remove it to start over.")
        manifest = cls(**content)
        _check_names(manifest, path)
        return manifest

    def check_owner(self, workspace: Path, **expected: str | int) -> None:
        """See that the manifest in a workspace is of the run that belongs there.

        Args:
            workspace: where it was read.
            expected: `dataset`, `configuration`, `plans` and `fold` of that run.

        Raises:
            StateError: if it was copied from another one.
        """
        for name, wanted in expected.items():
            if (found := getattr(self, name)) != wanted:
                path = workspace / MANIFEST_FILE
                raise StateError(f"{path} is of the {name} '{found}', not of '{wanted}'; restore it or remove it to start over.")


def _check_names(manifest: Manifest, path: Path) -> None:
    """Everything that becomes part of a file's name."""
    stages = manifest.stages
    check_names([manifest.dataset, *(stage.dataset for stage in stages)], "dataset name", path)
    check_names([manifest.plans, manifest.configuration], "plans or configuration name", path)
    trainers = [manifest.teacher_trainer, manifest.student_trainer]
    check_names(trainers if manifest.predictions is None else [*trainers, manifest.predictions.start_trainer], "trainer name", path)
    check_names(map(str, [manifest.fold, *manifest.teacher_folds]), "fold", path)
    staged = [case for stage in stages for case in (*stage.cases, *stage.accepted)]
    check_names([*manifest.pool, *manifest.accepted, *staged], "case id", path)
    accepted = [label.fingerprint for label in manifest.accepted.values()]
    check_names([*accepted, *(print_ for stage in stages for print_ in stage.accepted.values())], "fingerprint", path)
    if strange := [number for number in manifest.dataset_ids if type(number) is not int]:
        raise StateError(f"{path} has the dataset id {strange[0]!r}, which is no whole number; restore it.")


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an older schema in the present form.

    1 knew neither predictions from elsewhere nor accepted labels, 2 no groups, 3 no controls.
    """
    if content.get("schema") == 1:
        content = {**content, "predictions": None, "accepted": {}, "schema": 2}
    if content.get("schema") == 2:
        content = {**content, "groups": {}, "left_out_groups": [], "schema": 3}
    if content.get("schema") == 3:
        content = {**content, "control": None, "schema": 4}
    return content


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(group, str) for group in value.values())


def _are_folds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(fold) in (int, str) for fold in value)


_SOUND: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("dataset", "configuration", "plans", "teacher_trainer", "teacher_fingerprint", "student_trainer"),
        lambda value: isinstance(value, str),
    ),
    "fold": lambda value: _are_folds([value]),
    "teacher_folds": _are_folds,
    "pool": _are_names,
    "dataset_ids": lambda value: isinstance(value, list),
    "method": lambda value: isinstance(value, dict),
    "stages": lambda value: isinstance(value, list) and all(isinstance(stage, dict) for stage in value),
    "published": lambda value: isinstance(value, bool),
    "control": lambda value: value is None or isinstance(value, str),
}
"""What each entry has to be; those on labels and groups are looked at where they are read."""


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))
