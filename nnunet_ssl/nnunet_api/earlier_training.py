"""What an earlier training of the same fold has left, which nnU-Net and we would take for the work of a new one."""

from __future__ import annotations

import os
from pathlib import Path

FINAL, LATEST = "checkpoint_final.pth", "checkpoint_latest.pth"
"""nnU-Net's names of a training's last checkpoint, and of the one that it continues from."""
SUMMARY = Path("validation", "summary.json")
"""nnU-Net's figures of the final checkpoint, in the folder of the fold."""
PREFIX = "earlier_"
"""Of the names that hide these files from nnU-Net until the new training is finished."""


def set_aside(checkpoint: Path) -> list[Path]:
    """Rename what cannot be true any more when a checkpoint appears.

    Beside `checkpoint_latest` there is no final one, since nnU-Net continues from that first; beside a new final one there are no figures.
    Other checkpoints leave all as it is, so that a training that is begun and ended at once loses nothing of the one before.

    Args:
        checkpoint: the file that is about to appear, in the folder of its fold.

    Returns:
        The files under their new names.
    """
    outdated = {LATEST: (SUMMARY, Path(FINAL)), FINAL: (SUMMARY,)}.get(checkpoint.name, ())
    moved = []
    for path in (checkpoint.parent / name for name in outdated):
        if path.is_file():
            moved.append(path.with_name(PREFIX + path.name))
            os.replace(path, moved[-1])
    return moved


def remove_set_aside(checkpoint: Path) -> None:
    """Remove what `set_aside` has renamed, once a new final checkpoint has taken its place; other checkpoints leave it there."""
    if checkpoint.name == FINAL:
        for path in (checkpoint.parent / name for name in (SUMMARY, Path(FINAL))):
            path.with_name(PREFIX + path.name).unlink(missing_ok=True)
