"""Numbers from nnU-Net's logging dictionary."""

from __future__ import annotations

import math

import numpy as np
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_ssl.report.collect import _without_figures_of_a_fold
from nnunet_ssl.report.training_log import TrainingLog, training_log


def test_best_values_pass_over_nan() -> None:
    log = training_log(
        {"train_losses": [1, 2, 3], "val_losses": [math.nan, 0.5, 0.7], "mean_fg_dice": [0.3, math.nan, 0.2]}, is_finished=True
    )
    assert (log.num_epochs, log.best_val_loss, log.best_pseudo_dice) == (3, 0.5, 0.3)


def test_nothing_measured_has_no_best_value() -> None:
    log = training_log({"val_losses": [math.nan]}, is_finished=False)
    assert (log.best_val_loss, log.best_pseudo_dice, log.minutes, log.num_epochs) == (None, None, 0, 0)


def test_minutes_leave_interruptions_out() -> None:
    stamps = {"epoch_start_timestamps": [0.0, 60.0, 5000.0], "epoch_end_timestamps": [60.0, 90.0]}
    assert training_log(stamps, is_finished=False).minutes == 1.5


def test_lists_are_turned_into_one_series_a_class() -> None:
    content = {"dice_per_class_or_region": [[0.1, np.float32(0.25)], [0.3, 0.5]], "confident_share_per_class": [[1, 2], [3, 4]]}
    log = training_log(content, is_finished=True)
    assert log.class_dice == ((0.1, 0.3), (0.25, 0.5))
    assert log.values == {}


def test_keys_are_those_of_nnunets_logger() -> None:
    keys = {"mean_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses", "epoch_start_timestamps", "epoch_end_timestamps"}
    assert keys <= set(LocalLogger().get_checkpoint())


def test_one_of_several_teachers_shows_what_it_learned_alone() -> None:
    """Its pseudo Dice is of cases that it has not seen, that of the students beside it of cases that they have."""
    log = TrainingLog({"train_losses": (1.0, 0.5), "val_losses": (1.0, 0.7), "mean_fg_dice": (0.1, 0.6)}, ((0.1, 0.6),), True)
    shown = _without_figures_of_a_fold(log)
    assert shown is not None
    assert (dict(shown.values), shown.class_dice, shown.num_epochs) == ({"train_losses": (1.0, 0.5)}, (), 2)
    assert _without_figures_of_a_fold(None) is None
