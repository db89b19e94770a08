"""Pieces of HTML with which results show themselves in a notebook.

They are self-contained (no script, no style sheet, no network), take the notebook's own text
colours, so that they can be read on light and on dark, escape every text that came from outside,
and are bounded: so many rows, so many pictures, so many characters, and a line that says how much
is left out.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from whence.display.cells import Map, pool_map, stretch_map
from whence.display.figure import Panel
from whence.display.heat import overlay, symmetric_limit
from whence.display.picture import (
    Picture,
    data_uri,
    grey,
    is_pixel_art,
    jpeg_bytes,
    png_bytes,
    shrink,
)

__all__ = ["Html", "card", "facts", "note", "strip", "table", "verbatim"]

SIDE = 112
"""Pixels of a thumbnail's longest side."""

MOST_PICTURES = 12
MOST_ROWS = 20
MOST_COLUMNS = 12
MOST_CHARACTERS = 160

_RULE = "1px solid color-mix(in srgb, currentColor 22%, transparent)"
_QUALITY = 80
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@final
class Html(str):
    """Text that is HTML already; every other text is escaped."""

    __slots__ = ()


def card(title: str, *blocks: Html) -> str:
    """A result under its title, as a notebook shows it.

    Args:
        title: What it is; escaped.
        blocks: What :func:`facts`, :func:`table`, :func:`strip` and :func:`note` made.
    """
    return (
        f'<div style="color:inherit;background:transparent;max-width:64rem">'
        f'<p style="margin:0 0 .4em"><strong>{escaped(title)}</strong></p>{"".join(blocks)}</div>'
    )


def facts(pairs: Mapping[str, object]) -> Html:
    """Names with their values in one line; what is empty is left out."""
    parts = [
        f'<span style="opacity:.75">{escaped(name)}</span> {escaped(value)}'
        for name, value in pairs.items()
        if value not in (None, "")
    ]
    return Html(f'<p style="margin:0 0 .6em">{" &#183; ".join(parts)}</p>') if parts else Html()


def note(text: object) -> Html:
    """A paragraph; line breaks are kept."""
    return Html(f'<p style="margin:0 0 .6em;white-space:pre-wrap">{escaped(text, 2000)}</p>')


def verbatim(text: object) -> Html:
    """A text with its line breaks and columns as they are, at most 6 000 characters of it."""
    return Html(f'<pre style="margin:0 0 .6em;overflow-x:auto">{escaped(text, 6000)}</pre>')


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    most: int = MOST_ROWS,
) -> Html:
    """A table; at most 12 columns of it and a few rows, and how many more there are.

    Args:
        head: The columns' names.
        rows: Cells as text or numbers; numbers are set flush right, with three digits.
        title: A line above it.
        most: Rows that are shown.
    """
    shown, wide = rows[:most], min(len(head), MOST_COLUMNS)
    lines = "".join(f"<tr>{''.join(_cell(one) for one in row[:wide])}</tr>" for row in shown)
    heads = "".join(
        f'<th scope="col" style="text-align:left;padding:.15em .6em">{escaped(one)}</th>'
        for one in head[:wide]
    )
    above = f'<caption style="text-align:left">{escaped(title)}</caption>' if title else ""
    return Html(
        f'<table style="color:inherit;background:transparent;border-collapse:collapse;'
        f'margin:0 0 .6em">{above}<thead><tr style="border-bottom:{_RULE}">{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
        f"{_rest(len(rows) - len(shown), 'row')}{_rest(len(head) - wide, 'column')}"
    )


def strip(panels: Sequence[Panel], *, title: str = "", total: int | None = None) -> Html:
    """Pictures above their maps, side by side; at most 12, and how many more there are.

    Each map has its own colour scale, whose end is written below it.

    Args:
        panels: The pictures.
        title: A line above them.
        total: How many there are, if only the first ones were given.
    """
    shown = panels[:MOST_PICTURES]
    tiles = "".join(_tile(one) for one in shown)
    above = f'<p style="margin:0 0 .2em">{escaped(title)}</p>' if title else ""
    count = len(panels) if total is None else total
    return Html(
        f'{above}<div style="display:flex;flex-wrap:wrap;gap:.6em;margin:0 0 .6em">{tiles}</div>'
        f"{_rest(count - len(shown), 'image')}"
    )


def escaped(value: object, most: int = MOST_CHARACTERS) -> Html:
    """A value as text of a page: shortened in its middle, and nothing in it is markup."""
    if isinstance(value, Html):
        return value
    # A file name that is no UTF-8 is shown with its bytes written out.
    text = _NO_TEXT.sub("\ufffd", str(value).encode("utf-8", "backslashreplace").decode())
    if len(text) > most:
        text = f"{text[: most // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - most // 2 + 1 :]}"
    return Html(html.escape(text))


def _cell(value: object) -> str:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    text = f"{value:.3g}" if isinstance(value, float | np.floating) else value
    return (
        f'<td style="text-align:{"right" if number else "left"};padding:.15em .6em">'
        f"{escaped('' if value is None else text)}</td>"
    )


def _rest(count: int, noun: str) -> str:
    if count <= 0:
        return ""
    many = noun if count == 1 else f"{noun}s"
    return f'<p style="margin:0 0 .6em;opacity:.75">and {count} more {many}</p>'


def _tile(panel: Panel) -> str:
    limit = symmetric_limit([pool_map(panel.values)])
    lines = [panel.title, panel.note, f"\N{PLUS-MINUS SIGN}{limit:.2g}"]
    words = "".join(
        f'<div style="overflow-wrap:anywhere;opacity:{share}">{escaped(line, 60)}</div>'
        for line, share in zip(lines, (1, 0.75, 0.75), strict=True)
        if line
    )
    pictures = "".join(
        _thumbnail(one, told)
        for one, told in (
            (_small(panel.picture), panel.title),
            (_mapped(panel.picture, panel.values, limit), f"map of {panel.title}"),
        )
    )
    return (
        f'<figure style="margin:0;width:{SIDE}px">{pictures}'
        f'<figcaption style="font-size:85%;line-height:1.25">{words}</figcaption></figure>'
    )


def _thumbnail(picture: Picture, words: str) -> str:
    exact = is_pixel_art(picture)
    uri = data_uri(png_bytes(picture)) if exact else data_uri(jpeg_bytes(picture, _QUALITY), "jpeg")
    drawn = "image-rendering:pixelated;" if exact else ""
    return (
        f'<img src="{uri}" alt="{escaped(words, 60)}" '
        f'style="{drawn}display:block;width:{SIDE}px;height:auto;max-height:{2 * SIDE}px;'
        f'object-fit:contain;margin:0 0 3px">'
    )


def _small(picture: Picture) -> Picture:
    return picture if is_pixel_art(picture) else shrink(picture, SIDE)


def _mapped(picture: Picture, values: Map, limit: float) -> Picture:
    below = grey(_small(picture))
    cells = pool_map(values)
    if cells.shape != values.shape:
        cells = stretch_map(cells, *below.shape[:2])
    return overlay(below, cells, limit, opacity=0.9)
