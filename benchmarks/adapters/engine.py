"""The measurements of the engine: the curve over the number of adapters, and B11's ratio."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.adapters import bases, pool, rows, timing
from bertd.engine import session

LONG_ROUNDS = 4  # a batch of long rows takes so much longer that a fraction of the rounds must do
ONE = "one adapter"
MANY = "32 adapters"
PLAIN = "transformers"


def curve(
    opened: session.Session, slots: Sequence[int], counts: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """For each workload: speed with rows of one adapter, and with rows drawn from N of them."""
    return [
        record
        for workload in rows.WORKLOADS
        for record in _curve_of(opened, slots, counts, _rounds(workload, rounds), workload)
    ]


def _rounds(workload: str, rounds: int) -> int:
    return max(2, rounds // LONG_ROUNDS) if workload == rows.LONG else rounds


def _curve_of(
    opened: session.Session,
    slots: Sequence[int],
    counts: Sequence[int],
    rounds: int,
    workload: str,
) -> list[dict[str, Any]]:
    table = np.array(slots, np.int32)

    def prepare(rng: np.random.Generator) -> Mapping[str, Callable[[], None]]:
        lengths_B, ids_T = _batch(rng, opened, workload)
        run = functools.partial(rows.packed, opened, ids_T, lengths_B)
        one = np.repeat(rng.choice(table), len(lengths_B))
        mixed = {n: _drawn(rng, table[:n], len(lengths_B)) for n in counts}
        return {ONE: functools.partial(run, one)} | {
            str(n): functools.partial(run, slots_B) for n, slots_B in mixed.items()
        }

    times = timing.interleaved(rounds, prepare)
    rows_of_batch = len(rows.WORKLOADS[workload](np.random.default_rng(0)))
    return [
        {
            "workload": workload,
            "adapters": n,
            "rows_per_s": rows_of_batch / float(np.median(times[str(n)])),
            "one_adapter_rows_per_s": rows_of_batch / float(np.median(times[ONE])),
            "speed_against_one": _fields(timing.ratio(times[ONE], times[str(n)])),
            "rounds": rounds,
        }
        for n in counts
    ]


def against_transformers(
    source: str, opened: session.Session, slots: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Median time of a batch of 32: one adapter, 32 different ones, plain transformers (B11)."""
    model = bases.plain(source, pool.LABELS)
    table = np.array(slots, np.int32)

    def prepare(rng: np.random.Generator) -> Mapping[str, Callable[[], None]]:
        lengths_B, ids_T = _batch(rng, opened, "32 CoLA-length")
        run = functools.partial(rows.packed, opened, ids_T, lengths_B)
        return {
            ONE: functools.partial(run, np.repeat(table[:1], len(lengths_B))),
            MANY: functools.partial(run, _drawn(rng, table, len(lengths_B))),
            PLAIN: functools.partial(rows.padded, model, ids_T, lengths_B),
        }

    times = timing.interleaved(rounds, prepare)
    return [
        {
            "contender": name,
            "p50_ms": 1000 * float(np.median(times[name])),
            "time_against_transformers": _fields(timing.ratio(times[name], times[PLAIN])),
            "time_against_one_adapter": _fields(timing.ratio(times[name], times[ONE])),
            "rounds": rounds,
        }
        for name in (ONE, MANY, PLAIN)
    ]


def _batch(
    rng: np.random.Generator, opened: session.Session, workload: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    lengths_B = rows.WORKLOADS[workload](rng)
    return lengths_B, rows.draw(rng, lengths_B, opened.base.description.shape.vocab)


def _drawn(rng: np.random.Generator, slots: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Different slots while there are enough of them."""
    return rng.choice(slots, count, replace=len(slots) < count)


def _fields(ratio: timing.Ratio) -> dict[str, float]:
    return {"median": ratio.median, "low": ratio.low, "high": ratio.high}
