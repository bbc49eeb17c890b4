from __future__ import annotations

import json
from typing import Any

import pytest

from nnunet_ssl.config import SCHEMA
from nnunet_ssl.errors import NnsslError, StateError
from nnunet_ssl.training.stage import read_stage
from nnunet_ssl.training.student import SemiSupervisedStudentTrainer

STAGE = "Dataset901_Tiny_f0s1"


def test_reads_what_the_writer_writes(tiny: Any) -> None:
    tiny.write_sidecar(init="teacher", init_checkpoint="Dataset137_Tiny/x/fold_0/checkpoint_final.pth", workspace="more")
    stage = read_stage(STAGE)
    assert (stage.stage, stage.num_stages, stage.num_epochs, stage.fold) == (1, 2, 2, 0)
    assert not stage.is_last
    assert stage.start_checkpoint == tiny.results / "Dataset137_Tiny/x/fold_0/checkpoint_final.pth"
    assert stage.split(0) == (["lab_0", "lab_1", "pool_0", "pool_1"], ["lab_2"])


def test_from_scratch(tiny: Any) -> None:
    tiny.write_sidecar(init="scratch", init_checkpoint="something", stage=2)
    assert read_stage(STAGE).start_checkpoint is None
    assert read_stage(STAGE).is_last


def test_a_dataset_that_is_no_stage(tiny: Any) -> None:
    with pytest.raises(NnsslError, match=r"^Dataset137_Tiny has no nnssl\.json: this trainer trains on stage datasets, which nnssl_pseudo"):
        tiny.trainer(SemiSupervisedStudentTrainer, "Dataset137_Tiny")
    assert not list(tiny.results.iterdir())


def test_damaged_or_newer(tiny: Any) -> None:
    path = tiny.folder(STAGE) / "nnssl.json"
    for content, message in (
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({"schema": SCHEMA + 1}), "update nnunet-ssl"),
        ("{}", "has schema None"),
    ):
        path.write_text(content)
        with pytest.raises(StateError, match=message):
            read_stage(STAGE)


def test_wrong_fold(tiny: Any) -> None:
    with pytest.raises(StateError, match="written for fold 0, not 1"):
        tiny.trainer(SemiSupervisedStudentTrainer, fold=1)
    with pytest.raises(StateError, match="not all"):
        tiny.trainer(SemiSupervisedStudentTrainer, fold="all")


@pytest.mark.parametrize("where", ["pool_cases", "labelled_cases"])
def test_planted_leak_in_the_sidecar(tiny: Any, where: str) -> None:
    tiny.write_sidecar(**{where: [*tiny.sidecar[where], "lab_2"]})
    with pytest.raises(StateError, match=r"'lab_2' is among the training cases in Dataset901_Tiny_f0s1/nnssl\.json"):
        tiny.trainer(SemiSupervisedStudentTrainer)


def test_planted_leak_in_nnunets_splits(tiny: Any) -> None:
    splits = [{"train": ["lab_0", "lab_2"], "val": ["lab_2"]}]
    (tiny.folder(STAGE) / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(StateError, match=r"splits_final\.json"):
        tiny.trainer(SemiSupervisedStudentTrainer)


def test_leak_planted_after_the_trainer_was_made(tiny: Any, short: Any) -> None:
    trainer = tiny.trainer(SemiSupervisedStudentTrainer, settings=short())
    (tiny.folder(STAGE) / "splits_final.json").write_text(json.dumps([{"train": ["lab_2"], "val": ["lab_2"]}]))
    with pytest.raises(StateError, match="'lab_2'"):
        trainer.do_split()


def test_all_labels_validate_on_the_labelled_cases(tiny: Any) -> None:
    labelled = ["lab_0", "lab_1", "lab_2"]
    tiny.write_sidecar(fold="all", labelled_cases=[*labelled, "accepted_0"], validation_cases=labelled)
    training, validation = read_stage(STAGE).split("all")
    assert training == [*labelled, "accepted_0", "pool_0", "pool_1"]
    assert validation == labelled
