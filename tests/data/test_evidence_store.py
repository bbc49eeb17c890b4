"""Evidence on disk: what comes back, and files that are no evidence of this model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.data import image_fingerprints
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.array_file import fingerprint_of_values

STEP = 1 / 65535


def evidence(
    *, heads: int = 3, regions: bool = False, log_variance: int = 0, seed: int = 0, shape: tuple[int, ...] = (5, 6, 7)
) -> Evidence:
    random = np.random.default_rng(seed)
    mean = random.dirichlet(np.ones(heads), size=shape).transpose(3, 0, 1, 2)
    log = random.uniform(np.log(1e-4), np.log(0.25), size=(log_variance, *shape)) if log_variance else None
    return Evidence(
        mean=mean,
        variance=random.uniform(0, 0.25, size=mean.shape),
        votes=random.integers(0, 9, size=mean.shape) / 8,
        num_samples=8,
        has_regions=regions,
        log_variance=log,
    )


def store(folder: Path, source: str = "model-k8") -> EvidenceStore:
    return EvidenceStore(folder / "evidence", source=source)


@pytest.mark.parametrize(
    "options", [{}, {"log_variance": 1}, {"heads": 2, "regions": True, "log_variance": 2}, {"heads": 1, "regions": True}]
)
def test_round_trip(tmp_path: Path, options: dict[str, Any]) -> None:
    written = evidence(**options)
    store(tmp_path).write("case", written)
    read = store(tmp_path).read("case")
    assert (read.num_samples, read.has_regions) == (8, written.has_regions)
    for name, tolerance in (("mean", STEP), ("variance", STEP / 4), ("votes", STEP)):
        found = getattr(read, name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, getattr(written, name), atol=0.51 * tolerance + 1e-7)
    if written.log_variance is None:
        assert read.log_variance is None
    else:
        assert read.log_variance is not None
        np.testing.assert_allclose(read.log_variance, written.log_variance, atol=1e-4)


def test_certain_probabilities_come_back_exactly(tmp_path: Path) -> None:
    mean = np.zeros((2, 3, 3, 3), np.float32)
    mean[0] = 1
    store(tmp_path).write("case", Evidence(mean=mean, variance=mean / 4, votes=mean, num_samples=8, has_regions=False))
    read = store(tmp_path).read("case")
    assert np.array_equal(read.mean, mean)
    assert np.array_equal(read.votes, mean)
    assert np.array_equal(read.variance, mean / 4)


def test_same_evidence_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store(tmp_path / name).write("case", evidence())
    assert store(tmp_path / "a").path("case").read_bytes() == store(tmp_path / "b").path("case").read_bytes()


def test_evidence_of_background_is_small(tmp_path: Path) -> None:
    mean = np.zeros((3, 32, 32, 32), np.float32)
    mean[0] = 1
    store(tmp_path).write("case", Evidence(mean=mean, variance=mean * 0, votes=mean, num_samples=8, has_regions=False))
    assert store(tmp_path).path("case").stat().st_size < 0.02 * 3 * 3 * 2 * 32**3


def test_has(tmp_path: Path) -> None:
    assert not store(tmp_path).has("case")
    store(tmp_path).write("case", evidence())
    assert store(tmp_path).has("case")
    assert not store(tmp_path, "another-k8").has("case")
    assert not store(tmp_path).has("other")


def test_evidence_is_replaced_whole(tmp_path: Path) -> None:
    store(tmp_path, "first").write("case", evidence(seed=1))
    store(tmp_path, "second").write("case", evidence(seed=2))
    assert not store(tmp_path, "first").has("case")
    np.testing.assert_allclose(store(tmp_path, "second").read("case").mean, evidence(seed=2).mean, atol=STEP)
    assert [f.name for f in (tmp_path / "evidence").iterdir()] == ["case.b2nd"]


def test_broken_numbers_leave_no_file(tmp_path: Path) -> None:
    good = evidence()
    mean = good.mean.copy()
    mean[0, 0, 0, 0] = np.nan
    broken = Evidence(mean=mean, variance=good.variance, votes=good.votes, num_samples=8, has_regions=False)
    with pytest.raises(StateError, match="NaN"):
        store(tmp_path).write("case", broken)
    assert not list(tmp_path.rglob("*.b2nd"))


def test_failure_while_writing_leaves_the_old_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).write("case", evidence(seed=1))
    real = blosc2.asarray

    def fails(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        raise OSError("disk full")

    monkeypatch.setattr(blosc2, "asarray", fails)
    with pytest.raises(OSError, match="disk full"):
        store(tmp_path).write("case", evidence(seed=2))
    monkeypatch.undo()
    np.testing.assert_allclose(store(tmp_path).read("case").mean, evidence(seed=1).mean, atol=STEP)
    assert [f.name for f in (tmp_path / "evidence").iterdir()] == ["case.b2nd"]


# ---- files that cannot be used


def test_missing_evidence(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"evidence of case 'case' is missing .*without --rescore"):
        store(tmp_path).read("case")


def test_evidence_of_another_model(tmp_path: Path) -> None:
    store(tmp_path, "another").write("case", evidence())
    with pytest.raises(StateError, match="comes from another model or version"):
        store(tmp_path).read("case")


def test_evidence_of_a_newer_version(tmp_path: Path) -> None:
    store(tmp_path).write("case", evidence())
    array = blosc2.open(str(store(tmp_path).path("case")), mode="a")
    array.schunk.vlmeta["nnssl"] = {**array.schunk.vlmeta["nnssl"], "schema": 99}
    del array
    with pytest.raises(StateError, match="has schema 99, this version reads up to 1; update nnunet-ssl"):
        store(tmp_path).read("case")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    store(tmp_path).write("case", evidence())
    path = store(tmp_path).path("case")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StateError, match=r"case\.b2nd is damaged .*run nnssl_pseudolabel again"):
        store(tmp_path).read("case")
    assert not store(tmp_path).has("case")


@pytest.mark.parametrize("content", [b"", b"no array at all" * 100])
def test_foreign_file(tmp_path: Path, content: bytes) -> None:
    store(tmp_path).folder.mkdir()
    store(tmp_path).path("case").write_bytes(content)
    assert not store(tmp_path).has("case")
    with pytest.raises(StateError, match="is damaged"):
        store(tmp_path).read("case")


def test_array_without_our_metadata(tmp_path: Path) -> None:
    store(tmp_path).folder.mkdir()
    blosc2.asarray(np.zeros((9, 4, 4, 4), np.uint16), urlpath=str(store(tmp_path).path("case")), mode="w")
    assert not store(tmp_path).has("case")
    with pytest.raises(StateError, match="is damaged"):
        store(tmp_path).read("case")


def save_image(folder: Path, values: Any) -> Path:
    """A preprocessed image as nnU-Net saves it, by several threads and so in another file each time."""
    folder.mkdir(exist_ok=True)
    (folder / "case.b2nd").unlink(missing_ok=True)
    (folder / "case_seg.b2nd").unlink(missing_ok=True)
    nnUNetDatasetBlosc2.save_case(values, np.zeros(values.shape, np.int8), {}, str(folder / "case"), chunks=None, blocks=None)
    return folder / "case.b2nd"


def test_evidence_knows_its_image(tmp_path: Path) -> None:
    """By its values: the file is another each time."""
    values = np.random.default_rng(0).normal(size=(1, 96, 96, 96)).astype(np.float32)
    image = save_image(tmp_path / "images", values)
    made = EvidenceStore(tmp_path / "evidence", source="s", images=image.parent)
    made.write("case", evidence())
    for _ in range(3):
        save_image(image.parent, values)
        assert made.has("case")
        assert not made.is_of_replaced_image("case")
    values[0, 0, 0, 0] += 1
    save_image(image.parent, values)
    assert not made.has("case")
    assert made.is_of_replaced_image("case")
    with pytest.raises(StateError, match="is of an image of case 'case' that was replaced"):
        made.read("case")
    assert EvidenceStore(tmp_path / "evidence", source="s").read("case").num_samples == 8  # a report only looks


def test_images_are_not_read_at_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence of a pool is looked for by every process and in every stage."""
    values = np.zeros((1, 2, 3, 4), np.float32)
    image = save_image(tmp_path / "images", values)
    made = EvidenceStore(tmp_path / "evidence", source="s", images=image.parent)
    made.write("case", evidence())
    reads: list[Path] = []
    monkeypatch.setattr(image_fingerprints, "fingerprint_of_values", lambda path: reads.append(path) or fingerprint_of_values(path))
    assert made.has("case")
    assert made.has("case", reads_image=False)
    assert made.read("case").num_samples == 8
    assert reads == []
    save_image(image.parent, values + 1)
    assert not made.has("case", reads_image=False)
    assert reads == []
    assert not made.has("case")
    assert reads == [image]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    image = save_image(tmp_path / "images", np.zeros((1, 2, 3, 4), np.float32))
    made = EvidenceStore(tmp_path / "evidence", source="s", images=image.parent)
    made.write("case", evidence())
    left = [folder / f"{TEMPORARY_PREFIX}x" for folder in (made.folder, tmp_path / "images__nnssl_fingerprints")]
    for path in left:
        path.touch()
    made.remove_leftovers()
    assert not [path for path in left if path.exists()]
    assert made.has("case")


def test_evidence_that_does_not_say_of_which_image_it_is(tmp_path: Path) -> None:
    image = save_image(tmp_path / "images", np.zeros((1, 2, 3, 4), np.float32))
    EvidenceStore(tmp_path / "evidence", source="s").write("case", evidence())
    made = EvidenceStore(tmp_path / "evidence", source="s", images=image.parent)
    assert (made.has("case"), made.is_of_replaced_image("case")) == (False, False)
