"""The audit as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from nnunet_ssl.confidence.ranking_proof import RankingChoice
from nnunet_ssl.confidence.ranking_table import ranking_rows
from nnunet_ssl.data.held_out_use import uses_held_out
from nnunet_ssl.locations import AUDIT_FILE
from nnunet_ssl.pseudolabel.audit import RANDOM_ORDER, Audit
from nnunet_ssl.pseudolabel.group_audit import GroupAudit
from nnunet_ssl.pseudolabel.held_out_study import HeldOutStudy
from nnunet_ssl.pseudolabel.run import Run
from nnunet_ssl.run.aligned_text import aligned, number

MOST_SHIFTS = 3
"""Shifts that are named; all are in the file."""


def audit_lines(audit: Audit, run: Run) -> list[str]:
    """Findings line by line, the advice last."""
    lines = [f"audit of {run.setup.dataset}, fold {run.fold}: {len(run.manifest.pool)} pool cases"]
    if audit.accepted:
        lines.append(f"accepted labels: {audit.accepted} of them have manual labels")
    if audit.study is None:
        lines.append("held-out cases: none")
    else:
        lines += _held_out_lines(audit, audit.study, run)
    shifted = [shift for shift in audit.shifts if shift.is_shifted]
    lines.append(f"shift of the pool: {len(shifted)} of {len(audit.shifts)} features differ (p < 0.05 for all together)")
    lines += [
        f"  {shift.feature}: median {shift.labelled_median:.3g} labelled, {shift.pool_median:.3g} pool, p = {shift.p:.2g}"
        for shift in shifted[:MOST_SHIFTS]
    ]
    lines += map(_group_line, audit.groups)
    lines.append(f"advice: {audit.advice}: {audit.reason}")
    if audit.advice == "label first":
        lines.append(f"  label these first: {', '.join(audit.label_first)}")
    lines.append(f"written: {run.workspace / AUDIT_FILE}")
    return lines


def line_after(audits: Sequence[Audit]) -> str:
    """What to type after the audits of a command, one per fold; where one of them does not advise it, that it can be done all the same."""
    start = "next" if all(audit.advice == "go on" for audit in audits) else "to go on all the same"
    order = ", and with --order random" if any(audit.reason.endswith(RANDOM_ORDER) for audit in audits) else ""
    return f"{start}: the same command without --audit{order}"


def _held_out_lines(audit: Audit, study: HeldOutStudy, run: Run) -> Iterator[str]:
    used = "" if uses_held_out(run.method, run.fold) else " (looked at here, they decide nothing)"
    yield f"held-out cases: {len(study.cases)}{used}"
    for name, (dice, count) in audit.dice.items():
        yield f"  {name}: Dice {dice:.3f} ({count} cases){', at risk' if name in audit.at_risk else ''}"
    for fold, names in study.untaught.items():
        yield f"  no training case of fold {fold} has {', '.join(names)}: its teacher cannot find it in the cases that it judges"
    calibration = study.calibration
    if calibration.ece_before is None or calibration.ece_after is None:
        yield f"calibration: {calibration.reason}"
    else:
        before, after = calibration.ece_before, calibration.ece_after
        yield f"calibration error: {before:.3f}; {after:.3f} after calibration, each case by a map fitted to the others"
    yield f"ranking: {study.ranking.proofs[study.ranking.chosen].reason}"
    yield from _ranking_lines(study.ranking)
    if audit.predicted is None:
        yield "predicted Dice of the pool's labels: unknown"
    else:
        predicted = audit.predicted
        yield f"predicted mean Dice of the pool's labels: {predicted.mean:.3f} (95 % interval {predicted.low:.3f} to {predicted.high:.3f})"
        if predicted.num_unscored:
            yield f"  of {predicted.num_cases} cases: in {predicted.num_unscored} nothing was found, about these it says nothing"
        if predicted.num_outside:
            yield f"  {predicted.num_outside} scores lie beyond those of all held-out cases, where the line is extended"


def _ranking_lines(ranking: RankingChoice) -> Iterator[str]:
    """How well each score orders the held-out cases, as a table."""
    lines = [["score", "Spearman", "AURC", "AUGRC"]]
    for row in ranking_rows(asdict(ranking)):
        lines.append([row.name, number(row.spearman, "{:.2f}"), number(row.aurc, "{:.4f}"), number(row.augrc, "{:.4f}")])
    yield from (f"  {line}" for line in aligned(lines).splitlines())


def _group_line(group: GroupAudit) -> str:
    scores = "none" if group.scores is None else "{:.2f}, {:.2f}, {:.2f}".format(*group.scores)
    predicted = group.predicted
    dice = "unknown" if predicted is None else f"{predicted.mean:.3f} ({predicted.low:.3f} to {predicted.high:.3f})"
    shifted = [shift for shift in group.shifts if shift.is_shifted]
    named = f" ({shifted[0].feature}, p = {shifted[0].p:.2g})" if shifted else ""
    return (
        f"group {group.group}: {group.num_cases} cases, quartiles of the score {scores}, predicted Dice {dice}, "
        f"{len(shifted)} of {len(group.shifts)} features differ{named}"
    )
