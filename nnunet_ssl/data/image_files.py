"""Image files of a folder by case, as nnU-Net names them: `<case>_NNNN<ending>`, one per channel."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path


def channels_by_case(folder: Path, file_ending: str) -> dict[str, dict[int, str]]:
    """Absolute paths by case and channel; files of other names are never touched.

    Args:
        folder: it exists.
        file_ending: for instance `.nii.gz`.
    """
    pattern = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})" + re.escape(file_ending))
    matches = [m for e in sorted(os.scandir(folder), key=lambda e: e.name) if not e.is_dir() and (m := pattern.fullmatch(e.name))]
    # the label of a case called scan_0001 looks like channel 1 of a case called scan
    labels = {match["case"] + file_ending for match in matches}
    channels: dict[str, dict[int, str]] = defaultdict(dict)
    for match in matches:
        if match[0] not in labels:
            channels[match["case"]][int(match["channel"])] = str((folder / match[0]).absolute())
    return dict(channels)


def complete_cases(
    channels: Mapping[str, Mapping[int, str]], folder: Path, file_ending: str, num_files: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Tell whole cases from others.

    Args:
        channels: see `channels_by_case`.
        folder: of the files, for messages.
        file_ending: of the files, for messages.
        num_files: image files of a case, one per channel (RGB images hold three in one).

    Returns:
        The image files of every complete case, and the reason for every incomplete one.
    """
    complete, bad = {}, {}
    for case, files in sorted(channels.items()):
        missing = [f"{case}_{c:04d}{file_ending}" for c in range(num_files) if c not in files]
        surplus = [files[c] for c in sorted(files) if c >= num_files]
        if missing:
            bad[case] = f"case '{case}': channel file {folder / missing[0]} is missing ({num_files} channels are expected)."
        elif surplus:
            bad[case] = f"case '{case}': {surplus[0]} is one channel too many ({num_files} are expected)."
        else:
            complete[case] = tuple(files[c] for c in range(num_files))
    return complete, bad


def file_stamp(files: Sequence[str]) -> list[list[int]]:
    """Size and modification time of every file: enough to see that an image was replaced."""
    stats = [os.stat(file) if os.path.exists(file) else None for file in files]
    return [[s.st_size, s.st_mtime_ns] if s else [0, 0] for s in stats]
