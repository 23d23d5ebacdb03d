"""What a training run is asked to do, and what came of it. Free of torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertd import errors, families
from bertd.bitfit import scores, tables
from bertd.checkpoint import declared

PRECISIONS = ("fp32", "bf16")
SEQUENCE_INPUTS = tuple(name for name in families.HEAD_INPUTS if name != "token")
MAX_EPOCHS = 1000
MAX_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run; the same config on the same machine writes the same adapter.

    Attributes:
        base: Where the base model is: a directory, `package://...` or `hub://...`.
        data: Labelled text to learn from; a slice of it picks the best epoch.
        columns: Which columns of `data` and `evaluation` hold what.
        output: The adapter file to write.
        problem: `single_label`, `multi_label`, `regression` or `token` (a tag for each word).
        evaluation: Labelled text that is read once, when training is over.
        labels: Label names in class order; by default those of `data`, sorted. For a regression
            the name of its value.
        metric: What the best epoch is best at, one of the problem's `scores.METRICS`; None is the
            first of them (accuracy where no tag is IOB2).
        head_kind: `linear`, `dense-tanh`, `dense-gelu` or `dense-relu`.
        head_input: What the head reads: `mean`, `cls` or `pooler`, and `token` for tags; None is
            `mean`, or `token` for tags.
        epochs: Passes over the data.
        batch_rows: Rows in one step.
        bias_rate: Peak learning rate of the encoder's biases.
        head_rate: Peak learning rate of the head.
        warmup: Share of all steps in which the learning rates rise; then they fall to 0.
        dropout: Share of values dropped while training, everywhere; None keeps the base's own.
        balance: 0 counts every row (or word) alike, 1 every class alike; between them rows of a
            class with n rows weigh n to the power of -balance. With several labels a row, how far
            a label's rows are weighed up against the rows without it.
        seed: Of the split, the head's first values, the order of rows and dropout.
        validation: Share of `data` that is only used to pick the best epoch and to fit what the
            next two ask for.
        calibrate: Fit a temperature on the validation rows (not for a regression).
        fit_thresholds: Fit a threshold for each label on the validation rows (`multi_label`).
        biases: Keywords that pick the biases to learn (see `freezing.freeze`).
        max_length: Tokens of one row; the rest of a longer text is cut.
        precision: What the encoder computes in while training; what it learns is always fp32.
    """

    base: str
    data: Path
    columns: tables.Columns
    output: Path
    problem: str = "single_label"
    evaluation: Path | None = None
    labels: tuple[str, ...] = ()
    metric: str | None = None
    head_kind: str = "linear"
    head_input: str | None = None
    epochs: int = 5
    batch_rows: int = 32
    bias_rate: float = 3e-3
    head_rate: float = 3e-3
    warmup: float = 0.1
    dropout: float | None = None
    balance: float = 0.0
    seed: int = 42
    validation: float = 0.1
    calibrate: bool = False
    fit_thresholds: bool = False
    biases: tuple[str, ...] = ("all",)
    max_length: int = 128
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Raises errors.InvalidRequest at the first field that cannot be meant."""
        _one_of("problem", self.problem, declared.PROBLEMS)
        if self.metric is not None:
            _one_of("metric", self.metric, scores.METRICS[self.problem])
        _one_of("head_kind", self.head_kind, families.HEAD_KINDS)
        inputs = ("token",) if self.problem == "token" else SEQUENCE_INPUTS
        _one_of("head_input", self.reads, inputs)
        _one_of("precision", self.precision, PRECISIONS)
        _between("epochs", self.epochs, 1, MAX_EPOCHS)
        _between("batch_rows", self.batch_rows, 1, MAX_BATCH_ROWS)
        _between("bias_rate", self.bias_rate, 0.0, 1.0)
        _between("head_rate", self.head_rate, 0.0, 1.0)
        _between("warmup", self.warmup, 0.0, 0.9)
        _between("dropout", self.dropout or 0.0, 0.0, 0.9)
        _between("balance", self.balance, 0.0, 1.0)
        _between("seed", self.seed, 0, 2**32 - 1)
        _between("validation", self.validation, 0.001, 0.5)
        _between("max_length", self.max_length, 3, families.MAX_POSITIONS)
        _refuse("calibrate", self.calibrate and self.problem == "regression", self.problem)
        _refuse("balance", self.balance > 0 and self.problem == "regression", self.problem)
        _refuse(
            "fit_thresholds", self.fit_thresholds and self.problem != "multi_label", self.problem
        )

    @property
    def reads(self) -> str:
        """What the head reads."""
        return self.head_input or ("token" if self.problem == "token" else "mean")

    def best_by(self, label_names: Sequence[str]) -> str:
        """The metric that picks the best epoch, once the labels are known.

        Raises errors.InvalidRequest where it needs IOB2 tags and the labels are others.
        """
        known = scores.METRICS[self.problem]
        if self.problem == "token" and not scores.is_iob2(label_names):
            if self.metric == "f1":
                raise errors.InvalidRequest(
                    f"`metric` f1 needs tags in IOB2 (O, B-..., I-...), got {label_names[0]!r}",
                    hint="use accuracy",
                )
            return "accuracy"
        return self.metric or known[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is: steps done, and after an epoch its `metric` on the validation rows."""

    metric: str
    step: int
    steps: int
    epoch: int
    validation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run wrote and how good it is.

    The values are those of the file, after its numbers were rounded, computed in fp32.
    `history` is `metric`, the chosen one, on the validation rows after each epoch.
    """

    output: Path
    digest: str
    file_bytes: int
    label_names: tuple[str, ...]
    trainable: tuple[str, ...]
    best_epoch: int
    metric: str
    history: tuple[float, ...]
    validation: Mapping[str, float]
    evaluation: Mapping[str, float] | None
    record: Mapping[str, object]


def _refuse(name: str, is_set: bool, problem: str) -> None:
    if is_set:
        raise errors.InvalidRequest(f"`{name}` has no meaning for the problem '{problem}'")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise errors.InvalidRequest(f"`{name}` must be one of {', '.join(known)}, got '{value}'")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise errors.InvalidRequest(f"`{name}` must lie between {low} and {high}, got {value}")
