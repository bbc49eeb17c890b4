"""The command that lets held-out cases say something of a model: the audit of exactly the folds that it is predicted with."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_ssl.locations import dataset_number, device_flag, plans_flag
from nnunet_ssl.prediction.origin import Origin
from nnunet_ssl.prediction.prepared_model import PreparedModel


def audit_clause(prepared: PreparedModel, *, device: str, num_samples: int | None) -> str:
    """What gives a threshold for review, in a clause that follows the reason why there is none; empty where no audit helps.

    Args:
        prepared: the model.
        device: that was given.
        num_samples: K that was asked for; None: nothing was asked for.
    """
    if not prepared.findings.audit_helps:
        return ""
    origins = [origin for origin in prepared.origins if not isinstance(origin, str)]
    if len(origins) == len(prepared.origins):
        return _of_runs([origin for origin in origins if not origin.has_study], prepared, device)
    if "Student" in prepared.model.trainer:
        return "; nnssl_run --audit gives one, in the run that the student comes from"
    return _without_a_run(prepared, device, num_samples)


def _of_runs(origins: Sequence[Origin], prepared: PreparedModel, device: str) -> str:
    """The audit of the runs that have begun; of those with different teachers the first, the others when the command is given again."""
    first = origins[0].manifest
    folds = dict.fromkeys(
        origin.manifest.fold
        for origin in origins
        if (origin.manifest.dataset, origin.manifest.teacher_trainer) == (first.dataset, first.teacher_trainer)
    )
    asked = "all" if first.fold == "all" else " ".join(str(fold) for fold in folds if fold != "all")
    return _command(prepared, first.dataset, asked, f"-tr {first.teacher_trainer}", device)


def _without_a_run(prepared: PreparedModel, device: str, num_samples: int | None) -> str:
    """The audit that begins a run whose teacher is the model, as it is predicted with."""
    folds = list(dict.fromkeys(prepared.folds))
    if "all" in folds:
        return "; an audit would find no held-out cases, since a model of -f all has seen every label"
    asked = str(folds[0]) if len(folds) == 1 else f"all --teacher-folds {' '.join(map(str, folds))}"
    samples = "" if num_samples is None else f" --num-samples {num_samples}"
    return _command(prepared, prepared.model.dataset, asked, f"-tr {prepared.model.trainer} -u FOLDER{samples}", device)


def _command(prepared: PreparedModel, dataset: str, folds: str, rest: str, device: str) -> str:
    model = prepared.model
    flags = f"-d {dataset_number(dataset)} -c {model.configuration} -f {folds}{plans_flag(model.plans)} {rest}"
    return f"; run: nnssl_run {flags} --audit{device_flag(device)}"
