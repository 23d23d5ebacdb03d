"""A block: one model, one workload, all engines in turn."""

import contextlib
import datetime
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.engine import names, results, shapes, turns, workloads

PATIENCE = 3.0  # an engine sits out once it took this many times its share of the block
TRIALS = 3
CHECKED_BATCHES = 4
TRIALS_S = 10.0  # no further trial begins after these
HOPELESS = 1.25  # a variant this much slower than the best is not tried again
WARM_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a block may take."""

    rounds: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class Entry:
    """An engine within a block."""

    contender: turns.Contender
    variant: str
    tried: dict[str, float]
    seconds: dict[int, list[float]] = field(default_factory=dict)  # by round
    spent_s: float = 0.0


def measure(
    contenders: Mapping[str, turns.Contender],
    model: str,
    workload: str,
    limits: Limits,
    expected: Mapping[str, Any],
    peaks: Mapping[str, float],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows of the results of this block, and the engines that failed in it, with the reason.

    Args:
        contenders: who runs, by name.
        model: what they have loaded.
        workload: what they run.
        limits: when to stop.
        expected: answers to `check_iteration` by the engines that others are compared with.
        peaks: the machine's operations per second, by precision.
    """
    rng, plan = np.random.default_rng(0), workloads.WORKLOADS[workload]
    failed: dict[str, str] = {}
    entries = {}
    for name, contender in contenders.items():
        with _noted(name, failed):
            entries[name] = _enter(contender, workload, rng)
    drawn: dict[int, list[workloads.Iteration]] = {}
    began = time.perf_counter()
    share_s = PATIENCE * limits.seconds / max(1, len(entries))
    for number in range(limits.rounds):
        if number >= plan.rounds and time.perf_counter() - began > limits.seconds:
            break
        playing = {name: each for name, each in entries.items() if name not in failed}
        drawn[number] = _play(playing, workload, number, rng, share_s, failed)
    rows = []
    for name, entry in entries.items():
        with _noted(name, failed):
            if name not in failed:
                rows.append(_row(entry, model, workload, drawn, expected, peaks))
    return rows, [{"engine": name, "reason": f"{workload}: {why}"} for name, why in failed.items()]


@contextlib.contextmanager
def _noted(engine: str, failed: dict[str, str]) -> Iterator[None]:
    """An engine that fails is left out; the others go on."""
    try:
        yield
    except turns.Failed as failure:
        failed[engine] = str(failure)


def check_iteration(workload: str) -> workloads.Iteration:
    """The iteration whose answers are compared; not one of those that are timed."""
    return workloads.draw(workload, np.random.default_rng(1))[:CHECKED_BATCHES]


def _play(
    entries: Mapping[str, Entry],
    workload: str,
    number: int,
    rng: np.random.Generator,
    share_s: float,
    failed: dict[str, str],
) -> list[workloads.Iteration]:
    """One round: fresh iterations, the same for all, in an order drawn anew."""
    plan = workloads.WORKLOADS[workload]
    iterations = [workloads.draw(workload, rng) for _ in range(plan.warm + plan.iterations)]
    for name in rng.permutation(list(entries)):
        entry = entries[str(name)]
        if number < plan.rounds or entry.spent_s < share_s:
            with _noted(str(name), failed):
                began = time.perf_counter()
                entry.seconds[number] = entry.contender.time(entry.variant, iterations, plan.warm)
                entry.spent_s += time.perf_counter() - began
    return iterations[plan.warm :]


def _enter(contender: turns.Contender, workload: str, rng: np.random.Generator) -> Entry:
    """Warms every variant of an engine up, and finds the one that suits the workload.

    The first call of some packs weights, or compiles, for longer than a batch takes: no variant is
    judged by it.
    """
    batches = [workloads.draw(workload, rng)[:1] for _ in range(TRIALS + 1)]
    rows = len(batches[0][0].lengths_B)
    variants = suitable(contender.variants, rows)
    for name in variants:
        contender.time(name, [[batches[0][0].pick(range(min(WARM_ROWS, rows)))]])
    if len(variants) == 1:
        return Entry(contender=contender, variant=variants[0], tried={})
    tried: dict[str, list[float]] = {name: [] for name in variants}
    for batch in batches:
        spent_s = sum(sum(found) for found in tried.values())
        if spent_s > TRIALS_S:
            break
        best = min((min(found) for found in tried.values() if found), default=0.0)
        for name, found in list(tried.items()):
            if not best or min(found) < HOPELESS * best or (len(found) < 2 and spent_s < 1):
                tried[name] = found + contender.time(name, [batch])
    # the first call may compile for its shape
    medians = {name: statistics.median(found[1:] or found) for name, found in tried.items()}
    chosen = min(variants, key=lambda name: (len(tried[name]) == 1, medians[name]))
    return Entry(contender=contender, variant=chosen, tried=medians)


def suitable(variants: Mapping[str, int], rows_of_batch: int) -> list[str]:
    """Variants that differ for so many rows: none whose groups would hold them all."""
    return [name for name, size in variants.items() if size < max(2, rows_of_batch)]


def _row(
    entry: Entry,
    model: str,
    workload: str,
    drawn: Mapping[int, Sequence[workloads.Iteration]],
    expected: Mapping[str, Any],
    peaks: Mapping[str, float],
) -> dict[str, Any]:
    contender = entry.contender
    shape = shapes.SHAPES[model]
    iterations = [each for number in entry.seconds for each in drawn[number]]
    name = names.parse(contender.engine)
    against = names.reference(contender.engine)
    given = contender.answers(entry.variant, check_iteration(workload))
    return results.row(
        place={"model": model, "workload": workload, "engine": contender.engine},
        seconds=entry.seconds,
        tokens=[sum(batch.tokens for batch in each) for each in iterations],
        operations=[shapes.operations(shape, each) for each in iterations],
        peak=peaks.get(name.precision),
        accuracy=results.accuracy(given, expected.get(against), against),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        variant=entry.variant,
        variants_median_seconds=entry.tried,
        idle_cpu_seconds=round(contender.idle_cpu_s, 2),
        resident_bytes=contender.resident_bytes,
    )
