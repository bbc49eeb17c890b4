"""Dask as engine: a worker that dies loses no case, and what cannot work is said in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import dying_worker
import numpy as np
import pytest
import torch
from tiny_setup import PLANS, POOL, Project, open_tiny_run, teacher_store

from nnunet_ssl.cli.prepare import main as prepare
from nnunet_ssl.cli.pseudolabel import main as pseudolabel
from nnunet_ssl.cli.run import main as run_command
from nnunet_ssl.data.pool_index import load_pool
from nnunet_ssl.data.pool_workers import _work_elsewhere
from nnunet_ssl.errors import ConfigError, InputError, StateError
from nnunet_ssl.machines import dask_engine, local_cluster
from nnunet_ssl.machines.dask_engine import DaskEngine
from nnunet_ssl.machines.engine import engine_at
from nnunet_ssl.pseudolabel.gather import gather_teacher_evidence

CPU = torch.device("cpu")
SUPPORT = str(Path(__file__).resolve().parents[1] / "support")


def test_workers_and_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert DaskEngine("local")._workers == ["0", "1"]
    assert DaskEngine("local:3")._workers == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert DaskEngine("local")._workers == ["2", "5"]
    assert DaskEngine("tcp://node1:8786")._workers is None
    assert DaskEngine("localhost:8786")._workers is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert DaskEngine("local:2")._workers == [None, None]
    with pytest.raises(ConfigError, match="--dask local: there is no GPU, so say how many workers: --dask local:4"):
        DaskEngine("local")
    with pytest.raises(ConfigError, match="there is at least one worker"):
        DaskEngine("local:0")


def test_no_address_is_no_engine() -> None:
    with engine_at(None) as engine:
        assert engine is None


def test_nothing_starts_before_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "local_cluster", lambda *_: pytest.fail("a cluster was started"))
    monkeypatch.setattr(dask_engine, "local_cluster", lambda *_: pytest.fail("a cluster was started"))
    with engine_at("local:2") as engine:
        assert engine is not None
        assert list(engine.run(dying_worker.refuse, {})) == []


@pytest.mark.parametrize(
    ("command", "flags"),
    [(prepare, ["-u", "x"]), (pseudolabel, ["-f", "0", "-device", "cpu"]), (run_command, ["-f", "0", "-device", "cpu"])],
)
def test_dask_that_is_not_installed(
    taught_project: Project, command: Any, flags: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert command(["-d", "137", "-c", "3d_fullres", "-p", PLANS, *flags, "--dask", "local:2"]) == 2
    message = "error: --dask needs Dask, which is not installed; run: pip install '.[dask]' in a checkout of nnunet-ssl\n"
    assert message in capsys.readouterr().err


def test_address_without_a_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_engine, "WAIT_SECONDS", 1)
    engine = DaskEngine("tcp://127.0.0.1:1")
    with engine, pytest.raises(StateError, match=r"--dask tcp://127\.0\.0\.1:1: no Dask scheduler answers there \("):
        list(engine.run(dying_worker.refuse, {"a": 1}))


def test_job_that_ends_every_worker_is_named() -> None:
    from distributed import KilledWorker

    killed = KilledWorker("task", SimpleNamespace(address="tcp://node3:1", host="node3"), 3)

    def result() -> None:
        raise killed

    with pytest.raises(StateError, match=r"^case 'worst': every Dask worker that took it has died, the last on node3, often for lack"):
        DaskEngine("tcp://node1:8786")._result(SimpleNamespace(result=result), "worst")


def values(store: Any, case: str) -> Any:
    """The stored numbers of a case; the file around them depends on how its process cuts arrays into blocks."""
    return blosc2.open(str(store.path(case)), mode="r")[:]


@pytest.mark.thorough
def test_worker_that_dies_loses_no_case(taught_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers; one is killed in the middle of a sweep. The evidence is that of a single process, number by number."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    run, cases, mark = open_tiny_run(taught_project), POOL[1:4], tmp_path / "died"
    store = teacher_store(run)
    gather_teacher_evidence(run, CPU, cases[1:])
    alone = {case: values(store, case) for case in cases[1:]}
    for path in store.folder.iterdir():
        path.unlink()
    with engine_at("local:2") as engine:
        assert isinstance(engine, DaskEngine)
        client = engine._connected()
        client.wait_for_workers(2, timeout=300)
        pids = set(client.run(dying_worker.process).values())
        client.run(dying_worker.die_in_first_sweep, mark)
        gather_teacher_evidence(run, CPU, cases, engine)
        assert mark.exists()
        assert set(client.run(dying_worker.process).values()) != pids
        # expected errors come through as they are
        with pytest.raises(InputError, match=r"^scan is bad; mend it\.$"):
            list(engine.run(dying_worker.refuse, {"a": "scan"}))
        # the same workers preprocess images
        setup, pool = taught_project.setup(), load_pool(taught_project.setup())
        out = taught_project.preprocessed / "elsewhere"
        out.mkdir()
        job = ("pool_1", list(pool.images["pool_1"]), setup.plans, setup.configuration, json.dumps(setup.dataset_json), out)
        ((case, outcome),) = engine.run(_work_elsewhere, {"pool_1": job})
        assert (case, outcome.problem, outcome.warnings) == ("pool_1", None, ())
        assert (out / "pool_1.pkl").read_bytes() == (pool.folder / "pool_1.pkl").read_bytes()
    assert sorted(path.name for path in store.folder.iterdir()) == [f"{case}.b2nd" for case in cases]  # nothing temporary either
    for case, expected in alone.items():
        np.testing.assert_array_equal(values(store, case), expected)
