"""The verbs `import`, `export`, `merge` and `diff` of `bertd adapter`.

The heavy parts are imported inside their verb: `diff` must not wait for torch.
"""
# ruff: noqa: PLC0415 (imports inside verbs)

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertd import errors
from bertd.cli import adapter_choices, adapter_printing, terminal

if TYPE_CHECKING:
    from bertd.interchange import comparing

MAX_STDIN_BYTES = 1024 * 1024 * 1024


class From(enum.StrEnum):
    """Where an imported file comes from."""

    AUTO = "auto"
    BITINFER = "bitinfer"
    HUGGINGFACE = "huggingface"
    PEFT = "peft"


class To(enum.StrEnum):
    """What an exported file is."""

    BITINFER = "bitinfer"
    BASE64 = "base64"


Base = Annotated[
    str, typer.Option("--base", help="The base it belongs to: a directory, package://… or hub://…")
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A BitInfer file or its base64 text (- for stdin), or the directory of a fine-tuned "
        "Hugging Face model or of a PEFT (BEFT) adapter",
        allow_dash=True,
    ),
]
File = Annotated[Path, typer.Argument(help="An adapter file")]
Other = Annotated[Path, typer.Argument(metavar="OTHER", help="Another adapter file")]
OutFile = Annotated[Path, typer.Option("--out", help="The adapter file to write")]
Exported = Annotated[Path, typer.Option("--out", help="The file to write")]
OutDirectory = Annotated[Path, typer.Option("--out", help="The directory to make")]
FromFormat = Annotated[From, typer.Option("--format", help="auto: told by what lies there")]
ToFormat = Annotated[To, typer.Option("--format", help="base64 is the text of the other")]
Labels = Annotated[str, typer.Option(help="Names of the outputs in order, a,b,c")]
Meaning = Annotated[
    adapter_choices.Problem | None, typer.Option(help="What the outputs mean, if not told")
]
Input = Annotated[
    adapter_choices.HeadInput | None, typer.Option(help="What the head reads, if not the usual")
]
KeyPrefix = Annotated[
    str, typer.Option(help="Put before the offsets' names, for files of a bare model: bert.")
]


def import_(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    source: Source,
    base: Base,
    out: OutFile,
    format_: FromFormat = From.AUTO,
    labels: Labels = "",
    problem: Meaning = None,
    head_input: Input = None,
    key_prefix: KeyPrefix = "",
    output: adapter_printing.Format = adapter_printing.Output.TABLE,
) -> None:
    """Make an adapter file of what another program wrote."""
    from bertd.interchange import importing, records

    choices = records.Choices(
        label_names=tuple(part.strip() for part in labels.split(",") if part.strip()),
        problem=problem.value if problem else "",
        head_input=head_input.value if head_input else "",
        key_prefix=key_prefix,
    )
    given = _stdin() if str(source) == "-" else source
    found = importing.Format(format_.value)
    result = importing.convert(given, base, out, format_=found, choices=choices)
    for note in result.notes:
        terminal.note(note)
    info = result.info
    if output is adapter_printing.Output.JSON:
        adapter_printing.as_json(
            {
                "digest": info.digest,
                "bytes": info.file_bytes,
                "format": result.format.value,
                "labelNames": list(info.label_names),
            }
        )
        return
    rows = [
        ("sha256", info.digest),
        ("bytes", str(info.file_bytes)),
        ("from", result.format.value),
        ("head", f"{info.head.kind} on {info.head.input}, {info.head.problem}"),
        ("labels", ", ".join(info.label_names)),
    ]
    adapter_printing.table(f"wrote {out}", rows)


def export(*, file: File, base: Base, out: Exported, format_: ToFormat = To.BITINFER) -> None:
    """Write an adapter as BitInfer reads it."""
    from bertd.checkpoint import adapter_file
    from bertd.interchange import bitinfer, records

    opened = records.open_base(base)
    adapter = adapter_file.read_for(file, opened.base)
    data = bitinfer.write(adapter, opened.base, file.name)
    if format_ is To.BASE64:
        data = bitinfer.to_text(data).encode("ascii") + b"\n"
    adapter_file.write_bytes(out, data)
    for what in records.lost(adapter.info):
        terminal.warn(f"{what} has no place in this format")
    terminal.note(
        "this format names no labels and no problem: an import takes them from --labels and "
        f"--problem {adapter.info.head.problem}"
    )
    terminal.out(f"wrote {out}")


def merge(*, file: File, base: Base, out: OutDirectory) -> None:
    """Add an adapter to its base: a Hugging Face directory that transformers loads."""
    from bertd.checkpoint import adapter_file
    from bertd.interchange import merging, records

    opened = records.open_base(base)
    adapter = adapter_file.read_for(file, opened.base)
    merging.merge(adapter, opened, out, file.name)
    for what in records.lost(adapter.info):
        terminal.warn(f"{what} has no place in this format")
    terminal.out(f"wrote {out}")


def diff(
    file: File,
    other: Other,
    output: adapter_printing.Format = adapter_printing.Output.TABLE,
) -> None:
    """Compare two adapters: norms of their offsets by layer, heads, and what else changed."""
    from bertd.interchange import comparing

    found = comparing.compare(file, other)
    if output is adapter_printing.Output.JSON:
        adapter_printing.as_json(_as_dict(found))
        return
    rows = [_row(row) for row in found.offsets]
    rows.append(_row(found.head) if found.head else ("head", "of different shapes"))
    adapter_printing.table(f"{file} (A) and {other} (B)", [("", _COLUMNS), *rows])
    changed = [
        (name, f"{adapter_printing.plain(a)} -> {adapter_printing.plain(b)}")
        for name, (a, b) in found.record.items()
    ]
    if changed:
        adapter_printing.table("changed", changed)


_COLUMNS = f"{'A':>10}  {'B':>10}  {'B - A':>10}  {'cosine':>10}"


def _row(row: "comparing.Row") -> tuple[str, str]:
    values = [adapter_printing.number(value) for value in (row.a, row.b, row.difference)]
    values.append("-" if row.cosine is None else f"{row.cosine:.4f}")
    return row.part, "  ".join(f"{value:>10}" for value in values)


def _as_dict(found: "comparing.Comparison") -> dict[str, object]:
    def row(row: "comparing.Row") -> dict[str, object]:
        return {
            "part": row.part,
            "a": row.a,
            "b": row.b,
            "difference": row.difference,
            "cosine": row.cosine,
        }

    return {
        "offsets": [row(each) for each in found.offsets],
        "head": row(found.head) if found.head else None,
        "changed": {name: {"a": a, "b": b} for name, (a, b) in found.record.items()},
    }


def _stdin() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise errors.TooLarge(f"standard input is over the limit of {MAX_STDIN_BYTES} bytes")
    return data
