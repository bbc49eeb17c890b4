"""Names that look odd and are fine: through the pool, a stage, nnU-Net's own readers of that stage, and a prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    IDENTIFIER,
    OUR_TEACHER,
    PLANS,
    Project,
    grow_stage,
    open_tiny_run,
    phantom,
    teacher_store,
    write_evidence,
    write_image,
)

NAMES = ["-rf", "a b", "café 100%s", "[x]{y}$(z)", "日本", 'it\'s "so"']


@pytest.fixture
def named_project(taught_project: Project, tmp_path: Path) -> Project:
    """The set-up with a pool of odd names."""
    for found in (taught_project.preprocessed / DATASET).glob("*__pool_*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    for number, name in enumerate(NAMES):
        write_image(phantom(f"pool_{number}")[0], tmp_path / "odd" / f"{name}_0000.nii.gz")
    return Project(taught_project.raw, taught_project.preprocessed, taught_project.results, tmp_path / "odd")


def test_odd_names_from_the_pool_to_a_stage(named_project: Project) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    assert named_project.prepare_pool().case_ids == sorted(NAMES)
    run = open_tiny_run(named_project)
    write_evidence(teacher_store(run), NAMES, doubt=lambda case: 0.1, label=lambda case: phantom(f"pool_{NAMES.index(case)}")[1])
    record = grow_stage(run)
    raw = named_project.raw / record.dataset
    listed = get_filenames_of_train_images_and_targets(str(raw), json.loads((raw / "dataset.json").read_text()))
    assert set(record.cases) <= set(listed)
    assert all(Path(file).is_file() for case in listed.values() for file in [*case["images"], case["label"]])
    data = nnUNetDatasetBlosc2(str(named_project.preprocessed / record.dataset / IDENTIFIER), record.cases)
    assert all(data.load_case(case)[0].shape == (1, *phantom("pool_0")[0].shape) for case in record.cases)


def test_odd_names_are_predicted(named_project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from nnunet_ssl.cli.predict import main

    out = tmp_path / "-o %d"
    model = ["-d", "137", "-c", CONFIGURATION, "-p", PLANS, "-f", "0", "-tr", OUR_TEACHER, "-device", "cpu", "--num-samples", "1"]
    assert main([*model, "-i", str(named_project.unlabelled), "-o", str(out)]) == 0
    assert f"predicted now: {len(NAMES)}" in capfd.readouterr().out
    assert sorted(path.name for path in out.glob("*.nii.gz")) == sorted(f"{name}.nii.gz" for name in NAMES)
