"""nnU-Net's environment variables for the demo's own processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_SMALL_MACHINE = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "0"}
"""One worker each, no compilation: starting more takes longer than the demo's whole training. What the user has set stays."""


@contextmanager
def demo_folders(folder: Path) -> Iterator[None]:
    """Point nnU-Net to folders inside `folder`, in this process and those it starts; afterwards all is as before.

    Args:
        folder: the demo's folder; nnU-Net's three are made in it.
    """
    ours = {name: str(folder / name) for name in ROOTS}
    for path in ours.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    ours |= {name: os.environ.get(name, value) for name, value in _SMALL_MACHINE.items()}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
