"""The report's page, section by section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from nnunet_ssl import __version__
from nnunet_ssl.report import tables
from nnunet_ssl.report.case_panels import CasePanel
from nnunet_ssl.report.collect import RunFacts
from nnunet_ssl.report.elements import definitions, document, figure_element, folded, heading, paragraph, table_element
from nnunet_ssl.report.figure_style import inline_svg
from nnunet_ssl.report.figures import case_scores, training_curves
from nnunet_ssl.report.images_section import images_section
from nnunet_ssl.report.page_style import STYLE
from nnunet_ssl.report.summary import FINAL_MODE, summary

_RANKING = (
    "How well each score orders these cases. Spearman: rank correlation with the true Dice, of the cases that have the score. AURC and "
    "AUGRC: areas under the risk-coverage curve and the generalised one with the loss 1 - Dice, less is better; both are of all held-out "
    "cases with a Dice, those without the score in last place. Of a random order the expectation."
)


def page(facts: RunFacts, panels: Sequence[CasePanel], labels: dict[int, str]) -> str:
    """The whole page.

    Args:
        facts: see `collect`.
        panels: slices to show, none where there are none.
        labels: names of the label values that occur in pseudo-labels.

    Returns:
        HTML that needs no other file and no network.
    """
    body = [
        *_header(facts),
        *_stages(facts),
        *_classes(facts),
        *_curves(facts),
        *_scores(facts),
        *_held_out(facts),
        *images_section(panels, labels, if_none=_why_no_images(facts)),
        *_review(facts),
        *_settings(facts),
        f"<footer>nnunet-ssl {escape(__version__)}. The tables are also in CSV files beside this page.</footer>",
    ]
    return document(f"{facts.dataset}, fold {facts.fold}: {_kind(facts)}", STYLE, body)


def _kind(facts: RunFacts) -> str:
    if facts.control is not None:
        return f"Control: {facts.control}"
    return "nnU-Net run on manual labels alone" if facts.is_on_labels_alone else "Semi-supervised nnU-Net run"


def _header(facts: RunFacts) -> Iterator[str]:
    yield paragraph(_kind(facts), "kind")
    yield f"<h1>{escape(facts.dataset)}, {escape(facts.configuration)}, fold {escape(str(facts.fold))}</h1>"
    yield f'<p class="notice">{escape(summary(facts))}</p>'
    mode = "final (every label trains)" if facts.is_final_mode else f"report ({facts.validation_use.mode})"
    yield definitions(
        {
            "Mode": mode,
            "Progress": _progress(facts),
            "Teacher": _teacher(facts),
            "Student": facts.student_trainer or "not chosen yet",
            "Plans": facts.plans,
            "Manual labels in training": str(facts.labelled_cases),
            "Unlabelled pool": _pool(facts),
            **_accepted(facts),
            "Published for nnUNetv2_predict": "yes" if facts.is_published else "no",
        }
    )


def _teacher(facts: RunFacts) -> str:
    if facts.predictions:
        return f"predictions in {', '.join(facts.predictions)}"
    folds = "" if facts.teacher_folds == (facts.fold,) else f", folds {' '.join(map(str, facts.teacher_folds))}"
    return f"{facts.teacher.trainer}{folds}"


def _pool(facts: RunFacts) -> str:
    if facts.pool_cases is None:
        return "not used yet"
    return f"{facts.pool_cases} cases{', of which no student learns' if facts.is_on_labels_alone else ''}"


def _accepted(facts: RunFacts) -> dict[str, str]:
    """Left out where no label was accepted."""
    if not facts.accepted_cases:
        return {}
    return {"Accepted labels": f"{facts.accepted_cases} of the pool's cases, {facts.partial_cases} of them in part"}


def _progress(facts: RunFacts) -> str:
    trained = sum(model.log is not None and model.log.is_finished for model in facts.students)
    return f"{trained} of {facts.num_stages} students trained"


def _stages(facts: RunFacts) -> Iterator[str]:
    yield heading("Stages")
    if facts.is_final_mode and not facts.students:
        yield paragraph(FINAL_MODE)
    yield table_element(tables.stage_table(facts))
    waiting = facts.num_stages - len(facts.students)
    if waiting:
        yield paragraph(f"{waiting} of {facts.num_stages} stages {'is' if waiting == 1 else 'are'} not written yet.")
    if facts.changed_settings:
        changed = f"Changed on the way of the run: {', '.join(facts.changed_settings)}."
        yield paragraph(f"{changed} The stages differ in that, too; the settings below are those of the newest stage.")
    yield paragraph(
        "Losses and pseudo Dice come from nnU-Net's training log (patches, best epoch); gains are against the row above. Confident voxels "
        "are the share of predicted foreground whose confidence reaches the stage's tau. Changed labels compare with the stage before; the "
        "class that changed most is shown; where more changed than allowed, or the student was worse than the model whose labels were in "
        "force, the labels of the stage before were kept. Minutes count the epochs of training and, for a student, the command that wrote "
        "its stage; labelling that was done before that command (by --audit, by --num_parts, until an interruption) is left out.",
        "soft",
    )


def _held_out(facts: RunFacts) -> Iterator[str]:
    """Left out where held-out cases decide nothing."""
    if facts.held_out is not None:
        yield heading("Held-out cases")
        yield definitions(facts.held_out.entries(facts.class_names))
        yield table_element(tables.ranking_table(facts.held_out))
        yield paragraph(_RANKING, "soft")
        text = "Labelled cases that one of the teachers has not seen. They decided what is listed here, so they are no proof of it."
        if not facts.is_final_mode:
            text += " They are the validation cases of this fold, on which the figures of this page stand."
        yield paragraph(text, "soft")


def _classes(facts: RunFacts) -> Iterator[str]:
    yield heading("Dice and IoU per class")
    if facts.is_final_mode:
        yield paragraph("Left out: with fold “all” there are no cases that the networks have not learned from.")
        return
    validated = [model for model in facts.models if model.validation is not None]
    if not validated:
        yield paragraph("No model of this run has been validated yet.")
        return
    yield table_element(tables.class_comparison(facts))
    missing = [model.name for model in facts.models if model.validation is None]
    cases = ", ".join(sorted({str(m.validation.num_cases) for m in validated if m.validation is not None}))
    note = f"nnU-Net's own final validation on {cases} manually labelled cases of fold {facts.fold}; mean over the cases."
    if any(m.validation.mean.dice is None for m in validated if m.validation is not None):
        note += " A class that no case has or predicts has no figure, and then there is no mean of the classes."
    yield paragraph(note + (f" Not validated yet: {', '.join(missing)}." if missing else ""), "soft")


def _curves(facts: RunFacts) -> Iterator[str]:
    yield heading("Training")
    if all(model.log is None or not model.log.num_epochs for model in facts.models):
        yield paragraph("No checkpoint with a training log is there.")
        return
    svg = inline_svg(lambda: training_curves(facts), name="curves", description="Losses and pseudo Dice over the epochs of all models")
    caption = "Teacher and students one after another, dashed lines between them."
    if len(facts.teacher_folds) > 1:
        caption += f" Of the {len(facts.teacher_folds)} teachers the one of fold {facts.teacher_folds[0]} is shown."
    if not facts.is_on_labels_alone:
        caption += " The student's training loss holds the pool's terms too, so it cannot be compared with the teacher's."
    yield figure_element(svg, caption)


def _scores(facts: RunFacts) -> Iterator[str]:
    yield heading("Case scores of the pool")
    if not facts.ranking:
        yield paragraph("The pool has not been ranked yet.")
        return
    if all(value is None for case in facts.ranking for value in case.scores.values()):
        yield paragraph("No case has a score.")
    else:
        svg = inline_svg(lambda: case_scores(facts), name="scores", description="Histogram and sorted curve of every case score")
        caption = f"The newest ranking; {facts.ranking_score} ranks, the others are for comparison."
        if facts.is_random:
            caption = "The newest order is random: no score ranks, all are for comparison."
        yield figure_element(svg, f"{caption} Above: number of cases per score.")
    yield folded(f"All {len(facts.ranking)} cases", table_element(tables.case_table(facts)))


def _why_no_images(facts: RunFacts) -> str:
    """A sentence in place of the images."""
    if not facts.students:
        return "No stage is written yet."
    if not facts.students[-1].pool_cases:
        return "Left out: the student of this stage learns from manual labels alone."
    return "The images are no longer there."


def _review(facts: RunFacts) -> Iterator[str]:
    yield heading("Cases for review")
    table = tables.review_table(facts)
    if not facts.ranking:
        yield paragraph("The pool has not been ranked yet.")
    elif not table.rows:
        yield paragraph("None: every case of the pool has a score.")
    else:
        yield paragraph("These cases have no score, as a rule because nothing is predicted in them. They come last; please look at them.")
        yield table_element(table)


def _settings(facts: RunFacts) -> Iterator[str]:
    yield heading("Settings")
    table = tables.settings_table(facts)
    changed = [f"{row['setting']} = {row['value']}" for row in table.rows if row["changed"]]
    yield paragraph("Given, other than the defaults: " + "; ".join(changed) + "." if changed else "All given as by default.")
    if facts.decided:
        decided = "; ".join(f"{path} = {tables.plain(value)}" for path, value in facts.decided.items())
        yield paragraph(f"In force at stage {facts.students[-1].stage}: {decided}.")
    yield folded("All settings as given (* differs from the default)", table_element(table))
