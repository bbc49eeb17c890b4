"""nnU-Net's `.pkl` files, read without running code that they might carry."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_NUMPY = ("numpy.core", "numpy._core")
"""NumPy 1's name of its inner modules, and NumPy 2's."""
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"{inner}.multiarray", name) for inner in _NUMPY for name in ("_reconstruct", "scalar")),
    *((f"{inner}.numeric", "_frombuffer") for inner in _NUMPY),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of containers, numbers, texts and arrays.

    Raises:
        pickle.UnpicklingError: if it holds anything else, which is named and not built. A damaged file raises anything.
    """
    with path.open("rb") as file:
        return _PlainUnpickler(file).load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)
