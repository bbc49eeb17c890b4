"""How figures look, and how they become SVG inside a page whose text may be dark on light or light on dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, VIOLET, CYAN = "#3b82c4", "#d97f0e", "#22966b", "#d0504c", "#9268cc", "#1fa3b5"
"""Of middle brightness, so that each can be told from white and from black; told apart without red and green, too."""
SERIES = (BLUE, ORANGE, GREEN, VIOLET, RED, CYAN)
GREY = "#8a8f98"
"""Of what is no series: borders, cases that wait, classes without a colour of their own."""

_INK, _GROUND = "#0b0c0d", "#fefdfe"
"""Stand for the page's colours of text and ground until the figure is SVG; no other part may use them."""
_STAGES = LinearSegmentedColormap.from_list("stages", [BLUE, GREEN, "#c99a12", RED])


@contextmanager
def figure_style() -> Iterator[None]:
    """Settings of matplotlib for the report's figures, whatever the user's own; as before afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK),
                **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
                "font.size": 9,
                "axes.titlesize": 10,
                "axes.titlelocation": "left",
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.alpha": 0.15,
                "lines.linewidth": 1.6,
                "legend.facecolor": _GROUND,
                "legend.fontsize": 8,
                "legend.handlelength": 1.4,
                "svg.hashsalt": "nnunet-ssl",
            }
        )
        yield


def stage_colour(stage: int, num_stages: int) -> str:
    """Colour of a stage, from the first (blue) to the last (red)."""
    return to_hex(_STAGES((stage - 1) / max(1, num_stages - 1)))


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: no formulas, and a legend entry even with a leading underscore."""
    escaped = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{escaped}" if escaped.startswith("_") else escaped


def inline_svg(draw: Callable[[], Figure], *, name: str, description: str) -> str:
    """Draw a figure and turn it into an `<svg>` element that needs nothing from outside.

    Args:
        draw: makes the figure; called with the report's style in force.
        name: prefix of the element's ids, which must differ between the figures of one page.
        description: what can be seen, for those who cannot.
    """
    buffer = io.StringIO()
    with figure_style():
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # an HTML page knows both namespaces without their addresses
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(_INK, "currentColor").replace(_GROUND, "var(--ground)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
