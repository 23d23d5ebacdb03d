"""What is wrong with a manifest, where, and how that is printed.

A problem prints as `file:line:column: path: text`, followed by the line (and the one before it)
with a caret. Texts say "must …", put literals in '…' and fields in `backquotes`.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence

PROBLEMS_LIMIT = 50
EXCERPT_LIMIT_CHARACTERS = 100
VALUE_LIMIT_CHARACTERS = 40
KEY_LIMIT_CHARACTERS = 64
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]+")

Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the text; both count from 1."""

    line: int
    column: int


START = Mark(1, 1)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend."""

    mark: Mark
    path: Path = dataclasses.field(compare=False)
    text: str


def report(problems: Iterable[Problem], *, text: str, file: str) -> str:
    """All problems in the order of the text, at most `PROBLEMS_LIMIT`, each with its excerpt."""
    found = sorted(set(problems))
    lines = LINE_BREAK.split(text.removeprefix("\ufeff"))
    shown = found[:PROBLEMS_LIMIT]
    parts = [headline(problem, file) + excerpt(problem.mark, lines) for problem in shown]
    if len(found) > PROBLEMS_LIMIT:
        parts.append(f"{file}: more problems are not shown; mend these {PROBLEMS_LIMIT} first")
    return "\n".join(parts)


def headline(problem: Problem, file: str) -> str:
    """`file:line:column: path: text`."""
    mark = problem.mark
    return f"{file}:{mark.line}:{mark.column}: {path_text(problem.path)}: {problem.text}"


def path_text(path: Path) -> str:
    """`spec.adapters[0].name`; keys that are not plain words stand in brackets and quotes."""
    return functools.reduce(_join, path, "") or "(document)"


def excerpt(mark: Mark, lines: Sequence[str]) -> str:
    """The line before, the line, and a caret; long lines are cut around the caret."""
    if mark.line > len(lines):
        return ""
    start = max(0, mark.column - EXCERPT_LIMIT_CHARACTERS // 2)
    shown = range(max(1, mark.line - 1), mark.line + 1)
    width = len(str(mark.line))
    cut = (
        f"\n  {number:>{width}} | {safe(lines[number - 1][start:][:EXCERPT_LIMIT_CHARACTERS])}"
        for number in shown
    )
    caret = f"\n  {'':>{width}} | {' ' * (mark.column - 1 - start)}^"
    return "".join(line.rstrip() for line in (*cut, caret))


def safe(text: str) -> str:
    """The text for a terminal: one column per character, nothing that moves the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def quoted(value: str, limit_characters: int = VALUE_LIMIT_CHARACTERS) -> str:
    """The value in quotes, shortened."""
    short = value if len(value) <= limit_characters else f"{value[:limit_characters]}…"
    return f"'{safe(short)}'"


def one_of(options: Sequence[str]) -> str:
    """`'a', 'b' or 'c'`."""
    names = [f"'{option}'" for option in options]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def described(value: object) -> str:
    """What a value is, for "must be …, not …"."""
    match value:
        case None:
            return "empty"
        case bool():
            return f"the boolean '{str(value).lower()}'"
        case int() | float():
            return f"the number {quoted(str(value))}"
        case str():
            return quoted(value)
        case dict():
            return "a mapping"
        case _:
            return "a list"


def _join(text: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{text}[{step}]"
    if not SIMPLE_KEY.fullmatch(step) or len(step) > KEY_LIMIT_CHARACTERS:
        return f"{text}[{quoted(step, KEY_LIMIT_CHARACTERS)}]"
    return f"{text}.{step}" if text else step
