"""How far a training is, read from nnU-Net's log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.locations import ModelLocation
from nnunet_ssl.run.training_progress import epoch_of, training_progress

MODEL = ModelLocation(dataset="Dataset601_Tiny_f0s1", trainer="T", plans="P", configuration="3d_fullres")
EPOCH = "2026-11-30 20:01:27.139895: Epoch {} \n2026-11-30 20:01:28.0: train_loss -0.5 \n"


def written(name: str, text: str, minute: int) -> Path:
    folder = MODEL.fold_folder(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    os.utime(folder / name, (1_800_000_000 + 60 * minute,) * 2)
    return folder / name


@pytest.mark.parametrize(
    ("line", "epoch"),
    [
        ("2026-11-30 20:01:27.139895: Epoch 12 ", 12),
        ("Epoch 0", 0),
        ("2026-11-30 20:01:27.1: Epoch time: 47.04 s", None),
        ("Epoch 12 of 30", None),
        ("", None),
    ],
)
def test_lines_that_begin_an_epoch(line: str, epoch: int | None) -> None:
    assert epoch_of(line) == epoch


def test_epochs_of_the_newest_log(nnunet_environment: Any) -> None:
    assert training_progress(MODEL, 0, 30) is None
    written("training_log_2026_11_30_20_00_00.txt", EPOCH.format(0) + EPOCH.format(28), minute=0)
    newest = written("training_log_2026_11_30_19_00_00.txt", EPOCH.format(3) + "x" * 30 + "\n" + EPOCH.format(4), minute=5)
    said = training_progress(MODEL, 0, 30)
    assert said is not None
    assert said.startswith("4 of 30 epochs done, its log last written 2027-01-")
    assert training_progress(MODEL, 0, None) == said.replace(" of 30", "")
    written(newest.name, "#######\nPlease cite the following paper\n", minute=5)
    assert str(training_progress(MODEL, 0, 30)).startswith("begun, its log last written")


def test_long_logs_are_read_from_their_end(nnunet_environment: Any) -> None:
    text = "".join(EPOCH.format(number) for number in range(2000))
    assert len(text) > 1 << 16
    written("training_log_2026.txt", text, minute=0)
    assert str(training_progress(MODEL, 0, 2500)).startswith("1999 of 2500 epochs done")


def test_a_final_checkpoint_leaves_the_validation(nnunet_environment: Any) -> None:
    written("training_log_2026.txt", EPOCH.format(29), minute=0)
    written("checkpoint_final.pth", "", minute=1)
    assert training_progress(MODEL, 0, 30) == "trained, its final validation is to do"
