"""The folder of `-o`: images, one record per finished case (written last, the resume point) or failed one, and the table of all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.files import remove_leftovers, replacing, temporary_folder, write_csv, write_json
from nnunet_ssl.disk import flush_to_disk
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.geometry import map_ending, write_label, write_map
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.nnunet_api.spacing_file import spacing_of_label
from nnunet_ssl.prediction.case_records import CaseRecord, CaseRecords, Stamp
from nnunet_ssl.prediction.failure_records import FailureRecords
from nnunet_ssl.prediction.predict_case import CasePrediction
from nnunet_ssl.prediction.prepared_model import PreparedModel

TABLE = "cases.csv"
COLUMNS = (
    "case",
    "score_name",
    "score",
    "predicted_dice",
    "predicted_dice_low",
    "predicted_dice_high",
    "review",
    "reason",
    "calibration",
    "samples",
    "seconds",
)
"""Columns of the table; behind them stands one volume per class."""
VOLUME = "volume_ml_"
RECORDS = "nnssl_predict"
"""Folder of the settings and of what is remembered of finished and of failed cases."""


@dataclass(frozen=True)
class OutputFolder:
    """Where everything goes. Labels lie where `nnUNetv2_predict` puts them, everything else in folders below."""

    root: Path
    setup: NnunetSetup

    def open(self, settings: dict[str, Any]) -> None:
        """Begin, or continue what was begun with the same settings, and finish what a killed process has left half removed.

        Raises:
            StateError: if cases were predicted here with other settings.
        """
        path = self.root / RECORDS / "settings.json"
        if path.is_file() and (before := read_json(path)) != settings:
            differ = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
            raise StateError(
                f"{self.root} holds cases that were predicted otherwise (another {', '.join(differ)}); choose another -o, or remove it."
            )
        for folder in (self.root, *(path for path in self.root.rglob("*") if path.is_dir())):
            remove_leftovers(folder)
        write_json(path, settings)
        # as nnU-Net leaves them, for its evaluation and its postprocessing
        write_json(self.root / "dataset.json", self.setup.dataset_json)
        write_json(self.root / "plans.json", self.setup.plans)
        failed = self.failures.reasons()
        for record in self.records.all():
            if record.row["case"] in failed:
                self._remove(record)

    @property
    def records(self) -> CaseRecords:
        """What is remembered of finished cases."""
        return CaseRecords(self.root / RECORDS / "cases")

    @property
    def failures(self) -> FailureRecords:
        """What is remembered of cases that could not be predicted."""
        return FailureRecords(self.root / RECORDS / "failed")

    def is_done(self, case: str, stamp: Stamp, *, with_probabilities: bool) -> bool:
        """Whether a case is finished, its images are as they were, and everything that is asked for lies there."""
        record = self.records.find(case)
        if record is None or record.stamp != stamp:
            return False
        return all(path.is_file() for path in self._images(case, with_probabilities=with_probabilities))

    def write_case(self, case: str, found: CasePrediction, properties: dict[str, Any], row: dict[str, Any], stamp: Stamp) -> None:
        """Write the images of a case, each whole or not at all, the labels last of them, and then its record.

        Args:
            case: case id.
            found: what was predicted.
            properties: of the case, which hold its geometry.
            row: of the table.
            stamp: of its image files.
        """
        before = self.records.find(case)
        if before is not None and before.stamp != stamp:  # of another image, and not all of it need be written anew
            self._remove(before)
            before = None
        images = [(self.map("confidence", case), found.confidence), (self.map("uncertainty", case), found.uncertainty)]
        images += [
            (self.probability(case, k), q[None]) for k, q in enumerate(found.probabilities if found.probabilities is not None else ())
        ]
        for path, channels in images:
            with replacing(path) as temporary:
                write_map(channels[0] if len(channels) == 1 else channels, temporary, properties)
        written = [path for path, _ in images] + self._write_labels(case, found, properties)
        files = {path.relative_to(self.root).as_posix(): fingerprint(path) for path in written}
        self.failures.forget(case)
        self.records.write(CaseRecord(stamp=stamp, row=row, files={**(before.files if before else {}), **files}))

    def _write_labels(self, case: str, found: CasePrediction, properties: dict[str, Any]) -> list[Path]:
        """Write the labels; nnU-Net's writer may leave a second file, named like the first."""
        written = []
        with temporary_folder(self.root) as folder:
            write_label(found.labels, folder / self.labels(case).name, self.setup, properties)
            for file in sorted(folder.iterdir()):
                flush_to_disk(file)
                written.append(self.root / file.name)
                os.replace(file, written[-1])
        return written

    def write_failure(self, case: str, reason: str, images: Path) -> None:
        """Remember that a case could not be predicted, then remove what was written of it before; `open` finishes that if need be.

        Args:
            case: case id, or what is shown of one that cannot be used.
            reason: why it could not be predicted.
            images: folder of its images.
        """
        self.failures.write(case, reason, images)
        if (record := self.records.find(case)) is not None:
            self._remove(record)

    def write_table(self) -> list[dict[str, Any]]:
        """Write `cases.csv` from all finished cases whose labels are there, and all failed ones.

        Returns:
            The rows, by case id.
        """
        failed = self.failures.reasons()
        rows = [record.row for record in self.records.all()]
        rows = [row for row in rows if row["case"] not in failed and self.labels(row["case"]).is_file()]
        rows += [{"case": case, "review": "yes", "reason": reason} for case, reason in failed.items()]
        rows.sort(key=lambda row: str(row["case"]))
        write_csv(self.root / TABLE, (*COLUMNS, *(VOLUME + name for name in self.setup.foreground_names)), rows)
        return rows

    def _remove(self, record: CaseRecord) -> None:
        """Remove the files of a record that are still what was written with it, the labels first, and then the record."""
        images = self._images(record.row["case"], with_probabilities=True)
        spacing = spacing_of_label(images[0])
        for path in (*images, *([] if spacing is None else [spacing])):
            if path.is_file() and fingerprint(path) == record.files.get(path.relative_to(self.root).as_posix()):
                path.unlink()
        self.records.remove(record)

    def _images(self, case: str, *, with_probabilities: bool) -> list[Path]:
        heads = range(self.setup.heads) if with_probabilities else ()
        return [self.labels(case), self.map("confidence", case), self.map("uncertainty", case), *(self.probability(case, k) for k in heads)]

    def labels(self, case: str) -> Path:
        return self.root / f"{case}{self.setup.file_ending}"

    def map(self, kind: str, case: str) -> Path:
        """The image of a `kind` of map, `confidence` or `uncertainty`."""
        return self.root / kind / f"{case}_{kind}{map_ending(self.setup)}"

    def probability(self, case: str, head: int) -> Path:
        """The image of one class (region), numbered as nnU-Net numbers channels."""
        return self.root / "probabilities" / f"{case}_{head:04d}{map_ending(self.setup)}"


def row_of(case: str, found: CasePrediction, prepared: PreparedModel, seconds: float) -> dict[str, Any]:
    """The row of a predicted case.

    Args:
        case: case id.
        found: what was predicted.
        prepared: the model that predicted it.
        seconds: from reading the images to the last map.
    """
    dice, needed = found.predicted_dice, found.review.is_needed
    return {
        "case": case,
        "score_name": prepared.findings.score,
        "score": _number(found.score.value, 6),
        "predicted_dice": None if dice is None else _number(dice.mean, 4),
        "predicted_dice_low": None if dice is None else _number(dice.low, 4),
        "predicted_dice_high": None if dice is None else _number(dice.high, 4),
        "review": None if needed is None else "yes" if needed else "no",
        "reason": found.review.reason,
        "calibration": prepared.findings.state,
        "samples": prepared.predictor.num_samples,
        "seconds": _number(seconds, 2),
        **{VOLUME + name: _number(volume, 4) for name, volume in found.volumes_ml.items()},
    }


def _number(value: float | None, decimals: int) -> str | None:
    return None if value is None else f"{value:.{decimals}f}"
