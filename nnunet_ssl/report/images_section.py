"""The part of the page that shows slices of cases with their pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from nnunet_ssl.report.case_panels import CasePanel
from nnunet_ssl.report.elements import heading, paragraph
from nnunet_ssl.report.slice_images import (
    CONFIDENCE_MAP,
    DEVIATION_MAP,
    DEVIATION_MAX,
    colour_map,
    data_uri,
    gradient,
    grey_image,
    label_colour,
    overlay,
)


def images_section(panels: Sequence[CasePanel], labels: dict[int, str], *, if_none: str) -> Iterator[str]:
    """Heading, colour keys and one row of slices for every case.

    Args:
        panels: the cases; none where there are none.
        labels: names of the label values that occur in pseudo-labels.
        if_none: sentence that stands where there are no cases.
    """
    yield heading("Pseudo-labels of the newest stage")
    if not panels:
        yield paragraph(if_none)
        return
    present = sorted({int(value) for panel in panels for value in np.unique(panel.labels) if value > 0})
    keys = [f'<span><span class="dot" style="background:{label_colour(v)}"></span>{escape(labels.get(v, str(v)))}</span>' for v in present]
    keys.append(_scale("confidence", CONFIDENCE_MAP, "0", "1"))
    keys.append(_scale("standard deviation of the prediction", DEVIATION_MAP, "0", f"{DEVIATION_MAX:g}"))
    yield f'<div class="keys">{"".join(keys)}</div>'
    yield from map(_panel, panels)
    yield paragraph(
        "Central slice through the predicted foreground, on the network's grid. Grey in the confidence map: nothing is learned there, "
        "since teacher and student disagree or a doubtful label must not be unlearned. Best, median and worst are by score; the number is "
        "the place in the order in which cases enter.",
        "soft",
    )


def _scale(name: str, colours: str, low: str, high: str) -> str:
    return f'<span>{escape(name)} {low}<span class="bar" style="background:{gradient(colours)}"></span>{high}</span>'


def _panel(panel: CasePanel) -> str:
    grey = grey_image(panel.image)
    images = {
        "image (channel 0)": grey,
        "pseudo-label": overlay(grey, panel.labels),
        "confidence": colour_map(panel.confidence, CONFIDENCE_MAP, 1, ignored=panel.ignored),
    }
    if panel.deviation is not None:
        images["uncertainty"] = colour_map(panel.deviation, DEVIATION_MAP, DEVIATION_MAX)
    score = "no score" if panel.score is None else f"score {panel.score:.4f}"
    title = f"<h3>{escape(panel.case)} <span>{panel.place}, number {panel.rank} of the stage, {score}</span></h3>"
    shape = f'style="aspect-ratio:{panel.aspect:.4f}"'
    cells = [f'<div><img alt="{name}" {shape} src="{data_uri(image)}">{name}</div>' for name, image in images.items()]
    if panel.deviation is None:
        cells.append("<div>(no uncertainty: the evidence is no longer there)</div>")
    return f'{title}<div class="slices">{"".join(cells)}</div>'
