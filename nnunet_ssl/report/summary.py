"""The notice at the top of the page: what a reader wants to know first."""

from __future__ import annotations

from nnunet_ssl.report.collect import RunFacts
from nnunet_ssl.report.validation import Validation

FINAL_MODE = (
    "Fold “all”: every manual label trains, so no validation figure is claimed. Losses and pseudo Dice below are measured on labels that "
    "the networks have learned from; they show that training went well, not how good the model is."
)


def summary(facts: RunFacts) -> str:
    """The newest figures, beside the teacher's, or why there are none."""
    teacher = facts.models[0]
    if not facts.students:
        return f"No stage of the curriculum is written yet: this page shows the teacher alone ({teacher.state})."
    if facts.is_final_mode:
        return FINAL_MODE
    validated = [(student.name.capitalize(), student.validation) for student in facts.students if student.validation is not None]
    if not validated:
        return "No student has been validated yet; figures on the fold's validation cases will appear here."
    (name, validation), use = validated[-1], facts.validation_use
    cases = f"{validation.num_cases} labelled validation cases that {use.seen_by}"
    if validation.mean.dice is None:
        text = f"{name} is validated on {cases}; there is no mean foreground Dice, since no validation case has or predicts "
        return f"{text}{_in_no_case(validation)}. The Dice of each class is below.{use.note}"
    text = f"{name}: mean foreground Dice {validation.mean.dice:.4f} on {cases}"
    return f"{text}{_beside_teacher(validation.mean.dice, teacher.validation)}.{use.note}"


def _beside_teacher(dice: float, teacher: Validation | None) -> str:
    """The teacher's mean foreground Dice beside the student's; empty where it is not validated."""
    if teacher is None:
        return ""
    if teacher.mean.dice is None:
        return f"; the teacher alone has no mean, since it does not predict {_in_no_case(teacher)}, which no validation case has"
    gain = dice - teacher.mean.dice
    return f"; the teacher alone has {teacher.mean.dice:.4f} ({gain:+.4f}), but the student has more optimiser steps behind it"


def _in_no_case(validation: Validation) -> str:
    """Classes (regions) that no validation case has or predicts, so that nnU-Net has neither their Dice nor a mean of all classes."""
    names = [name for name, figures in validation.classes.items() if figures.dice is None]
    return f"the class{'es' if len(names) > 1 else ''} {', '.join(names)}"
