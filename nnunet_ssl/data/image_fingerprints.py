"""Fingerprints of preprocessed images, remembered beside their folder, so that an image is read for one once and not at every look."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_ssl.data.files import write_json
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.nnunet_api.array_file import fingerprint_of_values
from nnunet_ssl.nnunet_api.json_file import read_json


class ImageFingerprints:
    """Fingerprints of a folder's images by their values, in one small file a case, which any number of processes may write at once.

    Each stands with size and modification time of the image that it was taken of; an image that has others by now is read again.
    """

    def __init__(self, images: Path) -> None:
        """Name the folder of the files, which is made with the first of them; nothing but data lies among the images."""
        self.images = images
        self.folder = images.with_name(f"{images.name}__nnssl_fingerprints")

    def of(self, case: str) -> str:
        """The fingerprint of an image.

        Raises:
            ValueError, RuntimeError, OSError: if there is no image, or a damaged one.
        """
        stamp, known = self._stamp(case), self._known(case)
        if known is not None and known["stamp"] == stamp:
            return str(known["fingerprint"])
        found = fingerprint_of_values(self._image(case))
        with suppress(OSError):  # where nothing can be written, or there is no room: the next process reads the image again
            write_json(self.folder / f"{case}.json", {"stamp": stamp, "fingerprint": found})
        return found

    def may_be(self, case: str, fingerprint: str | None) -> bool:
        """Whether an image can have a fingerprint, as far as can be told without reading it.

        One that has changed since it was read counts as another image, one that was never read as the same.
        """
        known = self._known(case)
        if known is None:
            return fingerprint is not None
        return bool(known["fingerprint"] == fingerprint and known["stamp"] == self._stamp(case))

    def _image(self, case: str) -> Path:
        return self.images / f"{case}.b2nd"

    def _stamp(self, case: str) -> list[int]:
        stat = self._image(case).stat()
        return [stat.st_size, stat.st_mtime_ns]

    def _known(self, case: str) -> dict[str, Any] | None:
        """What is remembered of an image, as it was when it was read; None where there is nothing, or nothing whole."""
        path = self.folder / f"{case}.json"
        if path.is_file():
            with suppress(NnsslError):
                content = read_json(path)
                return content if {"stamp", "fingerprint"} <= content.keys() else None
        return None
