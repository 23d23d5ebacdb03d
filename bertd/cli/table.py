"""Aligned columns of plain text."""

import unicodedata
from collections.abc import Sequence

GAP = "   "


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of equal columns, the last one ragged; empty cells become `-`."""
    lines = [list(header), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(GAP.join(map(_pad, line, widths)).rstrip() for line in lines)


def width(text: str) -> int:
    """Columns that a terminal needs for a text: wide characters need two, accents none."""
    return sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """The text in at most so many columns, `…` at its end where something is missing."""
    if width(text) <= columns:
        return text
    kept, free = "", columns - 1
    for character in text:
        free -= _columns(character)
        if free < 0:
            break
        kept += character
    return f"{kept}…"


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
