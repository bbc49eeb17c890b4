"""The pool: unlabelled images, found, checked and preprocessed once with the labelled dataset's plans."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.case_names import same_name
from nnunet_ssl.data.files import remove_leftovers, write_json
from nnunet_ssl.data.image_files import file_stamp
from nnunet_ssl.data.passed_over import describe_passed_over, passed_over
from nnunet_ssl.data.pool_images import collect_images
from nnunet_ssl.data.pool_index import SCHEMA, PoolIndex, index_content, indexed_stamps, pool_places
from nnunet_ssl.data.pool_progress import PoolProgress
from nnunet_ssl.data.pool_size import pool_case_bytes
from nnunet_ssl.data.pool_workers import preprocess_cases
from nnunet_ssl.disk import require_free
from nnunet_ssl.errors import InputError
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.machines.part import Part
from nnunet_ssl.nnunet_api.preprocessing import PARTS
from nnunet_ssl.nnunet_api.setup import NnunetSetup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolPart:
    """What one part of a pool's preparation has done."""

    folder: Path
    """Preprocessed files, as in `PoolIndex`."""
    ready: list[str]
    """Cases of the part that are preprocessed."""
    new: list[str]
    """Those that were preprocessed now."""
    num_cases: int
    """Cases in all parts together."""


def prepare_pool(
    setup: NnunetSetup,
    folders: Sequence[Path],
    *,
    skip_bad: bool,
    num_processes: int,
    engine: Engine | None = None,
) -> PoolIndex:
    """Check and preprocess the pool; cases that are done already and have not changed are left alone.

    Args:
        setup: the labelled dataset and its plans.
        folders: one or more folders of unlabelled images; together they are the pool.
        skip_bad: leave bad cases out and list them, instead of stopping.
        num_processes: worker processes.
        engine: whose workers take the place of those processes.

    Raises:
        InputError: for a bad case (unless `skip_bad`), a case that is also labelled, or an empty pool; nothing half-written stays.
        StateError: if there is not enough space for the cases that are to be preprocessed; nothing is written.
    """
    images, incomplete = collect_images(setup, folders, skip_bad)
    folder, index_file = pool_places(setup)
    stamps = {case: file_stamp(files) for case, files in images.items()}
    new, bad = _preprocess(setup, images, stamps, skip_bad, num_processes, engine)
    skipped = dict(sorted({**incomplete, **bad}.items()))
    _say_skipped(skipped)
    for place in folders:
        if files := passed_over(place, setup.file_ending):
            logger.warning("%s", describe_passed_over(place, setup.file_ending, files))
    good = {case: files for case, files in images.items() if case not in skipped}
    if not good:
        raise InputError(f"no usable case is left in {', '.join(map(str, folders))}; the pool would be empty.")
    progress = _progress(setup)
    done = progress.stamps()
    content = {
        "schema": SCHEMA,
        "dataset": setup.dataset,
        "configuration": setup.configuration,
        "folders": [str(f.absolute()) for f in folders],
        "cases": {case: {"images": list(files), "stamp": stamps[case]} for case, files in good.items()},
        "skipped": {case: {"reason": reason, "stamp": None if case in incomplete else stamps[case]} for case, reason in skipped.items()},
        "set_aside": _set_aside(folder, good, {**indexed_stamps(index_file), **done}),
    }
    if content != index_content(index_file):
        write_json(index_file, content)
    progress.forget({*images, *done})
    logger.info("pool: %d cases in %s (%d new), %d skipped", len(good), folder, len(new), len(skipped))
    return PoolIndex(folder, good, skipped)


def prepare_part(
    setup: NnunetSetup,
    folders: Sequence[Path],
    part: Part,
    *,
    skip_bad: bool,
    num_processes: int,
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
        engine: whose workers take the place of those processes.

    Raises:
        InputError: as `prepare_pool`.
    """
    images, _ = collect_images(setup, folders, skip_bad)
    mine = {case: images[case] for case in part.share(list(images))}
    stamps = {case: file_stamp(files) for case, files in mine.items()}
    new, bad = _preprocess(setup, mine, stamps, skip_bad, num_processes, engine)
    _say_skipped(bad)
    return PoolPart(pool_places(setup)[0], [case for case in mine if case not in bad], new, len(images))


def _preprocess(
    setup: NnunetSetup,
    images: Mapping[str, tuple[str, ...]],
    stamps: Mapping[str, Any],
    skip_bad: bool,
    num_processes: int,
    engine: Engine | None,
) -> tuple[list[str], dict[str, str]]:
    """Preprocess the cases that are not done or have changed; returns those done now, and bad ones with the reason."""
    folder, index_file = pool_places(setup)
    remove_leftovers(folder.parent)
    progress, new, bad = _progress(setup), list[str](), dict[str, str]()
    known = {**indexed_stamps(index_file), **progress.stamps()}
    todo = [c for c in images if not (_is_whole(folder, c) and known.get(c) == stamps[c])]
    require_free(folder, len(todo) * pool_case_bytes(setup), f"the pool ({len(todo)} cases to be preprocessed)")
    dataset_json = json.dumps(setup.dataset_json)
    jobs = {c: (c, list(images[c]), setup.plans, setup.configuration, dataset_json, folder) for c in todo}
    with closing(preprocess_cases(jobs, folder, num_processes, engine)) as results:
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
    """Whether a pool of exactly these folders is prepared, wholly and with nothing left over, and no image has changed since.

    Images of skipped cases count as well: they may have been repaired.
    """
    folder, index_file = pool_places(setup)
    index = index_content(index_file)
    if index is None or index["folders"] != [str(f.absolute()) for f in folders] or _progress(setup).folder.exists():
        return False
    images, incomplete = collect_images(setup, folders, skip_bad=True)
    now = {**{case: file_stamp(files) for case, files in images.items()}, **dict.fromkeys(incomplete)}
    before = {case: entry["stamp"] for case, entry in (index["cases"] | index["skipped"]).items()}
    return now == before and all(_is_whole(folder, case) for case in index["cases"])


def _set_aside(folder: Path, good: Collection[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """What images of cases that are no longer in the pool looked like, so that their files are used when they come back."""
    names = set(map(same_name, good))
    return {case: stamp for case, stamp in sorted(known.items()) if same_name(case) not in names and _is_whole(folder, case)}


def _say_skipped(skipped: Mapping[str, str]) -> None:
    for case, reason in skipped.items():
        logger.info("skipped %s: %s", case, reason)


def _progress(setup: NnunetSetup) -> PoolProgress:
    """What preparations have finished since the index was written; it is gone once the next one is."""
    return PoolProgress(pool_places(setup)[1].with_suffix(".progress"))


def _is_whole(folder: Path, case: str) -> bool:
    return all((folder / f"{case}{part}").is_file() for part in PARTS)
