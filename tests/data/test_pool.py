"""The pool as it is prepared: what makes a case unusable, and what a second call does."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_labels import declare_ignore, partly
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from tiny_setup import DATASET, IDENTIFIER, LABELLED, POOL, Project, digests, label_files, mtimes, phantom, write_image

from nnunet_ssl.data import pool as pool_module
from nnunet_ssl.data import pool_workers
from nnunet_ssl.data.files import TEMPORARY_PREFIX
from nnunet_ssl.data.pool import pool_is_current
from nnunet_ssl.data.pool_index import find_pool, load_pool
from nnunet_ssl.errors import InputError, SetupError, StateError


def leftovers(project: Project) -> list[Path]:
    return [f for f in project.preprocessed.rglob("*") if f.name.startswith(TEMPORARY_PREFIX)]


def pool_folders(project: Project) -> list[Path]:
    return sorted((project.preprocessed / DATASET).glob("*__pool_*"))


# ---- a prepared pool


def test_pool_is_preprocessed_with_the_plans(fresh_project: Project) -> None:
    before = digests(fresh_project.labelled_files())
    pool = fresh_project.prepare_pool()
    assert pool.case_ids == list(pool.images) == POOL
    assert pool.skipped == {}
    assert pool.folder.name == f"{IDENTIFIER}__pool_{fresh_project.setup().data_hash()}"
    assert sorted(f.name for f in pool.folder.iterdir()) == sorted(f"{c}{part}" for c in POOL for part in (".b2nd", "_seg.b2nd", ".pkl"))
    assert infer_dataset_class(str(pool.folder)) is nnUNetDatasetBlosc2
    image, seg, _, _ = nnUNetDatasetBlosc2(str(pool.folder), list(POOL)).load_case("pool_2")
    raw = phantom("pool_2")[0]
    np.testing.assert_allclose(image[:][0], (raw - raw.mean()) / raw.std(), atol=1e-4)
    assert not seg[:].any()
    assert load_pool(fresh_project.setup()) == pool
    assert digests(fresh_project.labelled_files()) == before
    assert leftovers(fresh_project) == []


def test_overlay_and_base_plans_share_the_pool(project: Project) -> None:
    assert load_pool(project.setup("nnUNetPlans")) == load_pool(project.setup())


def test_trainers_find_the_pool(project: Project) -> None:
    setup = project.setup()
    found = find_pool(setup.plans_manager, setup.configuration)
    assert found == load_pool(setup)
    for path in pool_folders(project):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert find_pool(setup.plans_manager, setup.configuration) is None


def test_second_call_does_nothing(fresh_project: Project) -> None:
    first = fresh_project.prepare_pool()
    files = {f: t for f, t in mtimes(fresh_project.preprocessed).items() if Path(f).is_file()}
    assert fresh_project.prepare_pool() == first
    assert {f: t for f, t in mtimes(fresh_project.preprocessed).items() if Path(f).is_file()} == files


def test_changed_image_is_preprocessed_again(fresh_project: Project) -> None:
    folder = fresh_project.prepare_pool().folder
    assert pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    before = mtimes(folder)
    write_image(phantom("pool_1")[0][::-1] * 2, fresh_project.unlabelled / "pool_1_0000.nii.gz")
    assert not pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    fresh_project.prepare_pool()
    changed = {Path(f).name for f, t in mtimes(folder).items() if before[f] != t}
    assert changed == {"pool_1.b2nd", "pool_1_seg.b2nd", "pool_1.pkl"}
    assert pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])


def test_images_that_come_and_go(fresh_project: Project) -> None:
    fresh_project.prepare_pool()
    (fresh_project.unlabelled / "pool_0_0000.nii.gz").rename(fresh_project.unlabelled / "new_0000.nii.gz")
    assert not pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    pool = fresh_project.prepare_pool()
    assert pool.case_ids == ["new", *POOL[1:]]
    assert load_pool(fresh_project.setup()).case_ids == pool.case_ids


def test_pool_of_several_folders(fresh_project: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for case in POOL[3:]:
        (fresh_project.unlabelled / f"{case}_0000.nii.gz").rename(other / f"{case}_0000.nii.gz")
    folders = [fresh_project.unlabelled, other]
    pool = pool_module.prepare_pool(fresh_project.setup(), folders, skip_bad=False, num_processes=1)
    assert pool.case_ids == POOL
    assert pool_is_current(fresh_project.setup(), folders)
    assert not pool_is_current(fresh_project.setup(), folders[:1])
    shutil.copy(fresh_project.unlabelled / "pool_0_0000.nii.gz", other)
    with pytest.raises(InputError, match="case 'pool_0' is in two folders"):
        pool_module.prepare_pool(fresh_project.setup(), folders, skip_bad=True, num_processes=1)


def test_interrupted_preparation_continues(fresh_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    work, seen = pool_workers._work, []

    def interrupted(job: tuple[Any, ...]) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(job[0])
        return work(job)

    monkeypatch.setattr(pool_workers, "_work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fresh_project.prepare_pool()
    assert leftovers(fresh_project) == []
    with pytest.raises(SetupError, match="no pool is prepared"):
        load_pool(fresh_project.setup())
    data, progress = pool_folders(fresh_project)
    assert sorted(f.stem for f in progress.iterdir()) == seen
    before = mtimes(data)
    assert len(before) >= 9
    monkeypatch.setattr(pool_workers, "_work", work)
    assert fresh_project.prepare_pool().case_ids == POOL
    after = mtimes(data)
    assert not progress.exists()
    of_done = [f for f in before if Path(f).name.startswith(tuple(seen))]
    assert {f: after[f] for f in of_done} == {f: before[f] for f in of_done}


def test_cases_that_go_and_come_back_are_not_preprocessed_again(fresh_project: Project, tmp_path: Path) -> None:
    """Two runs that name different folders must not undo each other's work."""
    folder = fresh_project.prepare_pool().folder
    other = tmp_path / "other"
    other.mkdir()
    write_image(phantom("pool_6")[0], other / "pool_6_0000.nii.gz")
    before = mtimes(folder)

    def prepare(*folders: Path) -> list[str]:
        prepared = pool_module.prepare_pool(fresh_project.setup(), folders, skip_bad=False, num_processes=1)
        assert {f: t for f, t in mtimes(folder).items() if f in before} == before
        return prepared.case_ids

    assert prepare(other) == ["pool_6"]
    before = mtimes(folder)
    assert prepare(fresh_project.unlabelled) == POOL
    assert prepare(fresh_project.unlabelled, other) == [*POOL, "pool_6"]
    # neither does it help an image that is another by now
    assert prepare(other) == ["pool_6"]
    write_image(phantom("pool_1")[0][::-1] * 2, fresh_project.unlabelled / "pool_1_0000.nii.gz")
    before = {f: t for f, t in mtimes(folder).items() if not Path(f).name.startswith("pool_1")}
    changed = (folder / "pool_1.b2nd").stat().st_mtime_ns
    assert prepare(fresh_project.unlabelled) == POOL
    assert (folder / "pool_1.b2nd").stat().st_mtime_ns != changed


