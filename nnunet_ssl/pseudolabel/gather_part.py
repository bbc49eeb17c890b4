"""One part of the evidence that the next stage needs, for several machines that share the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.machines.engine import Engine
from nnunet_ssl.machines.part import Part
from nnunet_ssl.pseudolabel.grow import gather_all_evidence, labelling_student
from nnunet_ssl.pseudolabel.run import Run


@dataclass(frozen=True)
class PartEvidence:
    """What has evidence once a part is done."""

    stage: int
    """The stage that needs it."""
    num_cases: int
    """Pool cases of the part."""
    missing: list[str]
    """Cases of other parts, of the pool or held out, that lack evidence still."""


def gather_part(run: Run, part: Part, *, device: torch.device, engine: Engine | None = None) -> PartEvidence | None:
    """Gather the evidence of one part of the cases and stop; other processes may do other parts, or this one, at the same time.

    Nothing is ranked or written: that is left to `grow`, which finds what the parts have done and does what is missing.

    Args:
        run: the run.
        part: which cases.
        device: where networks predict.
        engine: whose workers do it; None: this process.

    Returns:
        What is there now; None where no evidence can be gathered, since the newest stage's student is not trained, or needs to be, since
        the curriculum is complete.
    """
    stage = run.next_stage
    if stage is None or (stage > 1 and not run.is_trained(stage - 1)):
        return None
    gather_all_evidence(run, device, run.pseudo_cases, student_stage=labelling_student(run, stage), part=part, engine=engine)
    return PartEvidence(stage, len(part.share(run.pseudo_cases)), missing_evidence(run, stage))


def missing_evidence(run: Run, stage: int) -> list[str]:
    """Cases, of the pool or held out, that lack evidence that a stage needs, sorted; no image is read to know it."""
    pool = list(run.teacher_stores().values())
    if (student := labelling_student(run, stage)) is not None:
        pool.append(run.student_store(student))
    missing = {case for store in pool for case in run.pseudo_cases if not store.has(case, reads_image=False)}
    if uses_held_out(run.method, run.fold):
        held_out = run.held_out_stores()
        missing |= {case for fold, cases in run.held_out_cases.items() for case in cases if not held_out[fold].has(case, reads_image=False)}
    return sorted(missing)
