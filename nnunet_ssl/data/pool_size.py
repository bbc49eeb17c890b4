"""How much space preprocessed cases of the pool will take."""

from __future__ import annotations

from nnunet_ssl.nnunet_api.preprocessing import PARTS
from nnunet_ssl.nnunet_api.setup import NnunetSetup

_PROPERTIES_BYTES = 500
"""Geometry of a case, 400 to 600 bytes; the file of a labelled case is far larger, for it also lists voxels of every class."""


def pool_case_bytes(setup: NnunetSetup) -> float:
    """Mean size of a preprocessed case of the pool: that of the labelled cases, which it will resemble."""
    stems = [setup.data_folder / case for case in setup.labelled_cases]
    sizes = [f.stat().st_size for stem in stems for part in PARTS[:2] if (f := stem.with_name(f"{stem.name}{part}")).is_file()]
    return sum(sizes) / max(1, len(stems)) + _PROPERTIES_BYTES
