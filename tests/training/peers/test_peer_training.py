"""Real trainings of the four peers, of seconds, on a stage of two labelled and two pool cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from short_training import log, run, same
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.locations import trainers_folder
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.peers.naive_self_training import NaiveSelfTrainingTrainer
from nnunet_ssl.training.peers.peer_student import PeerStudent
from nnunet_ssl.training.peers.uncertainty_aware_mean_teacher import UAMTTrainer
from nnunet_ssl.training.strong_augmentation import PoolOnly
from nnunet_ssl.training.student import SemiSupervisedStudent, TransASPPStudentTrainer

PEERS = [NaiveSelfTrainingTrainer, MeanTeacherTrainer, UAMTTrainer, CrossPseudoSupervisionTrainer]
Settings = Callable[..., dict[str, Any]]


def measured(trainer: Any) -> dict[str, list[Any]]:
    """What the log has of the loss's own terms."""
    return {name: log(trainer)[name] for name in trainer._terms()}


@pytest.mark.parametrize("kind", PEERS)
def test_batch_normalisation_over_several_gpus(tiny: Any, short: Settings, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net synchronises it: a process that predicts a reference would wait for those that have none to predict."""

    def initialized(trainer: Any) -> None:
        trainer.network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.SyncBatchNorm(2))

    trainer = tiny.trainer(kind, settings=short())
    trainer.is_ddp = True
    monkeypatch.setattr(SemiSupervisedStudent, "initialize", initialized)
    refused = kind is not NaiveSelfTrainingTrainer
    with pytest.raises(ConfigError, match=f"{kind.__name__} cannot train a network with batch norm") if refused else nullcontext():
        PeerStudent.initialize(trainer)
    trainer.is_ddp = False
    PeerStudent.initialize(trainer)


@pytest.mark.parametrize("kind", PEERS)
def test_two_epochs(tiny: Any, short: Settings, kind: Any) -> None:
    trainer = run(tiny.trainer(kind, settings=short()))
    assert {len(values) for values in log(trainer).values()} == {2}
    assert {"loss_supervised", "loss_pool"} <= set(measured(trainer))
    assert np.isfinite(list(measured(trainer).values())).all()
    assert log(trainer)["lrs"] == pytest.approx([1e-2, 1e-2 * 0.5**0.9])
    assert sorted(p.name for p in Path(trainer.output_folder).glob("*.pth")) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    text = Path(trainer.log_file).read_text()
    assert "Network derived" in text
    assert '"cutmix": 0.0' in text
    assert f"{kind.__name__} uses these settings of the student and no other: length, init," in text


@pytest.mark.parametrize(
    ("kind", "rise"),
    [
        (MeanTeacherTrainer, [0.1 * math.exp(-5), 0.1 * math.exp(-5 / 4), 0.1]),
        (UAMTTrainer, [0.1 * math.exp(-5), 0.1 * math.exp(-5 / 4), 0.1]),
        (CrossPseudoSupervisionTrainer, [0, 0.75, 1.5]),
    ],
)
def test_weight_of_the_pool_in_a_step(tiny: Any, short: Settings, kind: Any, rise: list[float]) -> None:
    trainer = tiny.trainer(kind, settings=short(iterations=2, student={"ramp_up": 1.0}))
    trainer.initialize()
    training = trainer.get_dataloaders()[0]
    for trainer._step, weight in zip((0, 2, 4), rise, strict=True):
        found = {name: value.item() for name, value in trainer.train_step(next(training)).items()}
        assert found["loss_pool"] > 0
        assert found["loss"] == pytest.approx(found["loss_supervised"] + weight * found["loss_pool"], abs=1e-5)
        assert [found[name] for name in found if name.startswith("pool_weight")] == pytest.approx(
            [weight] * (2 if kind is CrossPseudoSupervisionTrainer else 1)
        )


def test_naive_self_training_has_no_rise_and_none_of_the_pool_while_it_fine_tunes(tiny: Any, short: Settings) -> None:
    tiny.write_sidecar(stage=1, num_stages=1, num_epochs=2)
    trainer = tiny.trainer(NaiveSelfTrainingTrainer, settings=short(student={"ramp_up": 1.0, "fine_tune_epochs": 1}))
    weights = []
    for trainer.current_epoch in range(3):
        weights.append(trainer._ramp())
    assert weights == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", PEERS)
def test_a_share_that_gives_batches_of_one_kind(tiny: Any, short: Settings, kind: Any) -> None:
    tiny.write_sidecar(num_epochs=1)
    for share in (1.0, 0.9, 0.1):
        trainer = run(tiny.trainer(kind, settings=short(iterations=6, student={"labelled_share": share})))
        assert np.isfinite(log(trainer)["train_losses"]).all()


@pytest.mark.parametrize("kind", PEERS)
def test_without_the_means_of_the_student(tiny: Any, short: Settings, kind: Any) -> None:
    settings = short(student={"cutmix": 1.0, "strong_augmentation": True, "ema": True, "ema_decay": 0.5})
    ours = tiny.trainer(TransASPPStudentTrainer, settings=settings)
    peer = tiny.trainer(kind, settings=settings)
    has_strong = []
    for trainer in (ours, peer):
        trainer.initialize()
        training, _ = trainer.get_dataloaders()
        has_strong.append(any(isinstance(t, PoolOnly) for t in training.data_loader.transforms.transforms))
    assert has_strong == [True, False]
    assert (ours._cutmix.probability, peer._cutmix.probability) == (1.0, 0.0)
    assert (peer.average is not None) == issubclass(kind, MeanTeacherTrainer)
    assert peer.average is None or peer.average.decay == 0.99
    assert ours.average.decay == 0.5


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("options", [{"regions": True}, {"dim": 2, "patch": (16, 16)}], ids=["regions", "2d"])
def test_other_kinds_of_data(make_tiny: Any, short: Settings, kind: Any, options: dict[str, Any]) -> None:
    tiny = make_tiny(**options)
    tiny.write_sidecar(num_epochs=1)
    trainer = run(tiny.trainer(kind, settings=short(epochs=1)))
    assert np.isfinite(log(trainer)["train_losses"]).all()
    assert np.isfinite(list(measured(trainer).values())).all()


@pytest.mark.parametrize("kind", PEERS)
def test_continues_from_an_interruption(tiny: Any, short: Settings, kind: Any) -> None:
    tiny.write_sidecar(num_epochs=3)
    before = run(tiny.trainer(kind, settings=short()), until_epoch=2)
    after = tiny.trainer(kind, settings=short())
    maybe_load_checkpoint(after, True, False)
    assert after.current_epoch == 2
    assert same(after.network.state_dict(), before.network.state_dict())
    if before.average is not None:
        assert after.average.num_updates == before.average.num_updates == 4
        assert same(after.average._averaged, before.average._averaged)
    run(after)
    assert {len(values) for values in log(after).values()} == {3}
    assert after._step == 6


@pytest.mark.parametrize("kind", PEERS)
def test_last_stage_fine_tunes_and_distils(tiny: Any, short: Settings, kind: Any) -> None:
    tiny.write_sidecar(num_epochs=1, num_stages=1)
    trainer = run(tiny.trainer(kind, settings=short(student={"fine_tune_epochs": 1, "distillation_epochs": 1})))
    assert {len(values) for values in log(trainer).values()} == {3}
    assert np.isfinite(log(trainer)["loss_supervised"]).tolist() == [True, True, False]
    assert np.isfinite(log(trainer)["loss_pool"]).tolist() == [True, False, False]
    assert np.isfinite(log(trainer)["loss_uncertainty"]).tolist() == [False, False, True]


@pytest.mark.parametrize("kind", PEERS)
def test_starts_where_the_student_would(tiny: Any, short: Settings, kind: Any) -> None:
    student = run(tiny.trainer(TransASPPStudentTrainer, settings=short(epochs=1)))
    file = Path(student.output_folder) / "checkpoint_final.pth"
    tiny.write_sidecar(init="teacher", init_checkpoint=file.relative_to(tiny.results).as_posix())
    trainer = tiny.trainer(kind, settings=short())
    trainer.initialize()
    assert same(trainer.network.state_dict(), load_checkpoint(file)["network_weights"])
    assert trainer.initial_lr == trainer.method.student.warm_lr


@pytest.mark.parametrize("kind", PEERS)
def test_stock_inference(tiny: Any, short: Settings, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    assert recursive_find_trainer_class_by_name(kind.__name__) is kind
    tiny.write_sidecar(num_epochs=1)
    trainer = run(tiny.trainer(kind, settings=short(epochs=1)))
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(Path(trainer.output_folder).parent), (0,))
    with trainer._evaluated_weights():
        assert same(predictor.network.state_dict(), trainer.network.state_dict())
    assert torch.isfinite(predictor.predict_logits_from_preprocessed_data(torch.zeros(1, 16, 16, 16))).all()
