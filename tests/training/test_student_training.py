"""Real trainings of both students, of seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ssl.training.student import SemiSupervisedStudentTrainer, TransASPPStudentTrainer


@pytest.mark.parametrize("kind", [TransASPPStudentTrainer, SemiSupervisedStudentTrainer])
def test_two_epochs(tiny: Any, short: Callable[..., dict[str, Any]], kind: Any) -> None:
    trainer = tiny.trainer(kind, settings=short())
    trainer.run_training()
    log = trainer.logger.local_logger.my_fantastic_logging
    assert {len(values) for values in log.values()} == {2}
    assert np.isfinite(log["loss_high"]).all()


def test_dump(tiny, short):
    trainer = tiny.trainer(TransASPPStudentTrainer, settings=short(student={"cutmix": 1.0, "ramp_up": 0}))
    trainer.run_training()
    import json
    print(json.dumps({k: v for k, v in trainer.logger.local_logger.my_fantastic_logging.items()}, default=float, indent=0))
    print(open(trainer.log_file).read()[-3000:])
    import os
    print(os.listdir(trainer.output_folder))
