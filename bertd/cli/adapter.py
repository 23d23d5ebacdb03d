"""`bertd adapter`: train, inspect and evaluate BitFit adapters, all without a daemon.

The heavy parts are imported inside their verb: `inspect` must not wait for torch.
"""

import datetime
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import console as rich_console
from rich import progress as rich_progress
from rich.table import Table

from bertd import errors
from bertd.cli import terminal

if TYPE_CHECKING:
    from bertd.bitfit import config as bitfit_config
    from bertd.bitfit import loop, tables
    from bertd.checkpoint import adapter_file

EVALUATE_ROWS = 1024
PIPE_COLUMNS = 160

app = typer.Typer(
    help="Train, inspect and evaluate BitFit adapters; needs no daemon.", no_args_is_help=True
)


class Output(enum.StrEnum):
    """How a verb prints what it found."""

    TABLE = "table"
    JSON = "json"


class Metric(enum.StrEnum):
    """What the best epoch is best at."""

    ACCURACY = "accuracy"
    F1 = "f1"
    MATTHEWS = "matthews"


class Precision(enum.StrEnum):
    """What an encoder computes in."""

    FP32 = "fp32"
    BF16 = "bf16"


class HeadInput(enum.StrEnum):
    """What a head reads."""

    MEAN = "mean"
    CLS = "cls"
    POOLER = "pooler"


class HeadKind(enum.StrEnum):
    """How a head computes."""

    LINEAR = "linear"
    DENSE_TANH = "dense-tanh"
    DENSE_GELU = "dense-gelu"
    DENSE_RELU = "dense-relu"


Base = Annotated[
    str, typer.Option("--base", help="Base model: a directory, package://… or hub://…")
]
Data = Annotated[Path, typer.Option("--data", help="Labelled text: .jsonl, .csv or .tsv")]
TextColumn = Annotated[str, typer.Option("--text-column", help="Column (key) of the text")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column (key) of the label")]
PairColumn = Annotated[
    str | None, typer.Option("--pair-column", help="Column (key) of a second text, for pairs")
]
Names = Annotated[
    str, typer.Option("--columns", help="Names of all columns, for a file without a header: a,b,c")
]
Format = Annotated[Output, typer.Option("--output", "-o", help="What stdout gets")]


File = Annotated[Path, typer.Argument(help="An adapter file")]
Out = Annotated[Path, typer.Option("--out", help="The adapter file to write")]
Eval = Annotated[Path | None, typer.Option("--eval", help="Labelled text, read once, at the end")]
Labels = Annotated[str, typer.Option(help="Class order, a,b,c; else the data's labels, sorted")]
Best = Annotated[Metric, typer.Option(help="What picks the best epoch")]
Head = Annotated[HeadKind, typer.Option(help="Kind of the head")]
Input = Annotated[HeadInput, typer.Option(help="What the head reads")]
Epochs = Annotated[int, typer.Option(help="Passes over the data")]
BatchRows = Annotated[int, typer.Option(help="Rows in one step")]
BiasRate = Annotated[float, typer.Option(help="Peak learning rate of the biases")]
HeadRate = Annotated[float, typer.Option(help="Peak learning rate of the head")]
Warmup = Annotated[float, typer.Option(help="Share of steps in which the rates rise")]
Dropout = Annotated[float | None, typer.Option(help="While training; else the base's own")]
Balance = Annotated[float, typer.Option(help="0: rows count alike; 1: classes count alike")]
Validation = Annotated[float, typer.Option(help="Share of the data that picks the best epoch")]
Biases = Annotated[str, typer.Option(help="Keywords of the biases to learn: query,output")]
MaxLength = Annotated[int, typer.Option(help="Tokens of one row; the rest is cut")]
Learn = Annotated[Precision, typer.Option("--precision", help="What the encoder learns in")]
Serve = Annotated[Precision, typer.Option("--precision", help="What the engine computes in")]
Seed = Annotated[int, typer.Option(help="Of everything that is random")]


@app.command()
def train(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    base: Base,
    data: Data,
    out: Out,
    eval_data: Eval = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    pair_column: PairColumn = None,
    columns: Names = "",
    labels: Labels = "",
    metric: Best = Metric.ACCURACY,
    head: Head = HeadKind.LINEAR,
    head_input: Input = HeadInput.MEAN,
    epochs: Epochs = 5,
    batch_rows: BatchRows = 32,
    bias_rate: BiasRate = 3e-3,
    head_rate: HeadRate = 3e-3,
    warmup: Warmup = 0.1,
    dropout: Dropout = None,
    balance: Balance = 0.0,
    validation: Validation = 0.1,
    biases: Biases = "all",
    max_length: MaxLength = 128,
    precision: Learn = Precision.FP32,
    seed: Seed = 42,
    output: Format = Output.TABLE,
) -> None:
    """Train an adapter and write it to one file."""
    from bertd.bitfit import config  # noqa: PLC0415

    asked = config.TrainConfig(
        base=base,
        data=data,
        evaluation=eval_data,
        columns=_columns(text_column, label_column, pair_column, columns),
        output=out,
        labels=_listed(labels),
        metric=metric.value,
        head_kind=head.value,
        head_input=head_input.value,
        epochs=epochs,
        batch_rows=batch_rows,
        bias_rate=bias_rate,
        head_rate=head_rate,
        warmup=warmup,
        dropout=dropout,
        balance=balance,
        validation=validation,
        biases=_listed(biases),
        max_length=max_length,
        precision=precision.value,
        seed=seed,
    )
    result = _train(asked)
    if output is Output.JSON:
        _print_json({"digest": result.digest, "bytes": result.file_bytes} | dict(result.record))
    else:
        _print_table(f"wrote {out}", _result_rows(result, asked.metric))


@app.command()
def inspect(file: File, output: Format = Output.TABLE) -> None:
    """Print what an adapter file says about itself."""
    from bertd.checkpoint import adapter_file  # noqa: PLC0415

    info = adapter_file.read_info(file)
    if output is Output.JSON:
        _print_json(_info_dict(info))
    else:
        _print_table(str(file), _info_rows(info))


@app.command()
def evaluate(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    file: File,
    base: Base,
    data: Data,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    pair_column: PairColumn = None,
    columns: Names = "",
    precision: Serve = Precision.FP32,
    output: Format = Output.TABLE,
) -> None:
    """Measure an adapter on labelled text with the engine that serves it."""
    from bertd.bitfit import scores, tables  # noqa: PLC0415
    from bertd.checkpoint import adapter_file  # noqa: PLC0415

    names = adapter_file.read_info(file).label_names
    table = tables.read(data, _columns(text_column, label_column, pair_column, columns))
    truth = tables.classes(table, names)
    predicted = _predict(file, base, table, precision)
    measured = scores.measure(truth, predicted, len(names))
    found = {"rows": len(truth), **{name: round(value, 6) for name, value in measured.items()}}
    if output is Output.JSON:
        _print_json({"adapter": str(file), "data": str(data), **found})
    else:
        _print_table(f"{file} on {data}", [(name, _number(value)) for name, value in found.items()])


def _train(asked: "bitfit_config.TrainConfig") -> "bitfit_config.TrainResult":
    try:
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415

        from bertd.bitfit import training  # noqa: PLC0415
    except ImportError as e:
        raise errors.InvalidRequest(
            f"training needs '{e.name}', which is not installed", hint="pip install 'bertd[train]'"
        ) from e
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    with _bar() as bar:
        return training.train(asked, date=today, report=_reporter(bar, asked))


def _predict(file: Path, base: str, table: "tables.Table", precision: Precision) -> list[int]:
    try:
        from bertd.engine import session  # noqa: PLC0415
    except ImportError as e:
        raise errors.InvalidRequest(
            f"the engine needs '{e.name}', which is not installed",
            hint="pip install 'bertd[engine]'",
        ) from e
    opened = session.Session.open(base, precision=precision.value)
    slot = opened.load_adapter(file)
    predicted: list[int] = []
    for start in range(0, len(table.texts), EVALUATE_ROWS):
        logits_NC = opened.classify(table.texts[start : start + EVALUATE_ROWS], slot)
        predicted += logits_NC.argmax(axis=1).tolist()
    return predicted


def _columns(text: str, label: str, pair: str | None, names: str) -> "tables.Columns":
    from bertd.bitfit import tables  # noqa: PLC0415

    return tables.Columns(text=text, label=label, pair=pair, names=_listed(names) or None)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _bar() -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=rich_console.Console(stderr=True),
    )


