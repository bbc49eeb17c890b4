"""Room for evidence: by the evidence that a run has, or before there is any by what labelled cases would leave."""

from __future__ import annotations

from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.disk import require_free
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.pseudolabel.typical_size import typical_case_size


def require_evidence_room(run: Run, store: EvidenceStore, num_cases: int, label: str) -> None:
    """See that there is room for the evidence of so many cases.

    Args:
        run: the run.
        store: where it goes.
        num_cases: cases that have none yet.
        label: whose evidence, for the message.

    Raises:
        StateError: if there is not; nothing is written.
    """
    mean = store.mean_bytes() or stored_evidence_bytes(run)
    if mean is None:
        mean = typical_case_size(run.setup, run.method, run.pool).evidence
    require_free(store.folder, num_cases * mean, f"evidence of the {label} ({num_cases} cases)")


def stored_evidence_bytes(run: Run) -> float | None:
    """Mean size of the teacher's evidence of a case of the pool; None where there is none yet."""
    means = [mean for store in run.teacher_stores().values() if (mean := store.mean_bytes()) is not None]
    return sum(means) / len(means) if means else None
