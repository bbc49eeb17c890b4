"""Processes that kill themselves, with everything they started, at a point named in advance; for the tests of resuming."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def die() -> None:
    """What an impatient administrator does."""
    os.killpg(0, signal.SIGKILL)


def die_at(owner: Any, name: str, *, call: int, after: bool = False, when: Callable[..., bool] = lambda *_: True) -> None:
    """Let a function kill the process group at its n-th call for which `when` holds, before or after it has done its work."""
    original, seen = getattr(owner, name), []

    @functools.wraps(original)
    def deadly(*arguments: Any, **options: Any) -> Any:
        counts = when(*arguments)
        if counts:
            seen.append(name)
        if counts and len(seen) == call and not after:
            die()
        result = original(*arguments, **options)
        if counts and len(seen) == call and after:
            die()
        return result

    setattr(owner, name, deadly)


def arm(point: str) -> None:
    """Set the trap of that name."""
    from nnunet_ssl.data import pool_workers, stage_dataset
    from nnunet_ssl.data.manifest import Manifest
    from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor

    if point == "pool":
        die_at(pool_workers, "preprocess_case", call=4)
    elif point == "second pool case":
        die_at(pool_workers, "preprocess_case", call=2)
    elif point == "second sweep":
        die_at(EvidencePredictor, "sweep", call=2)
    elif point == "evidence":
        die_at(EvidencePredictor, "sweep", call=3)
    elif point == "evidence file":
        die_at(os, "replace", call=2, when=lambda source, target: "evidence" in Path(target).parts)
    elif point == "stage":
        die_at(stage_dataset, "write_map", call=4)
    elif point == "rename":
        die_at(os, "rename", call=1, after=True, when=lambda source, target: Path(target).name.startswith("Dataset"))
    elif point == "manifest":
        die_at(Manifest, "save", call=1, when=lambda manifest, workspace: bool(manifest.stages))
    elif point != "none":
        raise ValueError(point)
