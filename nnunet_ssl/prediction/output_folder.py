"""The folder of `-o`: images, one record per finished case (written last, the resume point), and the table of all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.files import remove_leftovers, replacing, temporary_folder, write_csv, write_json
from nnunet_ssl.disk import flush_to_disk
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.geometry import map_ending, write_label, write_map
from nnunet_ssl.nnunet_api.json_file import read_json, read_json_or_none
from nnunet_ssl.nnunet_api.setup import NnunetSetup
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
"""Folder of the settings and of what is remembered of finished cases."""
Stamp = list[list[int]]
"""Size and modification time of every image file of a case."""


@dataclass(frozen=True)
class OutputFolder:
    """Where everything goes. Labels lie where `nnUNetv2_predict` puts them, everything else in folders below."""

    root: Path
    setup: NnunetSetup

    def open(self, settings: dict[str, Any]) -> None:
        """Begin, or continue what was begun with the same settings.

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

    def is_done(self, case: str, stamp: Stamp, *, with_probabilities: bool) -> bool:
        """Whether a case is finished, its images are as they were, and everything that is asked for lies there."""
        record = self._record(case)
        if record is None or record.get("stamp") != stamp:
            return False
        return all(path.is_file() for path in self._images(case, with_probabilities=with_probabilities))

    def write_case(self, case: str, found: CasePrediction, properties: dict[str, Any], row: dict[str, Any], stamp: Stamp) -> None:
        """Write the images of a case, each whole or not at all, and then its record.

        Args:
            case: case id.
            found: what was predicted.
            properties: of the case, which hold its geometry.
            row: of the table.
            stamp: of its image files.
        """
        with temporary_folder(self.root) as folder:  # nnU-Net's writer may leave a second file, named like the first
            write_label(found.labels, folder / self.labels(case).name, self.setup, properties)
            for file in sorted(folder.iterdir()):
                flush_to_disk(file)
                os.replace(file, self.root / file.name)
        images = [(self.map("confidence", case), found.confidence), (self.map("uncertainty", case), found.uncertainty)]
        images += [
            (self.probability(case, k), q[None]) for k, q in enumerate(found.probabilities if found.probabilities is not None else ())
        ]
        for path, channels in images:
            with replacing(path) as temporary:
                write_map(channels[0] if len(channels) == 1 else channels, temporary, properties)
        write_json(self._record_file(case), {"stamp": stamp, "row": row})

    def write_table(self, others: dict[str, str]) -> list[dict[str, Any]]:
        """Write `cases.csv` from all finished cases.

        Args:
            others: cases that could not be predicted, and why.

        Returns:
            The rows, by case id.
        """
        records = [record for path in self._records() if (record := self._record(path.stem)) is not None]
        rows = [record["row"] for record in records if record["row"]["case"] not in others]
        rows += [{"case": case, "review": "yes", "reason": reason} for case, reason in others.items()]
        rows.sort(key=lambda row: str(row["case"]))
        write_csv(self.root / TABLE, (*COLUMNS, *(VOLUME + name for name in self.setup.foreground_names)), rows)
        return rows

    def _records(self) -> list[Path]:
        return sorted((self.root / RECORDS / "cases").glob("*.json"))

    def _record_file(self, case: str) -> Path:
        return self.root / RECORDS / "cases" / f"{case}.json"

    def _record(self, case: str) -> dict[str, Any] | None:
        """What is remembered of a case; None where that is nothing, or damaged."""
        content = read_json_or_none(self._record_file(case)) or {}
        return content if {"stamp", "row"} <= set(content) else None

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
