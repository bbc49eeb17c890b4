"""Evidence of the pool: one case after another, each whole before the next begins, none twice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_setup import POOL, Project, mtimes, open_tiny_run, teacher_store
from torch import Tensor

from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.errors import StateError
from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.swept_evidence import to_evidence
from nnunet_ssl.pseudolabel.grow import gather_teacher_evidence
from nnunet_ssl.pseudolabel.sweep import gather_evidence

CPU = torch.device("cpu")


class Sweeper:
    """Stands in for a predictor: constant probabilities, and a list of what it was asked for."""

    heads, num_samples = 3, 8
    label_manager = SimpleNamespace(has_regions=False)

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.seeds: list[int] = []
        self.stop_after = stop_after

    def sweep(self, image: Tensor, *, seed: int) -> Tensor:
        if len(self.seeds) == self.stop_after:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        assert image.dtype == torch.float32
        p = torch.tensor([0.6, 0.3, 0.1]).reshape(3, 1, 1, 1).expand(3, *image.shape[1:])
        return torch.cat([p, p**2 + 0.01, p])


def gather(project: Project, store: EvidenceStore, sweeper: Any, cases: list[str] | None = None) -> int:
    return gather_evidence(sweeper, load_pool(project.setup()).folder, cases or POOL, store, label="teacher")


def test_every_case_is_swept_once(project: Project, tmp_path: Path) -> None:
    store, sweeper = EvidenceStore(tmp_path / "e", source="s"), Sweeper()
    assert gather(project, store, sweeper) == 6
    assert all(store.has(case) for case in POOL)
    found = store.read("pool_3")
    np.testing.assert_allclose(found.variance, 0.01, atol=1e-5)
    assert found.num_samples == 8
    before = mtimes(tmp_path / "e")
    assert gather(project, store, Sweeper(stop_after=0)) == 0
    assert mtimes(tmp_path / "e") == before


def test_seeds_belong_to_the_case(project: Project, tmp_path: Path) -> None:
    """Evidence is the same whatever was swept before."""
    one, other = Sweeper(), Sweeper()
    gather(project, EvidenceStore(tmp_path / "a", source="s"), one)
    gather(project, EvidenceStore(tmp_path / "b", source="s"), other, ["pool_4"])
    assert len(set(one.seeds)) == 6
    assert other.seeds[0] == one.seeds[4]


def test_interrupted_sweep_continues(project: Project, tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "e", source="s")
    with pytest.raises(KeyboardInterrupt):
        gather(project, store, Sweeper(stop_after=2))
    assert [case for case in POOL if store.has(case)] == POOL[:2]
    (tmp_path / "e" / f"{TEMPORARY_PREFIX}1_pool_2.b2nd").write_bytes(b"half")
    sweeper = Sweeper()
    assert gather(project, store, sweeper) == 4
    assert sorted(f.name for f in (tmp_path / "e").iterdir()) == [f"{c}.b2nd" for c in POOL]


def test_evidence_of_another_model_is_swept_again(project: Project, tmp_path: Path) -> None:
    gather(project, EvidenceStore(tmp_path / "e", source="first"), Sweeper())
    assert gather(project, EvidenceStore(tmp_path / "e", source="second"), Sweeper()) == 6


def test_moments_become_variances() -> None:
    mean = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1)
    second = torch.tensor([0.25**2 - 1e-7, 0.75**2 + 0.5]).reshape(2, 1, 1, 1)  # rounding below, nonsense above
    votes = torch.tensor([0.0, 1.0000001]).reshape(2, 1, 1, 1)
    found = to_evidence(torch.cat([mean, second, votes, torch.full((1, 1, 1, 1), -3.0)]), heads=2, num_samples=1, has_regions=False)
    assert found.variance.ravel().tolist() == [0.0, 0.25]
    assert found.votes.ravel().tolist() == [0.0, 1.0]
    assert found.log_variance is not None
    assert float(found.log_variance.item()) == -3.0
    assert to_evidence(torch.cat([mean, second, votes]), heads=2, num_samples=8, has_regions=False).log_variance is None


def test_teachers_evidence_by_a_real_network(taught_project: Project) -> None:
    """Two cases only; the same bytes whichever comes first, and nothing is loaded when nothing is to be done."""
    run = open_tiny_run(taught_project)
    run.manifest.pool[:] = ["pool_1", "pool_4"]
    gather_teacher_evidence(run, CPU)
    store = teacher_store(run)
    evidence = store.read("pool_1")
    assert evidence.mean.shape == (3, 18, 22, 20)
    assert evidence.num_samples == 8
    np.testing.assert_allclose(evidence.mean.sum(0), 1, atol=1e-3)
    first = store.path("pool_4").read_bytes()
    store.path("pool_4").unlink()
    gather_teacher_evidence(run, CPU)
    assert store.path("pool_4").read_bytes() == first


def test_nothing_is_loaded_when_nothing_is_to_be_done(taught_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_tiny_run(taught_project)
    gather(taught_project, teacher_store(run), Sweeper())
    monkeypatch.setattr(EvidencePredictor, "load_model", lambda *_: pytest.fail("the model was loaded"))
    gather_teacher_evidence(run, CPU)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_predictions_that_are_no_numbers_are_refused_by_name(project: Project, tmp_path: Path, value: float) -> None:
    class Diverged(Sweeper):
        def sweep(self, image: Tensor, *, seed: int) -> Tensor:
            found = super().sweep(image, seed=seed).clone()
            if len(self.seeds) == 2:
                found[1, 0, 0, 0] = value
            return found

    store = EvidenceStore(tmp_path / "e", source="s")
    with pytest.raises(
        StateError, match=r"the teacher predicts NaN or infinite probabilities for case 'pool_1'; look at the image .*pool_1"
    ):
        gather(project, store, Diverged())
    assert [case for case in POOL if store.has(case)] == ["pool_0"]
