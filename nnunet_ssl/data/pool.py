"""The pool: unlabelled images, found, checked and preprocessed once with the labelled dataset's plans."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ssl.data.case_names import name_problem, same_name
from nnunet_ssl.data.files import remove_leftovers, temporary_folder, write_json
from nnunet_ssl.data.image_files import channels_by_case, complete_cases, file_stamp
from nnunet_ssl.data.pool_progress import PoolProgress
from nnunet_ssl.data.pool_size import pool_case_bytes
from nnunet_ssl.disk import require_free
from nnunet_ssl.errors import InputError, NnsslError, SetupError, StateError
from nnunet_ssl.locations import pool_folder, pool_index
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.machines.part import Part
from nnunet_ssl.names import check_names
from nnunet_ssl.nnunet_api.preprocessing import PARTS, preprocess_case, use_one_thread
from nnunet_ssl.nnunet_api.setup import NnunetSetup, read_json
from nnunet_ssl.schemas import schema_of

logger = logging.getLogger(__name__)

SCHEMA = 1


@dataclass(frozen=True)
class PoolIndex:
    """A prepared pool."""

    folder: Path
    """Preprocessed files; one `.b2nd`, `_seg.b2nd` (-1 outside the nonzero mask, else 0) and `.pkl` a case."""
    images: Mapping[str, tuple[str, ...]]
    """Image files of every case, one per channel, by case id in sorted order."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Cases left out with `--skip-bad`, and why."""

    @property
    def case_ids(self) -> list[str]:
        return sorted(self.images)


@dataclass(frozen=True)
class PoolPart:
    """What one part of a pool's preparation has done."""

    folder: Path
    """Preprocessed files, as in `PoolIndex`."""
    ready: list[str]
    """Cases of the part that are preprocessed."""
    new: list[str]
    """Those that were preprocessed now."""
    skipped: Mapping[str, str]
    """Cases of the part left out with `--skip-bad`, and why."""
    num_cases: int
    """Cases in all parts together."""


def find_images(folder: Path, file_ending: str, num_files: int) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Group the images of a folder by case; only names `<case>_NNNN<ending>` count, so label files lying beside them are never touched.

    Args:
        folder: the folder of `-u`.
        file_ending: of the labelled dataset, for instance `.nii.gz`.
        num_files: image files of a case, one per channel (RGB images hold three in one).

    Returns:
        The image files of every complete case, and the reason for every other.

    Raises:
        InputError: if the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; -u takes the folder of unlabelled images.")
    channels, misnamed = channels_by_case(folder, file_ending)
    if not channels and not misnamed:
        raise InputError(f"{folder} holds no image named <case>_0000{file_ending}; the pool would be empty.")
    complete, incomplete = complete_cases(channels, folder, file_ending, num_files)
    return complete, {**misnamed, **incomplete}


def prepare_pool(
    setup: NnunetSetup,
    folders: Sequence[Path],
    *,
    skip_bad: bool,
    num_processes: int,
    progress_bar: bool = True,
    engine: Engine | None = None,
) -> PoolIndex:
    """Check and preprocess the pool; cases that are done already and have not changed are left alone.

    Args:
        setup: the labelled dataset and its plans.
        folders: one or more folders of unlabelled images; together they are the pool.
        skip_bad: leave bad cases out and list them, instead of stopping.
        num_processes: worker processes.
        progress_bar: show one.
        engine: whose workers take the place of those processes.

    Raises:
        InputError: for a bad case (unless `skip_bad`), a case that is also labelled, or an empty pool; nothing half-written stays.
        StateError: if there is not enough space for the cases that are to be preprocessed; nothing is written.
    """
    images, skipped = _collect(setup, folders, skip_bad)
    folder, index_file = _places(setup)
    stamps = {case: file_stamp(files) for case, files in images.items()}
    new, bad = _preprocess(setup, images, stamps, skip_bad, num_processes, progress_bar, engine)
    skipped.update(bad)
    good = {case: files for case, files in images.items() if case not in skipped}
    if not good:
        raise InputError(f"no usable case is left in {', '.join(map(str, folders))}; the pool would be empty.")
    content = {
        "schema": SCHEMA,
        "dataset": setup.dataset,
        "configuration": setup.configuration,
        "folders": [str(f.absolute()) for f in folders],
        "cases": {case: {"images": list(good[case]), "stamp": stamps[case]} for case in sorted(good)},
        "skipped": dict(sorted(skipped.items())),
    }
    if content != _index_content(index_file):
        write_json(index_file, content)
    _progress(setup).forget({*images, *_progress(setup).stamps()})
    logger.info("pool: %d cases in %s (%d new), %d skipped", len(good), folder, len(new), len(skipped))
    return PoolIndex(folder, {c: good[c] for c in sorted(good)}, dict(sorted(skipped.items())))


