"""A step that is left out leaves batch normalisation as it was, too."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from nnunet_ssl.training.running_statistics import RunningStatistics
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer


def test_put_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False))
    statistics = RunningStatistics(network)
    network(torch.randn(3, 1, 8, 8))
    before = copy.deepcopy(network.state_dict())
    statistics.remember()
    network(torch.full((3, 1, 8, 8), torch.nan))
    assert network[1].running_mean.isnan().all()
    statistics.restore()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network[1].num_batches_tracked == 1


def test_a_broken_image_in_a_training(tiny: Any, short: Any) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    trainer.initialize()
    # in front of the network, whose own normalisation has no memory
    first = nn.BatchNorm3d(1, affine=False)
    trainer.network.register_module("first", first)
    trainer.running_statistics = RunningStatistics(trainer.network)
    trainer.network.register_forward_pre_hook(lambda module, inputs: (first(inputs[0]),))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    weights, updates = copy.deepcopy(trainer.network.state_dict()), trainer.average.num_updates
    assert first.num_batches_tracked > 0
    batch = next(trainer.dataloader_train)
    batch["data"][0, 0, 0] = torch.nan
    trainer.train_step(batch)
    assert trainer.finite_steps.skipped == 1
    assert all(torch.equal(value, weights[name]) for name, value in trainer.network.state_dict().items())
    assert trainer.average.num_updates == updates
    trainer.train_step(next(trainer.dataloader_train))
    assert trainer.finite_steps.skipped == 1
    assert trainer.average.num_updates == updates + 1
