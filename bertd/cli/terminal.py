"""Writing to the two streams: data to stdout, everything else to stderr."""

import os
import re
import sys
from typing import TextIO

import typer

from bertd import errors

_POSITION = re.compile(r"[^\s:][^:\n]*:\d+:\d+: ")
_HINT_OF_WIRE = re.compile(r"(?s)(.*) \(hint: (.*)\)")


def out(text: str) -> None:
    """One line (or several) of data."""
    typer.echo(text)


def note(text: str) -> None:
    """One line of progress or log."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Something that the user may want to mend."""
    note(f"{styled('warning:', sys.stderr, 'yellow')} {text}")


def fail(error: errors.Error) -> None:
    """What went wrong and what to do. Manifest reports keep their `file:line:column:` form."""
    message, hint = parts(error)
    if _POSITION.match(message):
        note(message)
    else:
        note(f"{styled('error:', sys.stderr, 'red')} {message}")
    if hint:
        note(f"{styled('hint:', sys.stderr, 'cyan')} {hint}")


def parts(error: errors.Error) -> tuple[str, str]:
    """Message and hint; over the wire both come in one text."""
    if not error.hint and (both := _HINT_OF_WIRE.fullmatch(error.message)):
        return both[1], both[2]
    return error.message, error.hint


def styled(text: str, stream: TextIO, colour: str) -> str:
    """The text in colour where the stream is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return typer.style(text, fg=colour, bold=True)


def visible(text: str) -> str:
    """The text without what could move the cursor or colour the screen."""
    return "".join(c if c.isprintable() else " " for c in text)
