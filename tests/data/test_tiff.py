"""TIFF images, whose spacing nnU-Net reads from `<case>.json` beside image and label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tifffile
from nnunetv2.experiment_planning import verify_dataset_integrity as verify
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from tiny_setup import (
    DATASET,
    LABELLED,
    LABELS,
    POOL,
    Project,
    environment,
    folders,
    grow_stage,
    lay_overlay,
    open_tiny_run,
    phantom,
    plan_and_preprocess,
    teacher_store,
    write_evidence,
    write_teacher,
)

from nnunet_ssl.errors import InputError
from nnunet_ssl.pseudolabel.accept import accept

SPACING = [1.25, 1.0, 1.0]
STAGE = "Dataset601_Tiny_f0s1"


def write_tiff(array: Any, path: Path, spacing_file: Path | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)
    if spacing_file is not None:
        spacing_file.write_text(json.dumps({"spacing": SPACING}))


@pytest.fixture(scope="module")
def built_tiffs(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A set-up of TIFF images with a pool and a teacher."""
    project = folders(tmp_path_factory.mktemp("tiff"))
    raw = project.raw / DATASET
    for case in LABELLED:
        image, label = phantom(case)
        write_tiff(image, raw / "imagesTr" / f"{case}_0000.tif", raw / "imagesTr" / f"{case}.json")
        write_tiff(label, raw / "labelsTr" / f"{case}.tif", raw / "labelsTr" / f"{case}.json")
    content = {"channel_names": {"0": "T1"}, "labels": LABELS, "numTraining": len(LABELLED), "file_ending": ".tif"}
    (raw / "dataset.json").write_text(json.dumps(content))
    for case in POOL:
        write_tiff(phantom(case)[0], project.unlabelled / f"{case}_0000.tif", project.unlabelled / f"{case}.json")
    with environment(project):
        plan_and_preprocess(project)
        lay_overlay(project)
        project.prepare_pool()
        write_teacher()
    return project


@pytest.fixture
def tiffs(built_tiffs: Project, quiet_machine: None) -> Iterator[Project]:
    """`built_tiffs`, named by the environment variables."""
    with environment(built_tiffs):
        yield built_tiffs


def test_stage_with_accepted_labels_is_sound_to_nnunet(tiffs: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_tiny_run(tiffs, settings={"agreement.weight": 0.0})
    assert run.setup.plans["image_reader_writer"] == "Tiff3DIO"
    write_evidence(teacher_store(run), label=lambda case: phantom(case)[1])
    write_tiff(phantom("pool_4")[1], tmp_path / "pool_4.tif", tmp_path / "pool_4.json")
    write_tiff(phantom("pool_5")[1], tmp_path / "pool_5.tif", None)  # a tool that knows nothing of nnU-Net's file
    assert accept(run, tmp_path) == ["pool_4", "pool_5"]
    grow_stage(run)
    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool), Pool=ThreadPool)
    monkeypatch.setattr(verify, "multiprocessing", threads)
    verify.verify_dataset_integrity(str(tiffs.raw / STAGE), num_processes=1)
    stage = tiffs.raw / STAGE / "labelsTr"
    for case in ("lab_0", "pool_0", "pool_4", "pool_5"):
        assert Tiff3DIO().read_seg(str(stage / f"{case}.tif"))[1]["spacing"] == SPACING


def test_label_of_another_spacing(tiffs: Project, tmp_path: Path) -> None:
    run = open_tiny_run(tiffs)
    write_tiff(phantom("pool_3")[1], tmp_path / "pool_3.tif", tmp_path / "pool_3.json")
    (tmp_path / "pool_3.json").write_text(json.dumps({"spacing": [3.0, 1.0, 1.0]}))
    with pytest.raises(InputError, match=r"pool_3\.tif and its image differ in spacing"):
        accept(run, tmp_path)
