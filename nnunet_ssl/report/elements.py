"""Pieces of HTML; every text that comes from outside goes through `html.escape`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from nnunet_ssl.report.table import Table


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, of a class of the style sheet where one is given."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table_element(table: Table) -> str:
    """A table that scrolls sideways where the page is too narrow."""
    classes = [' class="text"' if column.is_text else "" for column in table.shown]
    head = "".join(f"<th{c}>{escape(column.heading)}</th>" for c, column in zip(classes, table.shown, strict=True))
    rows = ("".join(f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True)) for row in table.cells())
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(summary: str, content: str) -> str:
    """Content that opens at a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figure_element(content: str, caption: str) -> str:
    """A figure (HTML of ours, not escaped) with its caption."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def definitions(entries: Mapping[str, str]) -> str:
    """Names and values as cards."""
    return "<dl>" + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries.items()) + "</dl>"


def document(title: str, style: str, body: Sequence[str]) -> str:
    """A whole page. Its policy lets browsers load nothing, not even if something had slipped in."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
