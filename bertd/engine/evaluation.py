"""Answers of sessions to labelled text: how good they are, and what one precision costs another.

    output = evaluation.of_adapter(adapter_file.read_info(file))
    table = tables.read(data, columns, output.problem.name)
    exact = evaluation.Engine(opened, opened.load_adapter(file))
    evaluation.measure(output, table, evaluation.answers(exact, table))
    evaluation.compare(output, table, exact, rounded)

Both `bertd adapter evaluate` and `benchmarks/accuracy` are this module and a way of printing.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bertd import errors
from bertd.adapters import bank
from bertd.bitfit import agreement, problems, tables
from bertd.checkpoint import adapter_file, files
from bertd.engine import session

PART_ROWS: Final = 1024
LONE_ROWS: Final = 64

Logits = NDArray[np.float32]  # [n, C]: one row of a text, or one of each tagged word
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What the logits of a head mean."""

    problem: problems.Problem[Any]
    label_names: tuple[str, ...]
    rule: problems.Rule


@dataclass(frozen=True, slots=True)
class Engine:
    """Who answers: a base in some precision, by the adapter in a slot or by its own head."""

    session: session.Session
    slot: int = bank.BASE_SLOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One engine on one table."""

    precision: str
    metrics: dict[str, float]
    weight_bytes: int
    lone_row_s: float
    """Median of single calls with one text, tokenising included."""
    rows_per_s: float
    """Of the whole table, many texts a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two engines on the same rows."""

    rows: int
    before: Side
    after: Side
    agreement: agreement.Agreement


def of_adapter(info: adapter_file.AdapterInfo) -> Output:
    """What an adapter file says of its own logits."""
    return Output(
        problem=problems.BY_NAME[info.head.problem],
        label_names=info.label_names,
        rule=problems.Rule(temperature=info.temperature, thresholds=info.thresholds),
    )


def of_base(base: files.Base) -> Output:
    """What the logits of a base's own head mean.

    Raises:
        errors.InvalidRequest: it has none.
    """
    if base.head is None:
        raise errors.InvalidRequest("the base has no head of its own", hint="name an adapter file")
    return Output(
        problem=problems.BY_NAME[base.problem],
        label_names=base.label_names,
        rule=problems.Rule(),
    )


def answers(engine: Engine, table: tables.Table) -> list[Logits]:
    """The logits for each row, before the temperature."""
    parts = [_part(engine, table, part) for part in _parts(table)]
    return [logits_nC for part in parts for logits_nC in part]


def measure(output: Output, table: tables.Table, found: Sequence[Logits]) -> dict[str, float]:
    """Every metric of the problem.

    Raises:
        errors.InvalidRequest: the table has a label that the output does not know.
    """
    names = output.label_names
    truth = output.problem.truth(table, names)
    decided = [output.problem.decide(logits_nC, names, output.rule) for logits_nC in found]
    return output.problem.measure(truth, decided, names)


def compare(
    output: Output,
    table: tables.Table,
    before: Engine,
    after: Engine,
    *,
    clock: Clock = time.monotonic,
) -> Comparison:
    """Have both answer every row, in turns, so that a machine that slows down slows both.

    Raises:
        errors.InvalidRequest: as `measure`; the table is read for its truth before anything runs.
    """
    output.problem.truth(table, output.label_names)
    engines = (before, after)
    lone_s = _lone_rows_s(engines, table, clock)
    found: tuple[list[Logits], list[Logits]] = ([], [])
    whole_s = [0.0, 0.0]
    for part in _parts(table):
        for place, engine in enumerate(engines):
            start_s = clock()
            found[place].extend(_part(engine, table, part))
            whole_s[place] += clock() - start_s
    sides = [
        Side(
            precision=engine.session.base.precision,
            metrics=measure(output, table, found[place]),
            weight_bytes=engine.session.base.runner.encoder.weight_bytes,
            lone_row_s=lone_s[place],
            rows_per_s=len(table.texts) / max(whole_s[place], 1e-9),
        )
        for place, engine in enumerate(engines)
    ]
    names, rule = output.label_names, output.rule
    return Comparison(
        rows=len(table.texts),
        before=sides[0],
        after=sides[1],
        agreement=agreement.compare(output.problem, names, rule, *found),
    )


def _parts(table: tables.Table) -> list[slice]:
    starts = range(0, len(table.texts), PART_ROWS)
    return [slice(start, start + PART_ROWS) for start in starts]


def _lone_rows_s(engines: Sequence[Engine], table: tables.Table, clock: Clock) -> list[float]:
    """Median seconds of a call with one text, over texts from the whole table."""
    step = max(1, len(table.texts) // LONE_ROWS)
    rows = range(0, len(table.texts), step)[:LONE_ROWS]
    times_s: list[list[float]] = [[] for _ in engines]
    for row in (rows[0], *rows):  # the first once more: it warms up
        for times, engine in zip(times_s, engines, strict=True):
            start_s = clock()
            _part(engine, table, slice(row, row + 1))
            times.append(clock() - start_s)
    return [statistics.median(times[1:]) for times in times_s]


def _part(engine: Engine, table: tables.Table, part: slice) -> list[Logits]:
    texts, opened = table.texts[part], engine.session
    if not table.words:
        return [row_C[None] for row_C in opened.classify(texts, engine.slot)]
    encoded = opened.tokenizer.encode(texts, truncate=True, offsets=True)
    tagged = opened.tag(texts, engine.slot)
    return [
        problems.pick(logits_TC, problems.firsts(words, row.offsets or (), row.special or ()))
        for row, words, logits_TC in zip(encoded, table.words[part], tagged, strict=True)
    ]
