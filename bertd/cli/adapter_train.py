"""The verbs `train`, `inspect` and `evaluate` of `bertd adapter`.

The heavy parts are imported inside their verb: `inspect` must not wait for torch.
"""

import datetime
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import console as rich_console
from rich import progress as rich_progress

from bertd import errors
from bertd.cli import adapter_choices, adapter_printing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bertd.bitfit import config as bitfit_config
    from bertd.bitfit import loop, tables
    from bertd.checkpoint import adapter_file
    from bertd.engine import session

EVALUATE_ROWS = 1024


class Metric(enum.StrEnum):
    """What the best epoch is best at."""

    ACCURACY = "accuracy"
    F1 = "f1"
    MATTHEWS = "matthews"
    MACRO_F1 = "macro_f1"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    MAE = "mae"


class Precision(enum.StrEnum):
    """What an encoder computes in."""

    FP32 = "fp32"
    BF16 = "bf16"


class HeadKind(enum.StrEnum):
    """How a head computes."""

    LINEAR = "linear"
    DENSE_TANH = "dense-tanh"
    DENSE_GELU = "dense-gelu"
    DENSE_RELU = "dense-relu"


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

File = Annotated[Path, typer.Argument(help="An adapter file")]
Out = Annotated[Path, typer.Option("--out", help="The adapter file to write")]
Eval = Annotated[Path | None, typer.Option("--eval", help="Labelled text, read once, at the end")]
Labels = Annotated[str, typer.Option(help="Class order, a,b,c; else the data's labels, sorted")]
Kind = Annotated[
    adapter_choices.Problem, typer.Option("--problem", help="What the labels of the data are")
]
Best = Annotated[
    Metric | None, typer.Option(help="What picks the best epoch; else the problem's usual one")
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Fit a temperature on the validation rows")
]
FitThresholds = Annotated[
    bool, typer.Option("--fit-thresholds", help="Fit a threshold per label, for multi_label")
]
Head = Annotated[HeadKind, typer.Option(help="Kind of the head")]
Input = Annotated[
    adapter_choices.HeadInput | None, typer.Option(help="What the head reads [mean, token]")
]
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


def train(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    base: Base,
    data: Data,
    out: Out,
    problem: Kind = adapter_choices.Problem.SINGLE_LABEL,
    eval_data: Eval = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    pair_column: PairColumn = None,
    columns: Names = "",
    separator: Separator = ",",
    labels: Labels = "",
    metric: Best = None,
    head: Head = HeadKind.LINEAR,
    head_input: Input = None,
    epochs: Epochs = 5,
    batch_rows: BatchRows = 32,
    bias_rate: BiasRate = 3e-3,
    head_rate: HeadRate = 3e-3,
    warmup: Warmup = 0.1,
    dropout: Dropout = None,
    balance: Balance = 0.0,
    validation: Validation = 0.1,
    calibrate: Calibrate = False,
    fit_thresholds: FitThresholds = False,
    biases: Biases = "all",
    max_length: MaxLength = 128,
    precision: Learn = Precision.FP32,
    seed: Seed = 42,
    output: adapter_printing.Format = adapter_printing.Output.TABLE,
) -> None:
    """Train an adapter and write it to one file."""
    from bertd.bitfit import config  # noqa: PLC0415

    asked = config.TrainConfig(
        base=base,
        data=data,
        evaluation=eval_data,
        columns=_columns(text_column, label_column, pair_column, columns, separator, problem),
        output=out,
        problem=problem.value,
        labels=_listed(labels),
        metric=metric and metric.value,
        head_kind=head.value,
        head_input=head_input and head_input.value,
        epochs=epochs,
        batch_rows=batch_rows,
        bias_rate=bias_rate,
        head_rate=head_rate,
        warmup=warmup,
        dropout=dropout,
        balance=balance,
        validation=validation,
        calibrate=calibrate,
        fit_thresholds=fit_thresholds,
        biases=_listed(biases),
        max_length=max_length,
        precision=precision.value,
        seed=seed,
    )
    result = _train(asked)
    if output is adapter_printing.Output.JSON:
        adapter_printing.as_json(
            {"digest": result.digest, "bytes": result.file_bytes} | dict(result.record)
        )
    else:
        adapter_printing.table(f"wrote {out}", _result_rows(result))


def inspect(file: File, output: adapter_printing.Format = adapter_printing.Output.TABLE) -> None:
    """Print what an adapter file says about itself."""
    from bertd.checkpoint import adapter_file  # noqa: PLC0415

    info = adapter_file.read_info(file)
    if output is adapter_printing.Output.JSON:
        adapter_printing.as_json(_info_dict(info))
    else:
        adapter_printing.table(str(file), _info_rows(info))