def test_files_that_are_gone_are_not_set_aside(fresh_project: Project) -> None:
    folder = fresh_project.prepare_pool().folder
    (fresh_project.unlabelled / "pool_0_0000.nii.gz").rename(fresh_project.unlabelled / "new_0000.nii.gz")
    (folder / "pool_0.pkl").unlink()
    fresh_project.prepare_pool()
    (index,) = [f for f in pool_folders(fresh_project) if f.is_file()]
    assert json.loads(index.read_text())["set_aside"] == {}


# ---- bad cases


def spoil(project: Project, kind: str) -> str:
    """Leave two cases in the pool and make one of them unusable; returns its id."""
    for case in POOL[:2] + POOL[4:]:
        (project.unlabelled / f"{case}_0000.nii.gz").unlink()
    folder, image = project.unlabelled, phantom("pool_3")[0]
    path = folder / "pool_3_0000.nii.gz"
    if kind == "channel missing":
        path.rename(folder / "pool_3_0001.nii.gz")
    if kind == "channel too many":
        shutil.copy(path, folder / "pool_3_0001.nii.gz")
    if kind == "unreadable":
        path.write_bytes(b"\x1f\x8b" + b"0" * 100)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    if kind == "empty file":
        path.write_bytes(b"")
    if kind == "all zero":
        write_image(np.zeros_like(image), path)
    if kind == "dangling link":
        path.unlink()
        path.symlink_to(folder / "gone.nii.gz")
    return "pool_3"


