"""How verbs of `bertd adapter` are told of a base and of labelled text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertd.cli import adapter_choices

if TYPE_CHECKING:
    from bertd.bitfit import tables

Base = Annotated[
    str, typer.Option("--base", help="Base model: a directory, package://… or hub://…")
]
Data = Annotated[
    Path, typer.Option("--data", help="Labelled text: .jsonl, .csv or .tsv; tags: .jsonl, .conll")
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", help="Column (key) of the text [text, tokens]")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column (key) of the label [label, tags]")
]
PairColumn = Annotated[
    str | None, typer.Option("--pair-column", help="Column (key) of a second text, for pairs")
]
Names = Annotated[
    str, typer.Option("--columns", help="Names of all columns, for a file without a header: a,b,c")
]
Separator = Annotated[
    str, typer.Option("--separator", help="Between the labels of one cell, for multi_label")
]


def columns(
    *,
    text: str | None,
    label: str | None,
    pair: str | None,
    names: str,
    separator: str,
    problem: adapter_choices.Problem,
) -> "tables.Columns":
    """Which columns were meant; tagged words have other usual names than texts."""
    from bertd.bitfit import tables  # noqa: PLC0415

    usual = ("tokens", "tags") if problem is adapter_choices.Problem.TOKEN else ("text", "label")
    return tables.Columns(
        text=text or usual[0],
        label=label or usual[1],
        pair=pair,
        names=listed(names) or None,
        separator=separator,
    )


def listed(text: str) -> tuple[str, ...]:
    """The parts between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
