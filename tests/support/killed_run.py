"""Runs `nnssl_run` again and again and kills it, with everything it started, each time at another point; for the tests of resuming.

    python killed_run.py STATE_FILE POINT ... -- ARGUMENTS OF nnssl_run

Every attempt is a forked process with a process group of its own, which kills itself at the point of that name and otherwise runs to the
end. After each attempt one line of JSON says how it ended and what stood on disk.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
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


def die_in_training() -> None:
    """In the training's own process: after the first epoch, when its checkpoint is written."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    die_at(nnUNetTrainer, "on_epoch_end", call=1, after=True)


def arm(point: str) -> None:
    """Set the trap of that name."""
    from nnunet_ssl.data import pool, stage_dataset
    from nnunet_ssl.data.manifest import Manifest
    from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
    from nnunet_ssl.run import training_process

    if point == "pool":
        die_at(pool, "preprocess_case", call=4)
    elif point == "second pool case":
        die_at(pool, "preprocess_case", call=2)
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
    elif point == "training":
        hook = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import killed_run; killed_run.die_in_training(); "
        training_process._ENTRY = hook + training_process._ENTRY
    elif point != "none":
        raise ValueError(point)


def attempt(point: str, arguments: list[str]) -> int:
    """One run in a process group of its own; returns the exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 70
        try:
            arm(point)
            from nnunet_ssl.cli.run import main

            code = main(arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def standing() -> dict[str, list[str]]:
    """Datasets and whole evidence on disk."""
    from nnunet_ssl.data.files import TEMPORARY_PREFIX
    from nnunet_ssl.locations import results_root

    found = {}
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        found[name] = sorted(f.name for f in Path(os.environ[name]).iterdir() if f.name.startswith("Dataset"))
    evidence = results_root().glob("*/*/*/nnssl/evidence/teacher/*.b2nd")
    found["evidence"] = sorted(f.name for f in evidence if not f.name.startswith(TEMPORARY_PREFIX))
    return found


def main() -> None:
    """Make every attempt."""
    divide = sys.argv.index("--")
    state, points, arguments = Path(sys.argv[1]), sys.argv[2:divide], sys.argv[divide + 1 :]
    # imported once, in a process without threads, so that attempts can be forked
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None
    import nnunet_ssl.cli.run
    import nnunet_ssl.run.pipeline  # noqa: F401

    for point in points:
        code = attempt(point, arguments)
        with state.open("a") as file:
            file.write(json.dumps({"point": point, "code": code, **standing()}) + "\n")


if __name__ == "__main__":
    main()
