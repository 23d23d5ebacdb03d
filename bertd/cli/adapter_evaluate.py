"""The verb `evaluate` of `bertd adapter`: how good answers are, and what a precision costs.

The heavy parts are imported inside the verb.
"""
# ruff: noqa: PLC0415 (imports inside verbs)

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertd import errors
from bertd.cli import adapter_choices, adapter_data, adapter_printing

if TYPE_CHECKING:
    from bertd.bitfit import tables
    from bertd.engine import evaluation

DIGITS = 6


class Precision(enum.StrEnum):
    """What the engine computes in."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="An adapter file; without one the base's own head"),
]
Labels = Annotated[
    str, typer.Option(help="Names of the outputs in order, a,b,c, where the data has other words")
]
Served = Annotated[Precision, typer.Option("--precision", help="What the engine computes in")]
Against = Annotated[
    Precision | None,
    typer.Option("--against", help="Compare with this one: metrics before and after, speed, bytes"),
]


def evaluate(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    file: File = None,
    base: adapter_data.Base,
    data: adapter_data.Data,
    text_column: adapter_data.TextColumn = None,
    label_column: adapter_data.LabelColumn = None,
    pair_column: adapter_data.PairColumn = None,
    columns: adapter_data.Names = "",
    separator: adapter_data.Separator = ",",
    labels: Labels = "",
    precision: Served = Precision.FP32,
    against: Against = None,
    output: adapter_printing.Format = adapter_printing.Output.TABLE,
) -> None:
    """Measure an adapter, or a base's own head, on labelled text with the engine that serves it.

    With --against, also what one precision costs and brings beside another.
    """
    _check_engine()
    from bertd.engine import evaluation

    meant = _output(file, base, adapter_data.listed(labels))
    asked = adapter_data.columns(
        text=text_column,
        label=label_column,
        pair=pair_column,
        names=columns,
        separator=separator,
        problem=adapter_choices.Problem(meant.problem.name),
    )
    table = _table(data, asked, meant)
    what = {"adapter" if file else "base": str(file or base), "data": str(data)}
    title = f"{file or base} on {data}"
    engine = _engine(file, base, precision)
    found: dict[str, object]
    if against is None:
        measured = evaluation.measure(meant, table, evaluation.answers(engine, table))
        found = {"rows": len(table.texts), **_rounded(measured)}
        rows = [(name, adapter_printing.plain(value)) for name, value in found.items()]
        what["computedIn"], title = precision.value, f"{title}, in {precision.value}"
    else:
        compared = evaluation.compare(meant, table, _engine(file, base, against), engine)
        found, rows = as_dict(compared), _rows(compared)
        title = f"{title}: {precision.value} against {against.value}"
    if output is adapter_printing.Output.JSON:
        adapter_printing.as_json({**what, **found})
    else:
        adapter_printing.table(title, rows)


def as_dict(found: "evaluation.Comparison") -> dict[str, object]:
    """A comparison as JSON has it; null where nothing was decided, or nothing surely."""
    alike = found.agreement
    return {
        "rows": found.rows,
        "before": _side(found.before),
        "after": _side(found.after),
        "decisions": alike.decisions,
        "agreement": alike.share if alike.decisions else None,
        "sureDecisions": alike.sure,
        "sureAgreement": alike.sure_share if alike.sure else None,
        "meanDrift": alike.mean_drift,
        "maxDrift": alike.max_drift,
    }


def _side(side: "evaluation.Side") -> dict[str, object]:
    return {
        "precision": side.precision,
        "metrics": _rounded(side.metrics),
        "loneRowMilliseconds": side.lone_row_s * 1e3,
        "rowsPerSecond": side.rows_per_s,
        "weightBytes": side.weight_bytes,
    }


def _rows(found: "evaluation.Comparison") -> list[tuple[str, str]]:
    from bertd.bitfit import agreement

    before, after, alike = found.before, found.after, found.agreement
    rows = [
        ("rows", str(found.rows)),
        ("", _cells(before.precision, after.precision, "change")),
    ]
    for name, value in before.metrics.items():
        now = after.metrics[name]
        rows.append((name, _cells(f"{value:.4f}", f"{now:.4f}", f"{now - value:+.4f}")))
    for name, one, other, form in (
        ("ms for a lone row", before.lone_row_s * 1e3, after.lone_row_s * 1e3, ".2f"),
        ("rows per second", before.rows_per_s, after.rows_per_s, ".1f"),
        ("bytes of weights", before.weight_bytes, after.weight_bytes, ",d"),
    ):
        rows.append((name, _cells(f"{one:{form}}", f"{other:{form}}", f"{other / one:.2f} x")))
    if alike.decisions:
        rows.append(("decided alike", f"{alike.share:.2%} of {alike.decisions}"))
    if alike.sure:
        share = f"{alike.sure_share:.2%} of {alike.sure}"
        rows.append(("where sure", f"{share}, margin over {agreement.SURE_MARGIN}"))
    return [*rows, ("logit drift", f"mean {alike.mean_drift:.4f}, max {alike.max_drift:.4f}")]


def _cells(*cells: str) -> str:
    return "  ".join(f"{cell:>13}" for cell in cells)


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in metrics.items()}


def _output(file: Path | None, base: str, labels: tuple[str, ...]) -> "evaluation.Output":
    """What the answers mean; `labels` rename the outputs."""
    from bertd.checkpoint import adapter_file
    from bertd.engine import evaluation
    from bertd.interchange import records

    if file is None:
        meant = evaluation.of_base(records.open_base(base).base)
    else:
        meant = evaluation.of_adapter(adapter_file.read_info(file))
    if not labels:
        return meant
    if len(set(labels)) != len(labels) or len(labels) != len(meant.label_names):
        raise errors.InvalidRequest(
            f"--labels must name {len(meant.label_names)} different outputs, got {len(labels)}"
        )
    limits = dict(zip(meant.label_names, labels, strict=True))
    thresholds = {limits[name]: value for name, value in meant.rule.thresholds.items()}
    rule = dataclasses.replace(meant.rule, thresholds=thresholds)
    return dataclasses.replace(meant, label_names=labels, rule=rule)


def _table(data: Path, asked: "tables.Columns", meant: "evaluation.Output") -> "tables.Table":
    """The rows; a label that the outputs do not have is told before any engine starts."""
    from bertd.bitfit import tables

    table = tables.read(data, asked, meant.problem.name)
    meant.problem.truth(table, meant.label_names)
    return table


def _engine(file: Path | None, base: str, precision: Precision) -> "evaluation.Engine":
    from bertd.engine import evaluation, session

    opened = session.Session.open(base, precision=precision.value)
    if file is None:
        return evaluation.Engine(opened)
    return evaluation.Engine(opened, opened.load_adapter(file))


def _check_engine() -> None:
    try:
        import torch  # noqa: F401 (whether it is there)
    except ImportError as e:
        raise errors.InvalidRequest(
            f"the engine needs '{e.name}', which is not installed",
            hint="pip install 'bertd[engine]'",
        ) from e
