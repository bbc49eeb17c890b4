"""The manifest: what a run is continued from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.manifest import AcceptedLabel, Manifest, PredictionsRecord, StageRecord
from nnunet_ssl.errors import InputError, StateError


def record(**changes: Any) -> StageRecord:
    return StageRecord(
        **{
            "stage": 1,
            "dataset": "Dataset601_Tiny_f0s1",
            "fraction": 0.5,
            "cases": ["b", "a"],
            "is_last": False,
            "num_epochs": 3,
            "case_score": "pairwise_dice",
            "order": "ranked",
            "tau": 0.7,
            "calibration": None,
            "agreement_weight": 0.0,
            "label_stage": None,
            "kept_previous": False,
            "score_range": (0.25, 0.75),
            "share_confident": 0.5,
            "change": None,
            "seconds": 1.5,
            **changes,
        }
    )


def manifest(**changes: Any) -> Manifest:
    return Manifest(
        **{
            "dataset": "Dataset137_Tiny",
            "configuration": "3d_fullres",
            "plans": "nnUNetPlans",
            "fold": 0,
            "teacher_trainer": "T",
            "teacher_folds": [0],
            "teacher_fingerprint": "abc",
            "student_trainer": "S",
            "pool": ["a", "b"],
            "dataset_ids": [601, 602],
            "method": MethodConfig(),
            "stages": [record(), record(stage=2, score_range=None, change={"rim": 0.1}, label_stage=1)],
            **changes,
        }
    )


def damage(workspace: Path, **changes: Any) -> None:
    path = workspace / "manifest.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def test_round_trip(tmp_path: Path) -> None:
    saved = manifest()
    saved.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded is not None
    assert loaded.stages == saved.stages
    assert (loaded.pool, loaded.dataset_ids, loaded.published) == (saved.pool, saved.dataset_ids, False)
    assert loaded.method == MethodConfig()
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (tmp_path / "manifest.json").read_bytes()


def test_fold_all_stays_a_word(tmp_path: Path) -> None:
    manifest(fold="all", teacher_folds=[0, 1, "all"]).save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded is not None
    assert (loaded.fold, loaded.teacher_folds) == ("all", [0, 1, "all"])


def test_no_run_yet(tmp_path: Path) -> None:
    assert Manifest.load(tmp_path) is None


def test_another_schema(tmp_path: Path) -> None:
    manifest().save(tmp_path)
    damage(tmp_path, schema=5)
    with pytest.raises(StateError, match="has schema 5, this version reads up to 4; update nnunet-ssl"):
        Manifest.load(tmp_path)


def test_schema_1_is_read_as_a_run_without_labels_from_elsewhere(tmp_path: Path) -> None:
    manifest().save(tmp_path)
    stages = json.loads((tmp_path / "manifest.json").read_text())["stages"]
    for stage in stages:
        del stage["accepted"]
    damage(tmp_path, schema=1, predictions=None, accepted=None, stages=stages, groups=None, left_out_groups=None, control=None)
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest()
    assert loaded is not None
    assert (loaded.schema, loaded.predictions, loaded.accepted, loaded.stages[0].accepted) == (4, None, {}, {})


def test_schema_2_is_read_as_a_run_without_groups(tmp_path: Path) -> None:
    saved = manifest(accepted={"b": AcceptedLabel("4567", True, 2)})
    saved.save(tmp_path)
    damage(tmp_path, schema=2, groups=None, left_out_groups=None, control=None)
    loaded = Manifest.load(tmp_path)
    assert loaded == saved
    assert loaded is not None
    assert (loaded.schema, loaded.groups, loaded.left_out_groups) == (4, {}, [])


def test_groups_are_kept(tmp_path: Path) -> None:
    saved = manifest(groups={"a": "north", "b": "south", "lab_0": "west"}, left_out_groups=["west"])
    saved.save(tmp_path)
    assert Manifest.load(tmp_path) == saved


@pytest.mark.parametrize("changes", [{"groups": ["a"]}, {"groups": {"a": 1}}, {"left_out_groups": "north"}, {"left_out_groups": [1]}])
def test_damaged_groups(tmp_path: Path, changes: dict[str, Any]) -> None:
    manifest().save(tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(StateError, match=r"manifest\.json has a damaged entry on groups; restore it or remove"):
        Manifest.load(tmp_path)


def test_labels_from_elsewhere_are_kept(tmp_path: Path) -> None:
    saved = manifest(
        predictions=PredictionsRecord(["/data/a", "/data/b"], "0123", "nnUNetTrainer"),
        accepted={"b": AcceptedLabel("4567", True, 2)},
        stages=[record(accepted={"b": "4567"})],
    )
    saved.save(tmp_path)
    assert Manifest.load(tmp_path) == saved


@pytest.mark.parametrize("changes", [{"accepted": {"a": {"fingerprint": "x"}}}, {"accepted": [1]}, {"predictions": {"nonsense": 1}}])
def test_damaged_labels_from_elsewhere(tmp_path: Path, changes: dict[str, Any]) -> None:
    manifest().save(tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(StateError, match="damaged entry on labels"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(("changes", "named"), [({"pool": None}, "pool"), ({"surplus": 1}, "surplus")])
def test_entries_that_lack_or_are_too_many(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    manifest().save(tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(StateError, match=f"lacks or has in surplus the entry '{named}'"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("stages", [[{"stage": 1}], [{"score_range": None, "nonsense": 1}], [3]])
def test_damaged_stage(tmp_path: Path, stages: list[Any]) -> None:
    manifest().save(tmp_path)
    damage(tmp_path, stages=stages)
    with pytest.raises(StateError, match=r"damaged (stage entry|entry 'stages')"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"pool": None}, {"published": "yes"}, {"method": {"nonsense": 1}}, {"stages": [{"stage": 1}]}, {"accepted": [1]}, {"groups": [1]}],
)
def test_evidence_need_not_go_with_a_damaged_manifest(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Removing the manifest starts a run over; the folder around it holds hours of evidence."""
    manifest().save(tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(StateError) as raised:
        Manifest.load(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'manifest.json'}")
    assert message.lower().endswith("restore it or remove it to start over.")
    assert message.count(str(tmp_path)) == 1


def test_manifest_of_another_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"^\S+manifest\.json is of the fold '0', not of '1'; restore it or remove it to start over\.$"):
        manifest().check_owner(tmp_path, dataset="Dataset137_Tiny", fold=1)


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema": 1')
    with pytest.raises(InputError, match=r"manifest\.json cannot be read as JSON"):
        Manifest.load(tmp_path)
