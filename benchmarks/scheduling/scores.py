"""What an outcome was worth: goodput, latencies, refusals, by tenant, model and length."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.scheduling.engine import Device, Outcome
from benchmarks.scheduling.traces import Call

Chosen = Callable[[Call], bool]
Score = dict[str, Any]


def score(
    trace: Sequence[Call],
    outcome: Outcome,
    *,
    from_s: float,
    until_s: float,
    device: Device,
    chosen: Chosen = lambda _: True,
) -> Score:
    """The score of the chosen calls that arrived in a span of time.

    `goodput` is the work of rows answered in time, in that span, over the lanes' time: 1 when lanes
    do nothing but full batches without padding whose answers all come in time. `good`, `refused`
    and `late` are shares of the rows offered. A call counts once its last row is answered. An
    admitted call that was never answered has an infinite latency, which is written as None.
    """
    offered = good = refused = late = 0
    work_s = 0.0
    latencies: list[float] = []
    for number, call in enumerate(trace):
        if not chosen(call):
            continue
        finished_s = outcome.finished_s[number]
        if from_s <= finished_s < min(until_s, call.deadline_s):
            work_s += sum(map(device.services[call.model].work_s, call.lengths))
        if not from_s <= call.arrival_s < until_s:
            continue
        rows = len(call.lengths)
        offered += rows
        if outcome.refused[number]:
            refused += rows
            continue
        latencies.append(finished_s - call.arrival_s)
        if finished_s <= call.deadline_s:
            good += rows
        else:
            late += rows
    latencies.sort()
    return {
        "offered": offered,
        "goodput": work_s / (until_s - from_s) / device.lanes,
        "good": good / offered if offered else None,
        "refused": refused / offered if offered else None,
        "late": late / offered if offered else None,
        "p50_s": quantile(latencies, 0.5),
        "p99_s": quantile(latencies, 0.99),
    }


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that so many are not above; None where that is never, or nothing is."""
    if not ordered:
        return None
    value = ordered[min(len(ordered), math.ceil(share * len(ordered))) - 1]
    return value if value < math.inf else None
