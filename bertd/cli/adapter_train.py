"""The verbs `train` and `inspect` of `bertd adapter`.

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
from bertd.cli import adapter_choices, adapter_data, adapter_printing

if TYPE_CHECKING:
    from bertd.bitfit import config as bitfit_config
    from bertd.bitfit import loop
    from bertd.checkpoint import adapter_file


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
Seed = Annotated[int, typer.Option(help="Of everything that is random")]


def train(  # noqa: PLR0913 (a verb's options are its parameters)
    *,
    base: adapter_data.Base,
    data: adapter_data.Data,
    out: Out,
    problem: Kind = adapter_choices.Problem.SINGLE_LABEL,
    eval_data: Eval = None,
    text_column: adapter_data.TextColumn = None,
    label_column: adapter_data.LabelColumn = None,
    pair_column: adapter_data.PairColumn = None,
    columns: adapter_data.Names = "",
    separator: adapter_data.Separator = ",",
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
        columns=adapter_data.columns(
            text=text_column,
            label=label_column,
            pair=pair_column,
            names=columns,
            separator=separator,
            problem=problem,
        ),
        output=out,
        problem=problem.value,
        labels=adapter_data.listed(labels),
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
        biases=adapter_data.listed(biases),
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