def prepare_part(
    setup: NnunetSetup,
    folders: Sequence[Path],
    part: Part,
    *,
    skip_bad: bool,
    num_processes: int,
    progress_bar: bool = True,
    engine: Engine | None = None,
) -> PoolPart:
    """Check and preprocess one part of the pool; other processes may do other parts, or this one, at the same time.

    The pool's index is not written: that is left to `prepare_pool`, which finds what the parts have done and does what is missing.

    Args:
        setup: the labelled dataset and its plans.
        folders: the whole pool's, the same for every part.
        part: which of the pool's cases.
        skip_bad: leave bad cases out and list them, instead of stopping.
        num_processes: worker processes.
        progress_bar: show one.
        engine: whose workers take the place of those processes.

    Raises:
        InputError: as `prepare_pool`.
    """
    images, _ = _collect(setup, folders, skip_bad)
    mine = {case: images[case] for case in part.share(list(images))}
    stamps = {case: file_stamp(files) for case, files in mine.items()}
    new, bad = _preprocess(setup, mine, stamps, skip_bad, num_processes, progress_bar, engine)
    return PoolPart(_places(setup)[0], [case for case in mine if case not in bad], new, bad, len(images))


def _preprocess(
    setup: NnunetSetup,
    images: Mapping[str, tuple[str, ...]],
    stamps: Mapping[str, Any],
    skip_bad: bool,
    num_processes: int,
    progress_bar: bool,
    engine: Engine | None,
) -> tuple[list[str], dict[str, str]]:
    """Preprocess the cases that are not done or have changed; returns those done now, and bad ones with the reason."""
    folder, index_file = _places(setup)
    remove_leftovers(folder.parent)
    progress, new, bad = _progress(setup), list[str](), dict[str, str]()
    known = {**_indexed_stamps(index_file), **progress.stamps()}
    todo = [c for c in images if not (_is_whole(folder, c) and known.get(c) == stamps[c])]
    require_free(folder, len(todo) * pool_case_bytes(setup), f"the pool ({len(todo)} cases to be preprocessed)")
    dataset_json = json.dumps(setup.dataset_json)
    jobs = {c: (c, list(images[c]), setup.plans, setup.configuration, dataset_json, folder) for c in todo}
    with closing(_results(jobs, folder, num_processes, progress_bar, engine)) as results:
        for case, problem in results:
            if problem is None:
                progress.add(case, stamps[case])
                new.append(case)
            elif skip_bad:
                bad[case] = problem
            else:
                raise InputError(f"{problem} (or leave bad cases out with --skip-bad)")
    return new, bad


def pool_is_current(setup: NnunetSetup, folders: Sequence[Path]) -> bool:
    """Whether a pool of exactly these folders is prepared, wholly and with nothing left over, and none of its images has changed since."""
    folder, index_file = _places(setup)
    index = _index_content(index_file)
    if index is None or index["folders"] != [str(f.absolute()) for f in folders] or _progress(setup).folder.exists():
        return False
    images, incomplete = _collect(setup, folders, skip_bad=True)
    if set(images) | set(incomplete) != set(index["cases"]) | set(index["skipped"]):
        return False
    return all(_is_whole(folder, case) and file_stamp(images.get(case, ())) == entry["stamp"] for case, entry in index["cases"].items())


def load_pool(setup: NnunetSetup) -> PoolIndex:
    """The pool that `nnssl_prepare` made.

    Raises:
        SetupError: if there is none for these plans.
        StateError: if files of it are gone.
    """
    folder, index_file = _places(setup)
    if not index_file.is_file():
        number = int(setup.dataset[7:10])
        raise SetupError(
            f"no pool is prepared for {setup.dataset} {setup.configuration} ({setup.plans_name}); run: "
            f"nnssl_prepare -d {number} -c {setup.configuration} -p {setup.plans_name} -u FOLDER"
        )
    pool = _read_index(folder, index_file)
    if gone := [path for case in pool.case_ids for part in PARTS if not (path := folder / f"{case}{part}").is_file()]:
        raise StateError(f"{gone[0]}, preprocessed for the pool, is missing; run nnssl_prepare again.")
    return pool


def find_pool(plans_manager: Any, configuration_manager: Any) -> PoolIndex | None:
    """The prepared pool that belongs to plans, or None; for trainers, which hold nnU-Net's managers."""
    configuration = next(
        (n for n in plans_manager.available_configurations if plans_manager.get_configuration(n) is configuration_manager), None
    )
    if configuration is None:
        return None
    dataset_json = read_json(pool_folder(plans_manager.dataset_name, "x", "x").parent / "dataset.json")
    setup = NnunetSetup(plans_manager.dataset_name, plans_manager.plans_name, configuration, plans_manager.plans, dataset_json)
    folder, index_file = _places(setup)
    return _read_index(folder, index_file) if index_file.is_file() else None


def _read_index(folder: Path, index_file: Path) -> PoolIndex:
    content = _checked_index(read_json(index_file), index_file)
    images = {case: tuple(entry["images"]) for case, entry in sorted(content["cases"].items())}
    return PoolIndex(folder, images, content["skipped"])


def _checked_index(content: dict[str, Any], index_file: Path) -> dict[str, Any]:
    """The content of an index that has everything and no strange name.

    Raises:
        StateError: if it does not.
    """
    schema_of(content, SCHEMA, index_file)
    kinds = {"cases": dict, "skipped": dict, "folders": list}
    is_whole = all(isinstance(content.get(key), kind) for key, kind in kinds.items())
    if is_whole:
        check_names(content["cases"], "case id", index_file)
    if not is_whole or not all(_is_sound_entry(case, entry) for case, entry in content["cases"].items()):
        raise StateError(f"{index_file} is damaged: a part of it is missing or of another kind; run nnssl_prepare again.")
    return content