KINDS = ["channel missing", "channel too many", "unreadable", "truncated", "empty file", "all zero", "dangling link"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_case_stops_and_leaves_nothing_half_written(fresh_project: Project, kind: str) -> None:
    case = spoil(fresh_project, kind)
    with pytest.raises(InputError, match=f"case '{case}': .*{case}_000.*--skip-bad") as raised:
        fresh_project.prepare_pool()
    assert "\n" not in str(raised.value)
    assert leftovers(fresh_project) == []
    assert [f for folder in pool_folders(fresh_project) if folder.is_dir() for f in folder.glob(f"{case}*")] == []
    with pytest.raises(SetupError, match=r"run: nnssl_prepare -d 137 -c 3d_fullres"):
        load_pool(fresh_project.setup())


@pytest.mark.parametrize("kind", KINDS)
def test_skip_bad_lists_the_case(fresh_project: Project, kind: str) -> None:
    case = spoil(fresh_project, kind)
    pool = fresh_project.prepare_pool(skip_bad=True)
    assert pool.case_ids == ["pool_2"]
    assert list(pool.skipped) == [case]
    assert pool.skipped[case].startswith(f"case '{case}': ")
    assert load_pool(fresh_project.setup()).skipped == pool.skipped
    assert pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_case_that_is_repaired_comes_back(fresh_project: Project, kind: str) -> None:
    case = spoil(fresh_project, kind)
    fresh_project.prepare_pool(skip_bad=True)
    for path in fresh_project.unlabelled.glob(f"{case}_000*"):
        path.unlink()
    write_image(phantom(case)[0], fresh_project.unlabelled / f"{case}_0000.nii.gz")
    assert not pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    pool = fresh_project.prepare_pool()
    assert (pool.case_ids, pool.skipped) == (["pool_2", "pool_3"], {})
    assert pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])


def test_skipped_case_of_an_older_index_is_looked_at_again(fresh_project: Project) -> None:
    """The first form did not say what the images of skipped cases looked like."""
    case = spoil(fresh_project, "unreadable")
    pool = fresh_project.prepare_pool(skip_bad=True)
    (index,) = [f for f in pool_folders(fresh_project) if f.is_file()]
    content = json.loads(index.read_text())
    del content["set_aside"]
    index.write_text(json.dumps({**content, "schema": 1, "skipped": dict(pool.skipped)}))
    assert load_pool(fresh_project.setup()) == pool
    assert not pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    assert fresh_project.prepare_pool(skip_bad=True) == pool
    assert json.loads(index.read_text()) == content | {"set_aside": {}}
    assert pool.skipped[case].startswith(f"case '{case}': ")


def test_case_that_is_also_labelled(fresh_project: Project) -> None:
    shutil.copy(fresh_project.unlabelled / "pool_0_0000.nii.gz", fresh_project.unlabelled / f"{LABELLED[2]}_0000.nii.gz")
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=f"case '{LABELLED[2]}' is in the pool .* and a labelled case of {DATASET}"):
            fresh_project.prepare_pool(skip_bad=skip_bad)


def test_pool_without_any_usable_case(fresh_project: Project) -> None:
    for case in POOL:
        (fresh_project.unlabelled / f"{case}_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match="no usable case is left"):
        fresh_project.prepare_pool(skip_bad=True)
    assert [f for f in pool_folders(fresh_project) if f.is_file()] == []


def test_lost_files_of_a_pool_are_named(project: Project) -> None:
    pool = load_pool(project.setup())
    (pool.folder / "pool_4.pkl").unlink()
    with pytest.raises(StateError, match=r"pool_4\.pkl, preprocessed for the pool, is missing; run nnssl_prepare again"):
        load_pool(project.setup())


def test_damaged_or_newer_index(fresh_project: Project) -> None:
    fresh_project.prepare_pool()
    (index,) = [f for f in pool_folders(fresh_project) if f.is_file()]
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "schema": 3}))
    with pytest.raises(StateError, match="has schema 3, this version reads up to 2; update"):
        load_pool(fresh_project.setup())
    index.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        load_pool(fresh_project.setup())
    assert not pool_is_current(fresh_project.setup(), [fresh_project.unlabelled])
    assert fresh_project.prepare_pool().case_ids == POOL
    assert load_pool(fresh_project.setup()).case_ids == POOL


