"""Evidence on disk: quantised, compressed, one file per case, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.confidence.quantise import (
    log_variance_from_uint16,
    log_variance_to_uint16,
    probability_from_uint16,
    probability_to_uint16,
    variance_from_uint16,
    variance_to_uint16,
)
from nnunet_ssl.data.files import remove_leftovers, replacing
from nnunet_ssl.data.image_fingerprints import ImageFingerprints
from nnunet_ssl.data.whole_array import ENTRY, array_bytes, write_bytes
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.nnunet_api.array_file import open_array
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.training_state import training_command
from nnunet_ssl.schemas import schema_of

SCHEMA = 1
_META = {"source": str, "heads": int, "num_samples": int, "has_regions": bool}
_COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 3, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}


def teacher_stores(
    workspace: Path, teacher_fingerprint: str, folds: Sequence[int | str], *, images: Path | None = None
) -> dict[int | str, EvidenceStore]:
    """Where a run keeps its teacher's evidence on the pool: one store for each fold, since each has a calibration of its own."""
    folder = workspace / "evidence"
    if len(folds) == 1:
        return {folds[0]: EvidenceStore(folder / "teacher", source=teacher_fingerprint, images=images)}
    return {fold: EvidenceStore(folder / f"teacher_f{fold}", source=f"{teacher_fingerprint}-f{fold}", images=images) for fold in folds}


def held_out_stores(
    workspace: Path, teacher_fingerprint: str, folds: Sequence[int | str], *, images: Path | None = None
) -> dict[int | str, EvidenceStore]:
    """Where a run keeps the evidence of each fold's teacher on the labelled cases that it has not seen."""
    folder = workspace / "evidence"
    return {fold: EvidenceStore(folder / f"held_out_f{fold}", source=f"{teacher_fingerprint}-f{fold}", images=images) for fold in folds}


def student_store(
    workspace: Path, stage: int, student: ModelLocation, fold: int | str, num_samples: int, *, images: Path | None = None
) -> EvidenceStore:
    """Where a run keeps the evidence of a stage's student; another checkpoint or number of samples is another source.

    Raises:
        SetupError: if that student is not trained yet.
    """
    checkpoint = student.checkpoint(fold)
    if not checkpoint.is_file():
        train = training_command(student, fold)
        raise SetupError(f"the student of stage {stage} is not trained yet ({checkpoint} is missing); run: {train}")
    return EvidenceStore(workspace / "evidence" / f"student_s{stage}", source=f"{fingerprint(checkpoint)}-k{num_samples}", images=images)


