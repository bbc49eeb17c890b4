"""Which cases a draw learns from, has in its pool and is judged on: no case is in two of them, and the ceiling never sees a judged one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hippocampus import CEILING, DATASET, Benchmark

TRAIN, TEST, DEVELOPMENT = [f"case_{i:02d}" for i in range(12)], ["test_0", "test_1"], ["case_02", "case_05", "case_09"]
LABELLED = ["case_00", "case_05", "case_07", "case_11"]
"""One of the development cases is among the draw's labels."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for case in TRAIN + TEST:
            (folder / kind / f"{case}.nii.gz").write_text(f"{kind} of {case}")
    splits = {"train": TRAIN, "test": TEST, "development": DEVELOPMENT, "labelled": {"4": [TRAIN[:4], LABELLED]}}
    (folder / "splits.json").write_text(json.dumps(splits))
    return folder


def benchmark(data: Path, split: str, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """Draw 1 of 4 labels, its datasets written and nnU-Net's commands left out."""

    def call(_bench: Benchmark, command: str, *_flags: object, capture: bool = False) -> str:
        return "trainers" if command == "nnssl_trainers" else ""

    monkeypatch.setattr(Benchmark, "call", call)
    bench = Benchmark(argparse.Namespace(data=data, out=data.parent / "out", labels="4", draw=1, split=split))
    (bench.out / "nnUNet_preprocessed" / bench.dataset_name(CEILING)).mkdir(parents=True)
    bench.set_up()
    return bench


def images(folder: Path) -> set[str]:
    return {path.name.removesuffix("_0000.nii.gz") for path in folder.iterdir()}


def raw(bench: Benchmark, number: int) -> Path:
    return bench.out / "nnUNet_raw" / bench.dataset_name(number)


@pytest.mark.parametrize(
    ("split", "judged", "unlabelled"),
    [
        ("test", set(TEST), set(TRAIN) - set(LABELLED)),
        ("development", {"case_02", "case_09"}, set(TRAIN) - set(LABELLED) - {"case_02", "case_09"}),
    ],
)
def test_no_judged_case_is_learnt_from(data: Path, monkeypatch: pytest.MonkeyPatch, split: str, judged: Any, unlabelled: Any) -> None:
    bench = benchmark(data, split, monkeypatch)
    assert images(bench.out / "test") == set(bench.evaluated) == judged
    assert images(bench.out / "pool") == set(bench.pool) == unlabelled
    assert images(raw(bench, DATASET) / "imagesTr") == set(LABELLED)
    assert images(raw(bench, CEILING) / "imagesTr") == set(TRAIN) - judged


def test_labels_are_those_of_their_images(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark(data, "development", monkeypatch)
    for number, cases in ((DATASET, LABELLED), (CEILING, sorted(set(TRAIN) - {"case_02", "case_09"}))):
        labels = sorted((raw(bench, number) / "labelsTr").iterdir())
        assert [path.read_text() for path in labels] == [f"labels of {case}" for case in cases]
        assert json.loads((raw(bench, number) / "dataset.json").read_text())["numTraining"] == len(cases)
    assert not list((bench.out / "pool").glob("*label*"))