def _reporter(bar: rich_progress.Progress, asked: "bitfit_config.TrainConfig") -> "loop.Report":
    """Moves the bar at every step; leaves a line on stderr for every epoch, terminal or not."""
    task = bar.add_task(f"epoch 1/{asked.epochs}", total=None)

    def report(now: "bitfit_config.Progress") -> None:
        name = f"epoch {now.epoch}/{asked.epochs}"
        bar.update(task, completed=now.step, total=now.steps, description=name)
        if now.validation is not None:
            line = f"{name}: {asked.metric} {now.validation:.4f} on the validation rows"
            bar.console.print(line, highlight=False)

    return report


def _result_rows(result: "bitfit_config.TrainResult", metric: str) -> list[tuple[str, str]]:
    measured = {"validation": result.validation, "evaluation": result.evaluation or {}}
    return [
        ("sha256", result.digest),
        ("bytes", str(result.file_bytes)),
        ("labels", ", ".join(result.label_names)),
        ("best epoch", f"{result.best_epoch} of {len(result.history)}, by {metric}"),
        *((name, _numbers(values)) for name, values in measured.items() if values),
    ]


def _info_dict(info: "adapter_file.AdapterInfo") -> dict[str, object]:
    return {
        "digest": info.digest,
        "bytes": info.file_bytes,
        "base": info.base_digest,
        "tokenizer": info.tokenizer_digest,
        "head": {
            "kind": info.head.kind,
            "input": info.head.input,
            "problem": info.head.problem,
        },
        "labelNames": list(info.label_names),
        "temperature": info.temperature,
        "thresholds": dict(info.thresholds),
        "training": dict(info.training),
    }


def _info_rows(info: "adapter_file.AdapterInfo") -> list[tuple[str, str]]:
    rows = [
        ("sha256", info.digest),
        ("bytes", str(info.file_bytes)),
        ("base", info.base_digest),
        ("tokenizer", info.tokenizer_digest),
        ("head", f"{info.head.kind} on {info.head.input}, {info.head.problem}"),
        ("labels", ", ".join(info.label_names)),
        ("temperature", _number(info.temperature)),
        ("thresholds", _numbers(info.thresholds) or "none"),
    ]
    return rows + [(f"training {name}", _plain(value)) for name, value in info.training.items()]


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(_plain(part) for part in value)
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _print_table(title: str, rows: list[tuple[str, str]]) -> None:
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


def _print_json(value: Mapping[str, object]) -> None:
    terminal.out(json.dumps(value, ensure_ascii=False, indent=2))
