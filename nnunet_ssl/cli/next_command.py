"""What a command prints last: what to type next."""

from __future__ import annotations


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