@pytest.mark.slow
def test_worker_processes(fresh_project: Project) -> None:
    case = spoil(fresh_project, "unreadable")
    pool = fresh_project.prepare_pool(num_processes=2, skip_bad=True)
    assert pool.case_ids == ["pool_2"]
    assert case in pool.skipped
    assert leftovers(fresh_project) == []


class Elsewhere:
    """An engine whose workers have no console of this command."""

    def run(self, work: Any, jobs: Any) -> Any:
        silent = logging.getLogger("nnunet_ssl")
        for case, job in jobs.items():
            silent.disabled = True
            try:
                outcome = pickle.loads(pickle.dumps(work(job)))
            finally:
                silent.disabled = False
            yield case, outcome


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, Elsewhere()], ids=["processes", "engine"])
def test_what_workers_warn_of_is_said_here(project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture, engine: Any) -> None:
    """Two cases of two channels, the second one of case `b` filled with zeros."""
    setup, out = project.setup(), tmp_path / "pre" / "pool"
    out.parent.mkdir()
    (of_one,) = setup.plans["foreground_intensity_properties_per_channel"].values()
    plans = {**setup.plans, "foreground_intensity_properties_per_channel": {"0": of_one, "1": of_one}}
    two = {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2}
    plans["configurations"] = {setup.configuration: {**setup.resolved_configuration(), **two}}
    content = json.dumps({**setup.dataset_json, "channel_names": {"0": "T1", "1": "T2"}})
    jobs = {}
    for case, second in (("a", 1.0), ("b", 0.0)):
        files = [tmp_path / f"{case}_000{channel}.nii.gz" for channel in (0, 1)]
        write_image(phantom(POOL[0])[0], files[0])
        write_image(second * phantom(POOL[1])[0], files[1])
        jobs[case] = (case, [str(file) for file in files], plans, setup.configuration, content, out)
    assert sorted(pool_workers.preprocess_cases(jobs, out, 2, engine)) == [("a", None), ("b", None)]
    (said,) = [record for record in caplog.records if record.name.startswith("nnunet_ssl")]
    assert said.levelno == logging.WARNING
    assert said.getMessage() == (
        f"case 'b': every voxel of {tmp_path / 'b_0001.nii.gz'} is zero; a channel that is missing is labelled as if it were an image"
    )


def test_scribbles_under_the_name_of_an_image(fresh_project: Project) -> None:
    """A label with the ignore label is a label as well."""
    declare_ignore(fresh_project)
    write_image(partly(phantom("pool_0")[1]), fresh_project.unlabelled / "pool_0_0000.nii.gz")
    with pytest.raises(InputError, match=r"pool_0_0000\.nii\.gz holds nothing but label values"):
        pool_module.prepare_pool(fresh_project.setup(), [fresh_project.unlabelled], skip_bad=False, num_processes=1)


def test_labels_beside_the_images_exist(fresh_project: Project) -> None:
    """The set-up of these tests has what must never be read."""
    labels = label_files(fresh_project.unlabelled)
    assert len(labels) == 3 * len(POOL)
    pool = fresh_project.prepare_pool()
    used = {os.path.realpath(f) for files in pool.images.values() for f in files}
    assert used.isdisjoint({os.path.realpath(f) for f in labels})


def test_worker_that_the_system_ends_is_told(fresh_project: Project) -> None:
    """A pool of processes that waits for a lost one would wait for ever."""

    def end_a_worker() -> None:
        while len(workers := multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        time.sleep(0.5)  # they still import PyTorch, but have been given work
        workers[0].kill()

    thread = threading.Thread(target=end_a_worker, daemon=True)
    thread.start()
    with pytest.raises(StateError, match="ended from outside, probably for lack of memory; give the command again with a lower -np"):
        fresh_project.prepare_pool(num_processes=2)
    thread.join()
    assert leftovers(fresh_project) == []
    assert fresh_project.prepare_pool(num_processes=1).case_ids == POOL
