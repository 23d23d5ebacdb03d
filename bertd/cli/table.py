"""Aligned columns of plain text."""

import unicodedata
from collections.abc import Sequence

GAP = "   "


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of equal columns, the last one ragged; empty cells become `-`."""
    return Growing(header).add(rows)


class Growing:
    """A table whose rows come part by part: the header once, and columns that only grow."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header: list[Sequence[str]] = [header]
        self._widths = [0] * len(header)

    def add(self, rows: Sequence[Sequence[str]]) -> str:
        """The lines of these rows, in columns as wide as the widest cell so far."""
        lines = [*self._header, *([cell or "-" for cell in row] for row in rows)]
        self._header = []
        widest = [max(map(width, column)) for column in zip(*lines, strict=True)]
        self._widths = list(map(max, self._widths, widest))
        return "\n".join(GAP.join(map(_pad, line, self._widths)).rstrip() for line in lines)


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