def _is_sound_entry(case: str, entry: Any) -> bool:
    """Whether an entry can be of a case that `find_images` has found."""
    if name_problem(case) is not None or not isinstance(entry, dict) or "stamp" not in entry:
        return False
    images = entry.get("images")
    return isinstance(images, list) and bool(images) and all(isinstance(image, str) for image in images)


def _index_content(index_file: Path) -> dict[str, Any] | None:
    """The index as it stands on disk; None where there is none or it cannot be used."""
    if not index_file.is_file():
        return None
    try:
        return _checked_index(read_json(index_file), index_file)
    except NnsslError:
        return None


def _progress(setup: NnunetSetup) -> PoolProgress:
    """What preparations have finished since the index was written; it is gone once the next one is."""
    return PoolProgress(_places(setup)[1].with_suffix(".progress"))


def _indexed_stamps(index_file: Path) -> dict[str, Any]:
    """What the images of the index's cases looked like."""
    index = _index_content(index_file)
    return {case: entry["stamp"] for case, entry in index["cases"].items()} if index else {}


def _places(setup: NnunetSetup) -> tuple[Path, Path]:
    identifier, data_hash = setup.configuration_manager.data_identifier, setup.data_hash()
    return pool_folder(setup.dataset, identifier, data_hash), pool_index(setup.dataset, identifier, data_hash)


def _collect(setup: NnunetSetup, folders: Sequence[Path], skip_bad: bool) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    images: dict[str, tuple[str, ...]] = {}
    skipped: dict[str, str] = {}
    for folder in folders:
        found, bad = find_images(folder, setup.file_ending, setup.num_files)
        if bad and not skip_bad:
            raise InputError(f"{next(iter(bad.values()))} Complete it, or leave bad cases out with --skip-bad.")
        if twice := _common(found, images):
            case, other = twice
            raise InputError(f"case '{case}' is in two folders ({images[other][0]} and {found[case][0]}); rename one.")
        images.update(found)
        skipped.update(bad)
    if both := _common(images, setup.labelled_cases):
        case, labelled = both
        raise InputError(
            f"case '{case}' is in the pool ({images[case][0]}) and a labelled case of {setup.dataset} ('{labelled}'); remove or rename it."
        )
    return dict(sorted(images.items())), skipped


def _common(cases: Collection[str], others: Collection[str]) -> tuple[str, str] | None:
    """A case that both have, by its names in both; names that differ by case or accents alone are one."""
    known = {same_name(other): other for other in others}
    return next(((case, known[same_name(case)]) for case in sorted(cases) if same_name(case) in known), None)


def _is_whole(folder: Path, case: str) -> bool:
    return all((folder / f"{case}{part}").is_file() for part in PARTS)


def _work(job: tuple[Any, ...]) -> tuple[str, str | None]:
    try:
        preprocess_case(*job)
    except NnsslError as error:
        return job[0], str(error)
    return job[0], None


def _work_elsewhere(job: tuple[Any, ...]) -> str | None:
    """As `_work` on an engine's worker, with a temporary folder of its own: should the worker seem dead, another does the same case."""
    use_one_thread()
    with temporary_folder(job[-1].parent) as temporary:
        return _work((*job, temporary))[1]


def _results(
    jobs: Mapping[str, tuple[Any, ...]], folder: Path, num_processes: int, progress: bool, engine: Engine | None
) -> Generator[tuple[str, str | None], None, None]:
    """Yield (case, problem or None) as cases finish."""
    if engine is None:
        with temporary_folder(folder.parent) as temporary:
            yield from _run([(*job, temporary) for job in jobs.values()], num_processes, progress)
        return
    with closing(engine.run(_work_elsewhere, jobs)) as results:
        yield from tqdm(results, total=len(jobs), desc="preprocessing the pool", disable=not progress or not jobs)
    remove_leftovers(folder.parent)  # of workers that have died


def _run(jobs: Sequence[tuple[Any, ...]], num_processes: int, progress: bool) -> Iterator[tuple[str, str | None]]:
    """Yield (case, problem or None) as cases finish; in this process when one is enough."""
    bar: Callable[..., Any] = tqdm
    if num_processes <= 1 or len(jobs) <= 1:
        yield from bar(map(_work, jobs), total=len(jobs), desc="preprocessing the pool", disable=not progress or not jobs)
        return
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(min(num_processes, len(jobs)), mp_context=context, initializer=use_one_thread)
    try:
        yield from bar(workers.map(_work, jobs), total=len(jobs), desc="preprocessing the pool", disable=not progress)
    except BrokenProcessPool as error:
        raise StateError(
            "a process that preprocesses the pool was ended from outside, probably for lack of memory; give the command again with a lower "
            "-np, what is done is kept."
        ) from error
    finally:
        workers.shutdown(cancel_futures=True)
