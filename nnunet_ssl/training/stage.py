"""What a student trainer is told by the stage dataset it trains on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nnunet_ssl.errors import WRITE_AGAIN, StateError
from nnunet_ssl.locations import STAGE_SIDECAR, preprocessed_root, results_root
from nnunet_ssl.names import check_names, check_relative_path
from nnunet_ssl.schemas import SIDECAR, schema_of

StageInit = Literal["teacher", "previous", "scratch"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The part of a stage dataset's sidecar that steers training."""

    dataset: str
    """Name of the stage dataset."""
    stage: int
    """t, from 1."""
    num_stages: int
    num_epochs: int
    """Supervised and semi-supervised epochs of this stage; fine-tuning and distillation come on top."""
    fold: int | str
    labelled_cases: tuple[str, ...]
    """Labelled cases to train on, those of the pool whose manual labels were accepted among them."""
    validation_cases: tuple[str, ...]
    """Manual labels that neither teacher nor student sees; with fold `all` those of the labelled dataset, which train, too."""
    pool_cases: tuple[str, ...]
    num_confidence_channels: int
    num_probability_channels: int
    blind_heads: tuple[int, ...]
    """Network outputs of which pool samples teach nothing."""
    mirroring_axes: tuple[int, ...] | None
    """Spatial axes along which the teacher was mirrored in training; None: unknown, so that nothing follows from it."""
    init: StageInit
    init_checkpoint: str | None
    """Checkpoint to start from, relative to nnUNet_results."""

    @property
    def is_last(self) -> bool:
        """Whether no stage follows."""
        return self.stage >= self.num_stages

    @property
    def start_checkpoint(self) -> Path | None:
        """Checkpoint to start from, or None for a start from scratch."""
        if self.init == "scratch" or self.init_checkpoint is None:
            return None
        return results_root() / self.init_checkpoint

    def split(self, fold: int | str) -> tuple[list[str], list[str]]:
        """Training and validation cases; with fold `all` nothing is held out, and validation repeats the cases of the labelled dataset.

        Args:
            fold: the fold asked for on the command line.

        Raises:
            StateError: if the stage was written for another fold, or a validation case is among the training cases.
        """
        if str(fold) != str(self.fold):
            raise StateError(f"{self.dataset} was written for fold {self.fold}, not {fold}: run nnUNetv2_train with fold {self.fold}.")
        train = [*self.labelled_cases, *self.pool_cases]
        if fold == "all":
            return train, list(self.validation_cases)
        self._refuse_leak(train, f"{self.dataset}/{STAGE_SIDECAR}")
        self._refuse_leak(self._listed_in_splits(int(fold)), f"{self.dataset}/splits_final.json")
        return train, list(self.validation_cases)

    def _listed_in_splits(self, fold: int) -> list[str]:
        """nnU-Net's own train list of the fold: not used here, but stock trainers on this dataset would, and must not see more."""
        path = preprocessed_root() / self.dataset / "splits_final.json"
        if not path.is_file():
            return []
        try:
            splits = json.loads(path.read_text())
            return list(splits[fold]["train"]) if fold < len(splits) else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path} is damaged ({error!r}); {WRITE_AGAIN}") from error

    def _refuse_leak(self, train: list[str], place: str) -> None:
        if leaked := sorted(set(train) & set(self.validation_cases)):
            raise StateError(f"validation case '{leaked[0]}' is among the training cases in {place}; {WRITE_AGAIN}")


def read_stage(dataset: str) -> Stage:
    """The sidecar of a stage dataset's preprocessed data.

    Raises:
        StateError: if there is none, or it is damaged or of a newer version.
        InputError: if a name or path in it leads out of its folder.
    """
    path = preprocessed_root() / dataset / STAGE_SIDECAR
    if not path.is_file():
        raise StateError(
            f"{dataset} has no {STAGE_SIDECAR}: this trainer trains on stage datasets, which nnssl_pseudolabel writes; "
            "to train on manual labels alone use TransASPPTeacherTrainer or a trainer of nnU-Net."
        )
    try:
        content = json.loads(path.read_text())
        schema_of(content, SIDECAR, path)
        stage = _from_content(dataset, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} is damaged ({error!r}); {WRITE_AGAIN}") from error
    check_names([*stage.labelled_cases, *stage.validation_cases, *stage.pool_cases], "case id", path)
    if stage.init_checkpoint is not None:
        check_relative_path(stage.init_checkpoint, "init_checkpoint", path)
    return stage


def _from_content(dataset: str, content: dict[str, Any]) -> Stage:
    if content["init"] not in get_args(StageInit):
        raise ValueError(f"init is {content['init']!r}")
    numbers = ("stage", "num_stages", "num_epochs", "num_confidence_channels", "num_probability_channels")
    cases = ("labelled_cases", "validation_cases", "pool_cases")
    read: dict[str, Any] = {name: content[name] for name in ("fold", "init", "init_checkpoint")}
    read |= {name: int(content[name]) for name in numbers}
    read |= {name: tuple(map(str, content[name])) for name in cases}
    read["blind_heads"] = tuple(map(int, content["blind_heads"]))
    axes = content.get("mirroring_axes")  # stages of the first version have none
    read["mirroring_axes"] = None if axes is None else tuple(map(int, axes))
    return Stage(dataset=dataset, **read)
