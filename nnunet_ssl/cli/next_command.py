"""What a command prints last: what to type next."""

from __future__ import annotations

from nnunet_ssl.locations import DEFAULT_DEVICE, ModelLocation, dataset_number, device_flag, plans_flag


def print_next(*commands: str, trainer: str | None = None) -> None:
    """Print the next command, and others that could be typed instead; before them what they need to be found by nnU-Net.

    Args:
        commands: the one to type, then alternatives.
        trainer: the one that is named in a command of nnU-Net's own, which has to find it; None where all commands are ours.
    """
    print_export(trainer)
    for start, line in zip(["next", *["  or"] * (len(commands) - 1)], commands, strict=True):
        print(f"{start}: {line}")


def print_export(trainer: str | None) -> None:
    """Print the line without which nnU-Net's own commands do not find a trainer, where it is needed.

    Args:
        trainer: the one they name; None where they name none.
    """
    from nnunet_ssl.nnunet_api.external_trainers import line_to_export

    if trainer is not None and (line := line_to_export(trainer)) is not None:
        print(f"once per shell, so that nnU-Net finds {trainer}: {line}")


def predict_line(model: ModelLocation, *folds: int | str, device: str = DEFAULT_DEVICE) -> str:
    """The command of nnU-Net's own that predicts with these folds of a model."""
    flags = f"-d {dataset_number(model.dataset)} -c {model.configuration} -f {' '.join(map(str, folds))} -tr {model.trainer}"
    return f"nnUNetv2_predict {flags}{plans_flag(model.plans)} -i INPUT_FOLDER -o OUTPUT_FOLDER{device_flag(device)}"
