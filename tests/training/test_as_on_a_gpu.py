"""What nnU-Net does on every GPU unless told otherwise: torch.compile, half precision, scaled gradients, and DDP with `-num_gpus`.

On a CPU the same code runs with PyTorch's compiler up to the point where it would write kernels. With a GPU, the tests marked `gpu` leave
compiler and half precision as they are. Scales start low, since the first steps from nnU-Net's own overflow and would not count.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from short_training import log, run
from torch import distributed, nn

from nnunet_ssl.networks import unwrap
from nnunet_ssl.nnunet_api.checkpoints import load_checkpoint
from nnunet_ssl.training.peers.cross_pseudo_supervision import CrossPseudoSupervisionTrainer
from nnunet_ssl.training.peers.mean_teacher import MeanTeacherTrainer
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer
from nnunet_ssl.training.teacher import TransASPPTeacherTrainer

Settings = Callable[..., dict[str, Any]]
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
PEERS = [MeanTeacherTrainer, CrossPseudoSupervisionTrainer]
MINUTE = pytest.mark.thorough
"""What else takes a minute, on a CPU that has to follow the compiler through every module."""
LAST_STAGE = {"refresh": 0.5, "fine_tune_epochs": 1, "distillation_epochs": 1, "cutmix": 1.0, "ema_decay": 0.5}


class WatchedScaler(torch.amp.GradScaler):
    """Counts the steps that it let through."""

    def __init__(self, device: str) -> None:
        super().__init__(device, init_scale=256.0)
        self.steps = 0

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
        result = super().step(optimizer, *args, **kwargs)
        after = [p for group in optimizer.param_groups for p in group["params"]]
        self.steps += any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return result


@contextlib.contextmanager
def one_rank(folder: Path, device: str) -> Iterator[None]:
    """A group of one process."""
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], Any]:
    """Lets a trainer do on its device what nnU-Net does on GPUs."""
    torch._dynamo.reset()

    def prepare(trainer: Any, device: str) -> Any:
        trainer.device = torch.device(device)
        trainer.grad_scaler = WatchedScaler(device)
        trainer._do_i_compile = lambda: True
        trainer.seen_by_loss = set()
        if device == "cpu":
            monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
            # nnU-Net's name for no mixed precision, in training and validation steps
            monkeypatch.setattr(stock, "dummy_context", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
            monkeypatch.setattr(stock, "DDP", lambda network, device_ids: nn.parallel.DistributedDataParallel(network))
        trainer.initialize()
        trainer.loss.register_forward_pre_hook(lambda _, outputs: trainer.seen_by_loss.add(outputs[0][0].dtype))
        return trainer

    yield prepare
    torch._dynamo.reset()


def check(trainer: Any, epochs: int, steps: int) -> None:
    """It was compiled, every step was taken in half precision, and what it leaves is finite and of the bare network."""
    inner = trainer.network.module if isinstance(trainer.network, nn.parallel.DistributedDataParallel) else trainer.network
    assert isinstance(inner, torch._dynamo.OptimizedModule)
    assert trainer.seen_by_loss == {torch.bfloat16 if trainer.device.type == "cpu" else torch.float16}
    assert trainer.grad_scaler.steps == steps
    assert len(log(trainer)["train_losses"]) == epochs
    assert np.isfinite(log(trainer)["train_losses"]).all()
    saved = load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")["network_weights"]
    assert saved.keys() == unwrap(trainer.network).state_dict().keys()
    assert all(torch.isfinite(value).all() for value in saved.values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_distributed", [pytest.param(False, id="alone"), pytest.param(True, id="one-rank", marks=MINUTE)])
def test_teacher(tiny: Any, short: Settings, tmp_path: Path, as_on_a_gpu: Any, device: str, is_distributed: bool) -> None:
    settings = short(epochs=1, iterations=3, teacher={"distillation_epochs": 1})
    with one_rank(tmp_path, device) if is_distributed else contextlib.nullcontext():
        trainer = tiny.trainer(TransASPPTeacherTrainer, "Dataset137_Tiny", settings=settings)
        assert trainer.is_ddp == is_distributed
        run(as_on_a_gpu(trainer, device))
    check(trainer, epochs=2, steps=6)
    assert np.isfinite(log(trainer)["loss_uncertainty"][-1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_distributed", [pytest.param(False, id="alone", marks=MINUTE), pytest.param(True, id="one-rank")])
def test_student_through_all_phases(
    tiny: Any, short: Settings, tmp_path: Path, as_on_a_gpu: Any, device: str, is_distributed: bool
) -> None:
    tiny.write_sidecar(stage=2, num_epochs=2)
    settings = short(iterations=3, student=LAST_STAGE)
    with one_rank(tmp_path, device) if is_distributed else contextlib.nullcontext():
        trainer = as_on_a_gpu(tiny.trainer(TransASPPStudentTrainer, settings=settings), device)
        asked, predict = [], trainer._average_prediction
        trainer._average_prediction = lambda images: asked.append(predict(images)) or asked[-1]
        run(trainer)
    check(trainer, epochs=4, steps=12)
    assert len(asked) == 2 * 3 - 1
    assert all(torch.isfinite(probs).all() for probs in asked)
    for name in ("loss_supervised", "loss_high", "loss_low", "unlearning_gradient_ratio"):
        assert np.isfinite(log(trainer)[name][:2]).all(), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "kind",
    [SemiSupervisedStudentTrainer, *(pytest.param(peer, marks=MINUTE) for peer in (MeanTeacherTrainer, CrossPseudoSupervisionTrainer))],
)
def test_other_students(tiny: Any, short: Settings, as_on_a_gpu: Any, device: str, kind: Any) -> None:
    tiny.write_sidecar(num_epochs=1)
    trainer = run(as_on_a_gpu(tiny.trainer(kind, settings=short(epochs=1, iterations=3)), device))
    check(trainer, epochs=1, steps=3)
    if kind is CrossPseudoSupervisionTrainer:
        assert trainer.second.grad_scaler.steps == 3
