"""Finding the images of the pool in the folders of `-u`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nnunet_ssl.data.case_names import same_name
from nnunet_ssl.data.image_copies import copies_of
from nnunet_ssl.data.image_files import channels_by_case, complete_cases
from nnunet_ssl.errors import InputError
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def find_images(folder: Path, file_ending: str, num_files: int) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Group the images of a folder by case; only names `<case>_NNNN<ending>` count, so label files lying beside them are never touched.

    Args:
        folder: the folder of `-u`.
        file_ending: of the labelled dataset, for instance `.nii.gz`.
        num_files: image files of a case, one per channel (RGB images hold three in one).

    Returns:
        The image files of every complete case, and the reason for every other.

    Raises:
        InputError: if the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; -u takes the folder of unlabelled images.")
    channels, misnamed = channels_by_case(folder, file_ending)
    if not channels and not misnamed:
        raise InputError(f"{folder} holds no image named <case>_0000{file_ending}; the pool would be empty.")
    complete, incomplete = complete_cases(channels, folder, file_ending, num_files)
    return complete, {**misnamed, **incomplete}


def collect_images(setup: NnunetSetup, folders: Sequence[Path], skip_bad: bool) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The images of all folders together.

    Args:
        setup: the labelled dataset and its plans.
        folders: those of `-u`.
        skip_bad: leave incomplete and misnamed cases out, and copies of labelled ones.

    Returns:
        The image files of every complete case, sorted by case, and the reason for every case left out.

    Raises:
        InputError: for a folder without images, a case in two folders or labelled as well, two cases that would share a preprocessed file,
            and, unless `skip_bad`, an incomplete one or the copy of a labelled one.
    """
    images: dict[str, tuple[str, ...]] = {}
    skipped: dict[str, str] = {}
    places: dict[str, str | Path] = {}
    for folder in folders:
        found, bad = find_images(folder, setup.file_ending, setup.num_files)
        if bad and not skip_bad:
            raise InputError(f"{next(iter(bad.values()))} Complete it, or leave bad cases out with --skip-bad.")
        # also where one of the two cannot be used, which would leave the other out as well
        if twice := _common(found, {**images, **skipped}) or _common(bad, images):
            case, other = twice
            raise InputError(f"case '{case}' is in two folders ({places[other]} and {found.get(case, (folder,))[0]}); rename one.")
        places |= {case: found.get(case, (folder,))[0] for case in {**found, **bad}}
        images.update(found)
        skipped.update(bad)
    refuse_labelled(images, setup)
    _refuse_shared_files(images, setup)
    copies = _copies_of_labelled(images, setup)
    if copies and not skip_bad:
        raise InputError(f"{next(iter(copies.values()))} Remove it, or leave bad cases out with --skip-bad.")
    return {case: files for case, files in sorted(images.items()) if case not in copies}, {**skipped, **copies}


def _copies_of_labelled(images: Mapping[str, Sequence[str]], setup: NnunetSetup) -> dict[str, str]:
    """Cases that are labelled under another name, with the reason to leave them out: held out, they would help to train their student."""
    labelled = {case: files.images for case, files in setup.labelled_cases.items()}
    return {
        case: f"case '{case}': {images[case][0]} is a copy of the image of labelled case '{original}' of {setup.dataset}."
        for case, original in sorted(copies_of(images, labelled).items())
    }


def refuse_labelled(images: Mapping[str, Sequence[str]], setup: NnunetSetup) -> None:
    """See that no case of the pool is a labelled case, whose files a stage links.

    Args:
        images: image files of the pool's cases.
        setup: the labelled dataset as it is now; a case may have got its label after the pool was prepared.

    Raises:
        InputError: if a case is both.
    """
    if both := _common(images, setup.labelled_cases):
        case, labelled = both
        raise InputError(
            f"case '{case}' is in the pool ({images[case][0]}) and a labelled case of {setup.dataset} ('{labelled}'); remove or rename the "
            "image in the pool's folder and prepare the pool again. (The label of a pool case can come by --accept instead.)"
        )


def _refuse_shared_files(images: Mapping[str, Sequence[str]], setup: NnunetSetup) -> None:
    """See that no preprocessed image, `<case>.b2nd`, has the name of another case's mask, `<other case>_seg.b2nd`.

    Raises:
        InputError: if a case of the pool is another one of the pool with `_seg` behind it, or a labelled one, or the other way round.
    """
    for cases, others in ((images, images), (images, setup.labelled_cases), (setup.labelled_cases, images)):
        masks = {f"{same_name(other)}_seg": other for other in sorted(others)}
        if clash := next((case for case in sorted(cases) if same_name(case) in masks), None):
            other = masks[same_name(clash)]
            named = [f"'{case}' ({_origin(case, images, setup)})" for case in (clash, other)]
            raise InputError(
                f"the image of case {named[0]} is preprocessed under the name of the mask of case {named[1]}; rename an image in the "
                "pool's folder."
            )


def _origin(case: str, images: Mapping[str, Sequence[str]], setup: NnunetSetup) -> str:
    return images[case][0] if case in images else f"a labelled case of {setup.dataset}"


def _common(cases: Collection[str], others: Collection[str]) -> tuple[str, str] | None:
    """A case that both have, by its names in both; names that differ by case or accents alone are one."""
    known = {same_name(other): other for other in others}
    return next(((case, known[same_name(case)]) for case in sorted(cases) if same_name(case) in known), None)
