"""Image files of a folder by case, as nnU-Net names them: `<case>_NNNN<ending>`, one per channel."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ssl.data.case_names import labelled_by_name, name_problem, same_name, shown
from nnunet_ssl.data.files import link
from nnunet_ssl.nnunet_api.spacing_file import spacing_of_image, spacing_of_label


def image_name(name: str, file_ending: str) -> re.Match[str] | None:
    """The groups `case` and `channel` of a file that is named like an image; None for any other."""
    return re.fullmatch(r"(?P<case>.+)_(?P<channel>\d{4})" + re.escape(file_ending), name, re.DOTALL)


def channels_by_case(folder: Path, file_ending: str) -> tuple[dict[str, dict[int, str]], dict[str, str]]:
    """Group a folder's files; those that are named otherwise than images are never touched.

    Args:
        folder: it exists.
        file_ending: for instance `.nii.gz`.

    Returns:
        Absolute paths by case and channel, and the reason for every case whose name cannot be used; none of these is ever opened.
    """
    matches = [match for name in sorted(os.listdir(folder)) if (match := image_name(name, file_ending))]
    # the label of a case called scan_0001 looks like channel 1 of a case called scan
    labels = {match["case"] + file_ending for match in matches}
    channels: dict[str, dict[int, str]] = defaultdict(dict)
    for match in matches:
        if match[0] not in labels:
            channels[match["case"]][int(match["channel"])] = str((folder / match[0]).absolute())
    bad = _bad_names(channels)
    return {case: files for case, files in channels.items() if shown(case) not in bad}, bad


def _bad_names(channels: Mapping[str, Mapping[int, str]]) -> dict[str, str]:
    """Cases that cannot be used because of their names alone, and why; of names too much alike the first is good."""
    bad: dict[str, str] = {}
    first: dict[str, str] = {}
    for case, files in channels.items():
        file, name = shown(next(iter(files.values()))), shown(case)
        if problem := name_problem(case):
            bad[name] = f"case '{name}': {problem}; rename or remove {file}."
        elif (twin := first.setdefault(same_name(case), case)) != case:
            bad[name] = f"case '{name}': its name and '{shown(twin)}' differ by case or accents alone; rename or remove {file}."
        elif labelled := labelled_by_name(case, channels):
            bad[name] = f"case '{name}': {file} is named like the label of case '{labelled}'; move it away, or rename it if it is an image."
    return bad


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
        if missing and os.path.lexists(folder / missing[0]):
            of_other = missing[0].removesuffix(file_ending)
            bad[case] = (
                f"case '{case}': {folder / missing[0]} may be a channel of it or the label of case '{of_other}', and is not opened; rename "
                "one of the two cases."
            )
        elif missing:
            bad[case] = f"case '{case}': channel file {folder / missing[0]} is missing ({num_files} channels are expected)."
        elif folders := [file for file in files.values() if os.path.isdir(file)]:
            bad[case] = f"case '{case}': {folders[0]} is a folder; put an image file in its place."
        elif surplus:
            bad[case] = f"case '{case}': {surplus[0]} is one channel too many ({num_files} are expected)."
        else:
            complete[case] = tuple(files[c] for c in range(num_files))
    return complete, bad


def file_stamp(files: Sequence[str]) -> list[list[int]]:
    """Size and modification time of every file: enough to see that an image was replaced.

    Beside TIFF images nnU-Net reads the spacing from `<case>.json`, which counts where it is there.
    """
    spacings = [str(found) for found in map(spacing_of_image, files[:1]) if found is not None and found.exists()]
    stats = [os.stat(file) if os.path.exists(file) else None for file in (*files, *spacings)]
    return [[s.st_size, s.st_mtime_ns] if s else [0, 0] for s in stats]


def link_spacing(label: Path, place: Path) -> None:
    """Link the file that nnU-Net reads the spacing of a TIFF label from, where there is one.

    Args:
        label: a label image of any kind.
        place: where it is linked to.
    """
    spacing, of_place = spacing_of_label(label), spacing_of_label(place)
    if spacing is not None and of_place is not None and spacing.is_file():
        link(spacing, of_place)
