"""Files that carry code, and what a process unpickles."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAIN = {
    *((f"numpy.{inner}.multiarray", name) for inner in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{inner}.numeric", "_frombuffer") for inner in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *(("_codecs", "encode"), ("collections", "OrderedDict")),
}
"""Names in pickles of numbers, arrays and containers, which do nothing but build these."""

_WATCHERS: list[set[tuple[str, str]]] = []


class Payload:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def arm_checkpoint(path: Path, marker: Path) -> None:
    """Give a checkpoint of nnU-Net, or a new one, a payload beside its weights."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=False) if path.is_file() else {"network_weights": {}}
    torch.save({**content, "extra": Payload(marker)}, path)


def arm_pickle(path: Path, marker: Path) -> None:
    """Give a pickled dictionary a payload."""
    content = pickle.loads(path.read_bytes()) if path.is_file() else {}
    path.unlink(missing_ok=True)  # it may be a link to another's file
    path.write_bytes(pickle.dumps({**content, "extra": Payload(marker)}))


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        for seen in _WATCHERS:
            seen.add((str(arguments[0]), str(arguments[1])))


sys.addaudithook(_watch)  # there is no way to remove one


@contextlib.contextmanager
def unpickled() -> Iterator[set[tuple[str, str]]]:
    """Module and name of everything that Python's unpickler looks up in this process while the block runs."""
    seen: set[tuple[str, str]] = set()
    _WATCHERS.append(seen)
    try:
        yield seen
    finally:
        _WATCHERS.remove(seen)
