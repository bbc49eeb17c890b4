"""Manual labels of pool cases, corrected or new, that count as labelled from the next stage on."""

from __future__ import annotations

import filecmp
import logging
from pathlib import Path

from tqdm import tqdm

from nnunet_ssl.data.accepted_labels import FOLDER, accepted_files, find_labels, keep_label
from nnunet_ssl.data.files import remove_leftovers
from nnunet_ssl.data.manifest import AcceptedLabel
from nnunet_ssl.errors import InputError, StateError
from nnunet_ssl.locations import raw_root
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.label_image import check_label
from nnunet_ssl.nnunet_api.preprocessing import load_properties
from nnunet_ssl.pseudolabel.run import Run

logger = logging.getLogger(__name__)


def accept(run: Run, folder: Path, *, takes_unchanged: bool = False) -> list[str]:
    """Take the labels of a folder; none is taken unless all are good. A later label of the same case takes the place of the earlier one.

    Args:
        run: the run.
        folder: label images named like pool cases.
        takes_unchanged: whether files may be copies of the run's own pseudo-labels, which somebody has looked at and found right.

    Returns:
        Cases whose label is new, sorted; labels that were accepted before are left alone.

    Raises:
        InputError: if a label does not fit its image, the dataset or the pool, leaves no case to be pseudo-labelled, or is a pseudo-label
            of the run that nobody has changed (unless `takes_unchanged`).
        StateError: if no stage follows that could learn from a new label, or another process writes a stage or changes the run.
    """
    with run.changing():
        return _accept(run, folder, takes_unchanged=takes_unchanged)


def _accept(run: Run, folder: Path, *, takes_unchanged: bool) -> list[str]:
    labels = find_labels(folder, run.setup, set(run.manifest.pool))
    stage = run.next_stage
    new = {case: path for case, path in labels.items() if run.accepted.get(case) != fingerprint(path)}
    _keep_again(run, {case: path for case, path in labels.items() if case not in new})
    if not new:
        return []
    if stage is None:
        raise StateError(
            f"the curriculum of {run.workspace} is complete: no stage follows that could learn from {next(iter(new.values()))}; add the "
            f"label to {run.setup.dataset} and start over."
        )
    if not run.pool_without({*run.accepted, *new}):
        raise InputError(f"{folder} leaves no case of the pool without a manual label; add the labels to {run.setup.dataset} instead.")
    if not takes_unchanged:
        _refuse_unchanged(run, new)
    partial = {case: _is_partial(run, case, path) for case, path in tqdm(new.items(), desc="checking labels")}
    remove_leftovers(run.workspace / FOLDER)
    for case, path in tqdm(new.items(), desc="accepting labels"):
        keep_label(case, path, run.setup, run.pool, run.workspace)
    for case, path in new.items():
        run.manifest.accepted[case] = AcceptedLabel(fingerprint(path), partial[case], stage)
    run.manifest.save(run.workspace)
    logger.info(
        "accepted labels: %d new, %d of them partial; they count as manual from stage %d on", len(new), sum(partial.values()), stage
    )
    return list(new)


def _refuse_unchanged(run: Run, labels: dict[str, Path]) -> None:
    """See that no label is a file of the run's own stages, as it is when a whole folder is copied and a few labels in it are corrected."""
    unchanged = []
    for case, path in labels.items():
        stages = [raw_root() / stage.dataset / "labelsTr" for stage in run.manifest.stages if case in stage.cases]
        written = [stage / f"{case}{run.setup.file_ending}" for stage in stages]
        if any(filecmp.cmp(path, file, shallow=False) for file in written if file.is_file()):
            unchanged.append(path)
    if unchanged:
        raise InputError(
            f"{unchanged[0]} is a pseudo-label of this run that nobody has changed ({len(unchanged)} of {len(labels)} new labels are); "
            "leave out what nobody has checked, or take them as right with --accept-unchanged."
        )


def is_accepted(run: Run, folder: Path) -> bool:
    """Whether every label of a folder is in force already, and kept."""
    labels = find_labels(folder, run.setup, set(run.manifest.pool))
    return all(run.accepted.get(case) == fingerprint(path) and _is_kept(run, case, path) for case, path in labels.items())


def _keep_again(run: Run, labels: dict[str, Path]) -> None:
    """Put back copies of labels in force that were lost from the workspace."""
    for case, path in labels.items():
        if not _is_kept(run, case, path):
            keep_label(case, path, run.setup, run.pool, run.workspace)


def _is_kept(run: Run, case: str, path: Path) -> bool:
    files = accepted_files(run.workspace, case, fingerprint(path), run.setup.file_ending)
    return all(file.is_file() for file in files.all())


def _is_partial(run: Run, case: str, path: Path) -> bool:
    return check_label(case, path, run.setup, load_properties(run.pool.folder, case))
