"""Files of every form that there has been are read; newer ones are refused in one line. `tests/samples` keeps one of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import pytest

from nnunet_ssl import config, schemas
from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data import evidence_store, manifest, pool_index
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.errors import NnsslError
from nnunet_ssl.locations import AUDIT_FILE, PUBLISHED_MARKER, STAGE_SIDECAR, STUDY_FILE, ModelLocation
from nnunet_ssl.prediction.origin import Origin, find_origin
from nnunet_ssl.prediction.study_files import read_study
from nnunet_ssl.report.held_out import read_held_out
from nnunet_ssl.training.stage import read_stage

SAMPLES = Path(__file__).resolve().parent / "samples"
WORKSPACE = "Dataset137_Tiny/T__P__3d_fullres/fold_0/nnssl"


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str, str], Path]:
    """Puts a sample where its kind of file lies, under that file's own name."""

    def put(sample: str, name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SAMPLES / sample, path)
        return path

    return put


def read_manifest(path: Path) -> Any:
    return Manifest.load(path.parent)


def read_pool(path: Path) -> Any:
    return pool_index.read_index(path.parent, path)


def read_settings(path: Path) -> Any:
    return MethodConfig.from_dict(json.loads(path.read_text()))


READERS: dict[str, tuple[str, Callable[[Path], Any], int]] = {
    "manifest": ("manifest.json", read_manifest, manifest.SCHEMA),
    "pool_index": ("data__pool_1234.json", read_pool, pool_index.SCHEMA),
    "settings": ("section.json", read_settings, config.SCHEMA),
    "held_out": (STUDY_FILE, lambda path: read_held_out(path.parent), schemas.STUDY),
    "audit": (AUDIT_FILE, read_study, schemas.STUDY),
}
"""Kinds of files that need no folders of nnU-Net: their name, their reader, and the newest version."""
OTHERS = {"stage": schemas.SIDECAR, "published": schemas.PUBLISHED, "evidence": evidence_store.SCHEMA}


def samples(kind: str) -> list[str]:
    return sorted(path.name for path in SAMPLES.glob(f"{kind}_[0-9]*"))


def test_there_is_a_sample_of_every_version() -> None:
    newest = {**{kind: reader[2] for kind, reader in READERS.items()}, **OTHERS}
    wanted = {f"{kind}_{version}" for kind, last in newest.items() for version in range(1, last + 1)}
    assert {path.name.removesuffix("_unversioned.json").partition(".")[0] for path in SAMPLES.iterdir()} == wanted


@pytest.mark.parametrize("kind", READERS)
def test_every_version_is_read_as_the_newest(kind: str, place: Any) -> None:
    name, read, _ = READERS[kind]
    for sample in samples(kind):
        assert read(place(sample, name)) is not None, sample


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("schema", "said"), [(99, "has schema 99, this version reads up to {}; update nnunet-ssl."), ("x", "has schema 'x'")]
)
def test_another_version_is_refused(kind: str, place: Any, schema: Any, said: str) -> None:
    name, read, newest = READERS[kind]
    path = place(samples(kind)[-1], name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    with pytest.raises(NnsslError) as caught:
        read(path)
    assert said.format(newest) in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind != "settings":  # whoever reads the plans says where the section stands
        assert str(path) in str(caught.value)


def test_manifests_are_migrated(place: Any) -> None:
    versions = (read_manifest(place(f"manifest_{version}.json", f"{version}/manifest.json")) for version in (1, 2, 3, 4))
    first, second, third, fourth = versions
    assert (first.predictions, first.accepted, first.groups, first.stages[0].accepted) == (None, {}, {}, {})
    assert (second.accepted["b"].stage, second.groups, second.predictions.folders) == (1, {}, ["/data/a"])
    assert third.groups == {"a": "site_1", "b": "site_2"}
    assert (third.control, fourth.groups, fourth.control) == (None, third.groups, None)
    assert {m.schema for m in (first, second, third, fourth)} == {4}


def test_pool_indices_are_migrated(place: Any) -> None:
    old, new = (place(f"pool_index_{version}.json", f"{version}.json") for version in (1, 2))
    assert read_pool(old) == read_pool(new)
    assert (pool_index.indexed_stamps(old), pool_index.indexed_stamps(new)) == (
        {"a": [[1234, 5678]]},
        {"a": [[1234, 5678]], "c": [[4321, 8765]]},
    )


def test_stage(nnunet_environment: Any, place: Any) -> None:
    path = place("stage_1.json", f"nnUNet_preprocessed/Dataset601_Tiny_f0s1/{STAGE_SIDECAR}")
    assert read_stage("Dataset601_Tiny_f0s1").pool_cases == ("a",)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(NnsslError, match=rf"{path} has schema 99, this version reads up to {schemas.SIDECAR}; update nnunet-ssl\."):
        read_stage("Dataset601_Tiny_f0s1")


@pytest.mark.parametrize("sample", samples("published"))
def test_published_model(nnunet_environment: Any, place: Any, sample: str) -> None:
    model = ModelLocation(dataset="Dataset137_Tiny", trainer="S", plans="P", configuration="3d_fullres")
    place("manifest_3.json", f"nnUNet_results/{WORKSPACE}/manifest.json")
    path = place(sample, f"nnUNet_results/{model.dataset}/{model.name}/fold_0/{PUBLISHED_MARKER}")
    assert isinstance(find_origin(model, 0), Origin)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    assert find_origin(model, 0) == f"{path} has schema 99, this version reads up to {schemas.PUBLISHED}; update nnunet-ssl"


def test_evidence(place: Any) -> None:
    path = place("evidence_1.b2nd", "case.b2nd")
    store = EvidenceStore(path.parent, source="abc")
    assert store.read("case").num_samples == 8
    array = blosc2.open(str(path), mode="a")
    array.schunk.vlmeta["nnssl"] = {**array.schunk.vlmeta["nnssl"], "schema": 99}
    del array
    with pytest.raises(NnsslError, match=rf"case\.b2nd has schema 99, this version reads up to {evidence_store.SCHEMA}; update"):
        store.read("case")


def test_plans_name_their_section(staged_project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SCHEMA", 0)
    with pytest.raises(NnsslError, match=r"nnUNetPlans_nnssl_tiny\.json, 3d_fullres: the plans' nnssl section has schema 1, this version"):
        _ = staged_project.setup().method
