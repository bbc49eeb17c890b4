"""Files in the folders of the pool that look like images and are none of its images, so that a scan is not missed in silence."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from nnunet_ssl.data.case_names import labelled_by_name, shown
from nnunet_ssl.data.image_files import image_name
from nnunet_ssl.nnunet_api.file_endings import readable_endings

_NUM_NAMED = 3


def passed_over(folder: Path, file_ending: str) -> list[str]:
    """Files that might have been meant as images of the pool; none is opened.

    Args:
        folder: of the pool; it and the folders right in it are looked through.
        file_ending: of the labelled dataset, for instance `.nii.gz`.

    Returns:
        Paths below `folder`: images without a channel in their name that are no case's label, images of another file ending that nnU-Net
        reads, and images in a folder of their own. Hidden files are none.
    """
    names = _listed(folder)
    cases = {match["case"] for name in names if (match := image_name(name, file_ending))}
    found: list[str] = []
    for name in names:
        if (folder / name).is_dir():
            found += [f"{name}/{inner}" for inner in _listed(folder / name) if image_name(inner, file_ending)]
        elif _is_missed(name, file_ending, cases):
            found.append(name)
    return [shown(name) for name in found]


def describe_passed_over(folder: Path, file_ending: str, files: list[str]) -> str:
    """One line on files that `passed_over` has found."""
    named = ", ".join(files[:_NUM_NAMED]) + (", ..." if len(files) > _NUM_NAMED else "")
    return (
        f"{folder} holds {len(files)} more file(s) that look like images and are not used: {named}; an image of the pool is named "
        f"<case>_0000{file_ending} and lies in the folder itself."
    )


def _is_missed(name: str, file_ending: str, cases: Collection[str]) -> bool:
    if name.endswith(file_ending):
        stem = name.removesuffix(file_ending)
        return image_name(name, file_ending) is None and stem not in cases and labelled_by_name(stem, cases) is None
    return any(image_name(name, ending) for ending in readable_endings())


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:  # not ours to read
        return []
