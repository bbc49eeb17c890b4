"""Models of the labelled dataset that are trained already, and could be the teacher in place of one that is to be trained."""

from __future__ import annotations

from nnunet_ssl.locations import PUBLISHED_MARKER, ModelLocation, results_root


def flags_of_trained_models(teacher: ModelLocation, *folds: int | str) -> list[str]:
    """What names each of them to our commands, for instance `-tr nnUNetTrainer`, sorted; students that were published are none of them.

    Args:
        teacher: the model that is to be the teacher, which is left out.
        folds: of which one has to be trained.
    """
    found = []
    for folder in sorted((results_root() / teacher.dataset).glob(f"*__*__{teacher.configuration}")):
        trainer, plans = folder.name.split("__")[:2]
        model = ModelLocation(dataset=teacher.dataset, trainer=trainer, plans=plans, configuration=teacher.configuration)
        trained = [f for f in folds if model.checkpoint(f).is_file() and not (model.fold_folder(f) / PUBLISHED_MARKER).is_file()]
        if trained and model != teacher and model.folder == folder:
            found.append(f"-tr {trainer}" + ("" if plans == "nnUNetPlans" else f" -p {plans}"))
    return found
