"""Which image files nnU-Net reads."""

from __future__ import annotations

from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES


def readable_endings() -> frozenset[str]:
    """File endings of nnU-Net's own readers, with their dot."""
    return frozenset(ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings)
