"""Write the report of a run: the page and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nnunet_ssl.data.files import remove_leftovers, replacing
from nnunet_ssl.disk import require_free
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.report import tables
from nnunet_ssl.report.case_panels import case_panels, label_names
from nnunet_ssl.report.collect import RunFacts, collect
from nnunet_ssl.report.page import page

PAGE, CLASSES = "report.html", "classes.csv"


class WrittenReport(NamedTuple):
    """What `write_report` has written."""

    facts: RunFacts
    """What it says."""
    page: Path
    tables: tuple[str, ...]
    """Names of the CSV files beside the page."""


def default_folder(facts: RunFacts) -> Path:
    """Where a report is written when nothing else is said: in the run's workspace."""
    return facts.teacher.workspace(facts.fold) / "report"


def write_report(setup: NnunetSetup, fold: int | str, teacher_trainer: str, folder: Path | None = None) -> WrittenReport:
    """Write `report.html` and the tables of a run, finished or not.

    In final mode there is no table of the classes; one that a report in fold mode left in the folder is removed.

    Args:
        setup: the labelled dataset and its plans.
        fold: fold of the run.
        teacher_trainer: class name of the teacher's trainer.
        folder: where to write; None takes `report` in the run's workspace.

    Raises:
        SetupError: if there is nothing to report.
        StateError: if the run's files are damaged, the run was published and a student of it is gone, or there is not enough space; nothing
            is written.
    """
    facts = collect(setup, fold, teacher_trainer)
    folder = folder or default_folder(facts)
    remove_leftovers(folder)
    panels = case_panels(setup, facts)
    labels = label_names(setup, sorted({int(value) for panel in panels for value in panel.labels.ravel()}))
    made = {
        "stages.csv": tables.stage_table(facts),
        "cases.csv": tables.case_table(facts),
        "review.csv": tables.review_table(facts),
        "epochs.csv": tables.epoch_table(facts),
    }
    classes = tables.class_table(facts)
    if not facts.is_final_mode:
        made[CLASSES] = classes
    content = page(facts, panels, labels).encode()
    require_free(folder, len(content), "the report")
    if facts.is_final_mode and classes.is_written_in(folder / CLASSES):
        (folder / CLASSES).unlink()
    for name, table in made.items():
        table.write(folder / name)
    with replacing(folder / PAGE) as temporary:
        temporary.write_bytes(content)
    return WrittenReport(facts, folder / PAGE, tuple(sorted(made)))
