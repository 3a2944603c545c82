"""Building blocks of HTML pages: a self-contained document, embedded figures, tables, and escaped text."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

from qra.files import plain
from qra.report.page_style import STYLE
from qra.report.style import Drawing
from qra.report.tables import Table


def document(title: str, parts: Iterable[str]) -> str:
    """Return a complete HTML document.

    Args:
        title: Title, as text.
        parts: Content, as HTML.
    """
    body = "\n".join(filter(None, parts))
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{text(title)}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def figure(drawing: Drawing) -> str:
    """Return a drawing with its title and caption, as HTML."""
    data = base64.b64encode(drawing.svg).decode()
    title = text(drawing.title)
    return (
        f"<figure><h3>{title}</h3><div class='wide'><img alt='{title}' src='data:image/svg+xml;base64,{data}'></div>"
        f"<figcaption>{text(drawing.caption)}</figcaption></figure>"
    )


def table(content: Table, titled: bool = True) -> str:
    """Return a table with its note as HTML, and with its title unless that is shown above it already."""
    title = f"<h3>{text(content.title)}</h3>" if titled else ""
    return f"{title}{content.html()}" + (f"<p class='faint'>{text(content.note)}</p>" if content.note else "")


def text(content: str) -> str:
    """Return text as HTML: one line, escaped."""
    return html.escape(plain(content))
