"""Find a trained model below `nnUNet_results` and read what it says of itself; neither raw nor preprocessed data are needed."""

from __future__ import annotations

from pathlib import Path

from nnunet_ssl.errors import SetupError
from nnunet_ssl.locations import ModelLocation, results_root
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.load_setup import checked_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def find_model(dataset: str, trainer: str, plans: str, configuration: str) -> ModelLocation:
    """The model of a dataset, as `nnUNetv2_predict` would find it.

    Args:
        dataset: id or folder name.
        trainer: class name of its trainer.
        plans: plans name.
        configuration: for instance `3d_fullres`.

    Raises:
        SetupError: if there is none; the message names those that there are.
    """
    model = ModelLocation(dataset=_dataset_of(dataset), trainer=trainer, plans=plans, configuration=configuration)
    if not (model.folder / "plans.json").is_file() or not (model.folder / "dataset.json").is_file():
        known = sorted(path.parent.name for path in model.folder.parent.glob("*__*__*/plans.json"))
        raise SetupError(
            f"there is no trained model {model.name} in {model.folder.parent}; there are: {', '.join(known) or 'none'} (check -tr, -p, -c)."
        )
    return model


def model_setup(model: ModelLocation) -> NnunetSetup:
    """Plans and dataset of a trained model, from its own folder.

    Raises:
        SetupError, InputError, ConfigError: see `checked_setup`.
    """
    plans_file = model.folder / "plans.json"
    plans, dataset_json = read_json(plans_file), read_json(model.folder / "dataset.json")
    return checked_setup(model.dataset, model.plans, model.configuration, plans, dataset_json, folder=model.folder, plans_file=plans_file)


def _dataset_of(name_or_id: str) -> str:
    if not name_or_id.isdecimal():
        return name_or_id
    candidates = sorted(path.name for path in _folders(results_root(), int(name_or_id)))
    if not candidates:
        raise SetupError(f"no model of a dataset with id {name_or_id} in {results_root()}; train one, or check -d and nnUNet_results.")
    if len(candidates) > 1:
        raise SetupError(f"id {name_or_id} names several datasets ({', '.join(candidates)}); give the whole name to -d.")
    return candidates[0]


def _folders(root: Path, number: int) -> list[Path]:
    return [path for path in root.glob(f"Dataset{number:03d}_*") if path.is_dir()]
