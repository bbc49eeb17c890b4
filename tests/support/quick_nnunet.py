"""nnU-Net's own commands without what takes seconds and is not looked at: worker processes that start, and 10^8 draws of intensities."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

_EXTRACTOR = "nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor.DatasetFingerprintExtractor"


class _Threads:
    """A multiprocessing context whose pools are threads."""

    Pool = ThreadPool

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


@contextlib.contextmanager
def quick_nnunet() -> Iterator[None]:
    """While it is open, pools are threads, and a fingerprint's statistics are of 10^5 draws, which is plenty for a few voxels."""
    real = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda method=None: _Threads(real(method)))
        draws = property(lambda extractor: 1e5, lambda extractor, number: None)
        patch.setattr(f"{_EXTRACTOR}.num_foreground_voxels_for_intensitystats", draws, raising=False)
        yield
