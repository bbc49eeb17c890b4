"""An adaptive schedule in a run: labels that have settled end the curriculum, with all that is left of the training."""

from __future__ import annotations

from typing import Any

import pytest
from cross_fitted import smaller
from tiny_setup import POOL, Project, grow_stage, open_tiny_run, phantom, teacher_store, write_evidence, write_student

from nnunet_ssl.data.stage_sidecar import read_sidecar
from nnunet_ssl.errors import ConfigError, StateError
from nnunet_ssl.pseudolabel.publish import publish
from nnunet_ssl.run.pipeline import student_epochs

ADAPTIVE = {"curriculum.schedule": "adaptive", "curriculum.fractions": [0.2, 0.4, 0.6, 1.0], "student.length.num_epochs": 8}


def begin(project: Project, **settings: Any) -> Any:
    run = open_tiny_run(project, settings={**ADAPTIVE, **settings})
    write_evidence(teacher_store(run))
    return run


def test_settled_labels_make_the_next_stage_the_last(taught_project: Project) -> None:
    run = begin(taught_project)
    first = grow_stage(run)
    assert (first.fraction, first.num_epochs, first.is_last) == (0.2, 1, False)
    write_student(run, 1)
    write_evidence(run.student_store(1))  # the student says what the teacher says
    second = grow_stage(run)
    assert (second.fraction, second.num_epochs, second.is_last) == (1.0, 7, True)
    assert sorted(second.cases) == POOL
    sidecar = read_sidecar(taught_project.raw / second.dataset)
    assert sidecar is not None
    assert sidecar["num_stages"] == sidecar["stage"] == 2
    assert run.is_complete
    assert run.next_stage is None
    # one epoch of distillation follows the last stage
    assert student_epochs(run, 2) == 8
    with pytest.raises(StateError, match="complete: 2 stages are written"):
        grow_stage(run)
    write_student(run, 2)
    assert publish(run).checkpoint(0).is_file()


def share_removed(before: int, after: int) -> float:
    """Foreground voxels of all pool cases that are lost with more planes missing, over those that there were."""
    had, has = (sum(int((smaller(phantom(case)[1], planes) > 0).sum()) for case in POOL) for planes in (before, after))
    return (had - has) / had


def test_fraction_follows_the_change_of_the_labels(taught_project: Project) -> None:
    """The student has the larger share and misses more planes at every stage, so that the labels lose what it misses."""
    run = begin(taught_project, **{"agreement.weight": 0.6, "agreement.max_change": 0.5})
    fraction, step = grow_stage(run).fraction, (1.0 - 0.2) / 3
    for stage, (before, missing) in enumerate([(0, 3), (3, 5)], start=2):
        write_student(run, stage - 1)
        write_evidence(run.student_store(stage - 1), label=lambda case, m=missing: smaller(phantom(case)[1], m), doubt=lambda _: 0.1)
        change = share_removed(before, missing)
        assert 0.05 < change < 0.375  # between settled and the slowest pace
        fraction += 2 * (1 - change / 0.5) * step
        record = grow_stage(run)
        assert record.fraction == pytest.approx(fraction)
        assert not record.is_last
    assert 0.6 < fraction < 1  # not the third of the fixed schedule


def test_without_refined_labels_there_is_nothing_to_follow(taught_project: Project) -> None:
    with pytest.raises(ConfigError, match="an adaptive schedule follows how much refined labels change"):
        begin(taught_project, **{"agreement.weight": 0.0})


def test_order_without_the_most_confident_cases(taught_project: Project) -> None:
    settings = {"curriculum.order": "drop-most-confident", "curriculum.dropped_share": 0.34, "curriculum.schedule": "fixed"}
    run = begin(taught_project, **settings, **{"curriculum.fractions": [1.0]})
    record = grow_stage(run)
    assert record.cases == POOL[2:]
    rows = (run.workspace / "ranking_1.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == [*POOL[2:], *POOL[:2]]