def evaluate(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    file: File,
    base: Base,
    data: Data,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    pair_column: PairColumn = None,
    columns: Names = "",
    separator: Separator = ",",
    precision: Serve = Precision.FP32,
    output: adapter_printing.Format = adapter_printing.Output.TABLE,
) -> None:
    """Measure an adapter on labelled text with the engine that serves it."""
    from bertd.bitfit import problems, tables  # noqa: PLC0415
    from bertd.checkpoint import adapter_file  # noqa: PLC0415

    info = adapter_file.read_info(file)
    problem, names = problems.BY_NAME[info.head.problem], info.label_names
    asked = _columns(
        text_column,
        label_column,
        pair_column,
        columns,
        separator,
        adapter_choices.Problem(problem.name),
    )
    table = tables.read(data, asked, problem.name)
    truth = problem.truth(table, names)
    rule = problems.Rule(temperature=info.temperature, thresholds=info.thresholds)
    decided = [
        problem.decide(logits_nC, names, rule)
        for logits_nC in _logits(file, base, table, precision)
    ]
    measured = problem.measure(truth, decided, names)
    found = {"rows": len(truth), **{name: round(value, 6) for name, value in measured.items()}}
    if output is adapter_printing.Output.JSON:
        adapter_printing.as_json({"adapter": str(file), "data": str(data), **found})
    else:
        adapter_printing.table(
            f"{file} on {data}",
            [(name, adapter_printing.number(value)) for name, value in found.items()],
        )


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


def _logits(
    file: Path, base: str, table: "tables.Table", precision: Precision
) -> "list[NDArray[np.float32]]":
    """The logits [n, C] that answer for each row: one row, or one for every tagged word."""
    try:
        from bertd.engine import session  # noqa: PLC0415
    except ImportError as e:
        raise errors.InvalidRequest(
            f"the engine needs '{e.name}', which is not installed",
            hint="pip install 'bertd[engine]'",
        ) from e
    opened = session.Session.open(base, precision=precision.value)
    slot = opened.load_adapter(file)
    if table.words:
        return _tag_logits(opened, slot, table)
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(table.texts), EVALUATE_ROWS):
        logits_NC = opened.classify(table.texts[start : start + EVALUATE_ROWS], slot)
        found += [row_C[None] for row_C in logits_NC]
    return found


def _tag_logits(
    opened: "session.Session", slot: int, table: "tables.Table"
) -> "list[NDArray[np.float32]]":
    from bertd.bitfit import problems  # noqa: PLC0415

    found: list[NDArray[np.float32]] = []
    for start in range(0, len(table.texts), EVALUATE_ROWS):
        here = slice(start, start + EVALUATE_ROWS)
        encoded = opened.tokenizer.encode(table.texts[here], truncate=True, offsets=True)
        answers = opened.tag(table.texts[here], slot)
        for row, words, logits_TC in zip(encoded, table.words[here], answers, strict=True):
            picks = problems.firsts(words, row.offsets or (), row.special or ())
            found.append(problems.pick(logits_TC, picks))
    return found


def _columns(
    text: str | None,
    label: str | None,
    pair: str | None,
    names: str,
    separator: str,
    problem: adapter_choices.Problem,
) -> "tables.Columns":
    from bertd.bitfit import tables  # noqa: PLC0415

    usual = ("tokens", "tags") if problem is adapter_choices.Problem.TOKEN else ("text", "label")
    return tables.Columns(
        text=text or usual[0],
        label=label or usual[1],
        pair=pair,
        names=_listed(names) or None,
        separator=separator,
    )


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
            line = f"{name}: {now.metric} {now.validation:.4f} on the validation rows"
            bar.console.print(line, highlight=False)

    return report


def _result_rows(result: "bitfit_config.TrainResult") -> list[tuple[str, str]]:
    measured = {"validation": result.validation, "evaluation": result.evaluation or {}}
    fitted = {name: result.record.get(name) for name in ("calibration", "thresholds")}
    return [
        ("sha256", result.digest),
        ("bytes", str(result.file_bytes)),
        ("labels", ", ".join(result.label_names)),
        ("best epoch", f"{result.best_epoch} of {len(result.history)}, by {result.metric}"),
        *((name, adapter_printing.numbers(values)) for name, values in measured.items() if values),
        *((name, adapter_printing.plain(value)) for name, value in fitted.items() if value),
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
        ("temperature", adapter_printing.number(info.temperature)),
        ("thresholds", adapter_printing.numbers(info.thresholds) or "none"),
    ]
    return rows + [
        (f"training {name}", adapter_printing.plain(value)) for name, value in info.training.items()
    ]
