"""How the verbs of `bertd adapter` print: two columns for people, JSON for programs."""

import enum
import json
import math
from collections.abc import Mapping
from typing import Annotated

import typer
from rich import console as rich_console
from rich.table import Table

from bertd.cli import terminal

PIPE_COLUMNS = 160


class Output(enum.StrEnum):
    """How a verb prints what it found."""

    TABLE = "table"
    JSON = "json"


Format = Annotated[Output, typer.Option("--output", "-o", help="What stdout gets")]


def plain(value: object) -> str:
    """Any JSON value in one line."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(plain(part) for part in value)
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Six digits, no more."""
    return f"{value:.6g}"


def numbers(values: Mapping[str, float]) -> str:
    """Named numbers in one line."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def table(title: str, rows: list[tuple[str, str]]) -> None:
    """Two columns under a title; a digest is only folded where a terminal is too narrow for it."""
    grid = Table.grid(padding=(0, 3))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(terminal.visible(name), terminal.visible(value))
    console = rich_console.Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = rich_console.Console(highlight=False, markup=False, width=PIPE_COLUMNS)
    terminal.out(title)
    console.print(grid)


def as_json(value: Mapping[str, object]) -> None:
    """Indented JSON on stdout; null for what JSON has no number for, infinity and no number."""
    terminal.out(json.dumps(_finite(value), ensure_ascii=False, indent=2))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