class EvidenceStore:
    """A folder of evidence files from one predictor.

    Each file holds uint16 (3H + U, X, Y, Z): H means, H variances, H votes and U log-variance channels, with the number of samples, H, and
    the fingerprint of the weights they come from in the file's own metadata, and that of the image.
    """

    def __init__(self, folder: Path, *, source: str, images: Path | None = None) -> None:
        """Open a folder.

        Args:
            folder: made when the first case is written.
            source: fingerprint of the checkpoints and settings that the evidence must come from.
            images: folder of the preprocessed images that the evidence must be about, `<case>.b2nd`; None: of any.
        """
        self.folder = folder
        self.source = source
        self.images = None if images is None else ImageFingerprints(images)

    def path(self, case: str) -> Path:
        return self.folder / f"{case}.b2nd"

    def has(self, case: str, *, reads_image: bool = True) -> bool:
        """Whether whole evidence of the right source is there; that of another source, or of an image that was replaced, is not.

        Args:
            case: case id.
            reads_image: read an image that was not read yet, or that has changed since; without it the answer is quick and a guess.
        """
        path = self.path(case)
        if not path.is_file():
            return False
        try:
            meta = self._meta(path)
            if meta["source"] != self.source:
                return False
            return self._is_of_image(case, meta) if reads_image else self._may_be_of_image(case, meta)
        except (RuntimeError, KeyError, OSError, TypeError, ValueError):
            return False

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half-written, of evidence and of fingerprints."""
        remove_leftovers(self.folder)
        if self.images is not None:
            remove_leftovers(self.images.folder)

    def mean_bytes(self) -> float | None:
        """Mean size of the files that are there, whatever their source; None where there is none."""
        sizes = [path.stat().st_size for path in self.folder.glob("*.b2nd")]
        return sum(sizes) / len(sizes) if sizes else None

    def num_samples(self, case: str) -> int:
        """Samples K of a case.

        Raises:
            StateError: see `read`.
        """
        return int(self._checked_meta(case)["num_samples"])

    def write(self, case: str, evidence: Evidence) -> None:
        """Store one case."""
        with replacing(self.path(case)) as temporary:
            write_bytes(temporary, self.content(evidence, self._image(case)))

    def content(self, evidence: Evidence, image: str | None = None) -> bytes:
        """The file of a case.

        Args:
            evidence: of the case.
            image: fingerprint of its image, if it is to be kept.
        """
        parts = [probability_to_uint16(evidence.mean), variance_to_uint16(evidence.variance), probability_to_uint16(evidence.votes)]
        if evidence.log_variance is not None:
            parts.append(log_variance_to_uint16(evidence.log_variance))
        meta = {
            "schema": SCHEMA,
            "source": self.source,
            "heads": len(evidence.mean),
            "num_samples": evidence.num_samples,
            "has_regions": evidence.has_regions,
        }
        if image is not None:
            meta["image"] = image
        return array_bytes(np.concatenate(parts), compression=_COMPRESSION, metadata=meta)

    def read(self, case: str, shape: Sequence[int] | None = None) -> Evidence:
        """Load one case.

        Args:
            case: case id.
            shape: (H, X, Y, Z) that it must have to fit the dataset's heads and the preprocessed image; None: any.

        Raises:
            StateError: if the file is missing, damaged, of another source, shape or schema.
        """
        path, meta = self.path(case), self._checked_meta(case)
        try:
            values: NDArray[np.uint16] = open_array(path)[:]
        except (RuntimeError, OSError, ValueError) as error:
            raise _damaged(path, error) from error
        h = int(meta["heads"])
        if shape is not None and (found := (h, *values.shape[1:])) != tuple(shape):
            raise StateError(
                f"{path} has the shape {found}, its case {tuple(shape)}; delete {self.folder} and run nnssl_pseudolabel again."
            )
        try:
            return Evidence(
                mean=probability_from_uint16(values[:h]),
                variance=variance_from_uint16(values[h : 2 * h]),
                votes=probability_from_uint16(values[2 * h : 3 * h]),
                num_samples=int(meta["num_samples"]),
                has_regions=bool(meta["has_regions"]),
                log_variance=log_variance_from_uint16(values[3 * h :]) if len(values) > 3 * h else None,
            )
        except StateError as error:  # channels that do not fit each other
            raise _damaged(path, error) from error

    def _checked_meta(self, case: str) -> dict[str, Any]:
        path = self.path(case)
        if not path.is_file():
            raise StateError(f"evidence of case '{case}' is missing ({path}); run nnssl_pseudolabel again without --rescore.")
        try:
            meta = self._meta(path)
        except (RuntimeError, KeyError, OSError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        if not _META.items() <= {name: type(value) for name, value in meta.items()}.items():
            raise _damaged(path, ValueError(f"metadata {meta!r}"))
        schema_of(meta, SCHEMA, path)
        if meta["source"] != self.source:
            raise StateError(f"{path} comes from another model or version; delete {self.folder} and run nnssl_pseudolabel again.")
        if not self._is_of_image(case, meta):
            raise StateError(f"{path} is of an image of case '{case}' that was replaced; run nnssl_pseudolabel again without --rescore.")
        return meta

    def _image(self, case: str) -> str | None:
        """Fingerprint of the image of a case, by its values: nnU-Net compresses by several threads, and leaves another file each time."""
        return None if self.images is None else self.images.of(case)

    def _is_of_image(self, case: str, meta: Mapping[str, Any]) -> bool:
        """Whether evidence is of the image that is there."""
        return self.images is None or meta.get("image") == self._image(case)

    def _may_be_of_image(self, case: str, meta: Mapping[str, Any]) -> bool:
        """The same without reading the image."""
        return self.images is None or self.images.may_be(case, meta.get("image"))

    def is_of_replaced_image(self, case: str) -> bool:
        """Whether evidence of the right source is there that is of another image."""
        path = self.path(case)
        try:
            meta = self._meta(path) if path.is_file() else {}
            return meta.get("source") == self.source and "image" in meta and not self._is_of_image(case, meta)
        except (RuntimeError, KeyError, OSError, TypeError, ValueError):
            return False

    @staticmethod
    def _meta(path: Path) -> dict[str, Any]:
        array = open_array(path)  # kept: the metadata lives as long as the array
        return dict(array.schunk.vlmeta[ENTRY])


def _damaged(path: Path, error: Exception) -> StateError:
    return StateError(f"{path} is damaged ({error}); delete it and run nnssl_pseudolabel again.")
