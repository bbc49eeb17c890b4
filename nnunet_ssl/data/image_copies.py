"""Images that are in two places under two names: a scan that is labelled must not come back as an unlabelled one."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

_SAMPLE_BYTES = 1 << 16


def copies_of(images: Mapping[str, Sequence[str]], originals: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Cases whose image files are those of another case, byte by byte.

    Few files are read whole: only where size and a sample from the middle agree (unpacked images of one shape all have one size).

    Args:
        images: image files by case, one per channel.
        originals: the same of the cases that they are compared with.

    Returns:
        The original by the case that is a copy of it. What was packed anew or converted is another file; files that are gone are no copies.
    """
    by_sizes: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for case, files in originals.items():
        if all(map(os.path.isfile, files)):
            by_sizes[_sizes(files)].append(case)
    found: dict[str, str] = {}
    samples: dict[str, bytes] = {}
    for case, files in images.items():
        if not all(map(os.path.isfile, files)):
            continue
        for other in by_sizes.get(_sizes(files), []):
            if _is_copy(files, originals[other], samples):
                found[case] = other
                break
    return found


def _sizes(files: Sequence[str]) -> tuple[int, ...]:
    return tuple(map(os.path.getsize, files))


def _is_copy(files: Sequence[str], originals: Sequence[str], samples: dict[str, bytes]) -> bool:
    """Whether files of the same sizes hold the same; `samples` remembers what was read of each file."""
    for file in (*files, *originals):
        if file not in samples:
            samples[file] = _sample(Path(file))
    pairs = list(zip(files, originals, strict=True))
    return all(samples[file] == samples[original] for file, original in pairs) and all(
        filecmp.cmp(file, original, shallow=False) for file, original in pairs
    )


def _sample(file: Path) -> bytes:
    """A digest over the middle of a file, where images differ, if anywhere."""
    with file.open("rb") as opened:
        opened.seek(max(0, (file.stat().st_size - _SAMPLE_BYTES) // 2))
        return hashlib.blake2b(opened.read(_SAMPLE_BYTES), digest_size=16).digest()
