"""What servers are asked, and what is told of a turn. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.transports import Outcome

Figures = dict[str, float | None]
MODELS = ("bert-base", "minilm", "bert-large")
TABLE_ONLY = "bert-large"  # the predecessor's table is all that is measured of it
DEADLINES_S = {"bert-base": 2.0, "minilm": 0.5, "bert-large": 10.0}

CLOSED = (1, 5, 32, 64, 150)
MANY, MANY_CALLERS = 16, 8
OPEN = (0.5, 0.8, 1.0, 1.2, 2.0)  # times the closed loop's peak
BURSTS = (1, 5, 100, 150)
PATIENCE_S = 100.0  # of callers without a deadline worth the name
WARM_SHARE = 0.25  # of a closed turn, before anything counts
OPEN_WARM_SHARE = 0.4  # of an open one: a queue without a bound takes its time to collapse

BASELINE, OVERLOAD = 0.5, 2.0  # times the peak
WINDOW_S = 0.5  # whose median tells whether latency is what it was
RECOVERED = 1.2  # times the median before
PEACE_SHARE = 0.25  # of the overload's time, before it and after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of load."""

    name: str
    kind: str  # "closed", "open", "overload" or "burst"
    size: float  # callers, calls of a burst, or times the peak
    texts: int = 1  # of a call


def of(model: str) -> list[Load]:
    """All loads of a model, in their order: what is open needs the peak of what is closed."""
    bursts = [Load(name=f"burst-{size}", kind="burst", size=size) for size in BURSTS]
    if model == TABLE_ONLY:
        return bursts
    closed = [Load(name=f"closed-{size}", kind="closed", size=size) for size in CLOSED]
    many = Load(name=f"closed-{MANY_CALLERS}x{MANY}", kind="closed", size=MANY_CALLERS, texts=MANY)
    opened = [Load(name=f"open-{size:g}x", kind="open", size=size) for size in OPEN]
    overload = Load(name=f"overload-{OVERLOAD:g}x", kind="overload", size=OVERLOAD)
    return [*closed, many, *opened, overload, *(bursts if model == "bert-base" else [])]


NAMES = tuple(dict.fromkeys(load.name for model in MODELS for load in of(model)))


def closed_figures(calls: Sequence[Sequence[float]], seconds: float, texts: int) -> Figures:
    """Of the answers that came between warming up and the end."""
    warm_s = WARM_SHARE * seconds
    table = _table(calls)
    ended = table[:, 0] + table[:, 1]
    inside = table[(ended >= warm_s) & (ended < seconds)]
    answered = inside[inside[:, 2] == Outcome.ANSWERED]
    return {
        "texts_per_s": texts * len(answered) / (seconds - warm_s),
        **latencies("", answered[:, 1]),
        **_counts(inside),
    }


def open_figures(
    calls: Sequence[Sequence[float]], begin_s: float, end_s: float, deadline_s: float
) -> Figures:
    """Of the calls that were due between two moments."""
    table = _table(calls)
    inside = table[(table[:, 0] >= begin_s) & (table[:, 0] < end_s)]
    answered = inside[:, 2] == Outcome.ANSWERED
    accepted = inside[inside[:, 2] != Outcome.REFUSED]
    refused = inside[inside[:, 2] == Outcome.REFUSED]
    return {
        "offered_per_s": len(inside) / (end_s - begin_s),
        "goodput_per_s": int((answered & (inside[:, 1] <= deadline_s)).sum()) / (end_s - begin_s),
        **latencies("accepted_", accepted[:, 1]),
        **latencies("refused_", refused[:, 1]),
        **_counts(inside),
    }


def overload_phases(peak: float, seconds: float) -> list[tuple[float, float]]:
    """Peace, overload for so many seconds, peace: rates and seconds."""
    peace = (BASELINE * peak, PEACE_SHARE * seconds)
    return [peace, (OVERLOAD * peak, seconds), peace]


def overload_figures(
    calls: Sequence[Sequence[float]], phases: Sequence[tuple[float, float]], deadline_s: float
) -> Figures:
    """Of the overload itself, and how soon it was forgotten."""
    begin_s, end_s = phases[0][1], phases[0][1] + phases[1][1]
    found = open_figures(calls, begin_s, end_s, deadline_s)
    before = open_figures(calls, begin_s / 2, begin_s, deadline_s)
    found["baseline_p50_ms"] = before["accepted_p50_ms"]
    found["recovery_s"] = _recovery_s(calls, end_s, phases[2][1], before["accepted_p50_ms"])
    return found


def _recovery_s(
    calls: Sequence[Sequence[float]], end_s: float, peace_s: float, baseline_ms: float | None
) -> float | None:
    """Seconds until calls are as fast as before, by windows; None if they never were."""
    table = _table(calls)
    for number in range(int(peace_s / WINDOW_S)):
        begin = end_s + number * WINDOW_S
        window = table[(table[:, 0] >= begin) & (table[:, 0] < begin + WINDOW_S)]
        if not baseline_ms or not len(window) or (window[:, 2] != Outcome.ANSWERED).any():
            continue
        if 1000 * statistics.median(window[:, 1]) <= RECOVERED * baseline_ms:
            return number * WINDOW_S
    return None


def burst_figures(calls: Sequence[Sequence[float]], seconds: Sequence[float]) -> Figures:
    """Of bursts: the first one only warms up."""
    return {"seconds": statistics.median(seconds[1:] or seconds), **_counts(_table(calls))}


def latencies(prefix: str, seconds: NDArray[np.float64]) -> Figures:
    """Percentiles in milliseconds; None of no calls."""
    names = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
    return {
        f"{prefix}{name}_ms": float(1000 * np.percentile(seconds, share)) if len(seconds) else None
        for name, share in names.items()
    }


def medians(rounds: Mapping[str, Figures]) -> Figures:
    """The median of every figure over the rounds that have it."""
    names = dict.fromkeys(name for figures in rounds.values() for name in figures)
    found: Figures = {}
    for name in names:
        values = [value for figures in rounds.values() if (value := figures.get(name)) is not None]
        found[name] = statistics.median(values) if values else None
    return found


def _counts(table: NDArray[np.float64]) -> Figures:
    return {outcome.name.lower(): int((table[:, 2] == outcome).sum()) for outcome in Outcome}


def _table(calls: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(calls, np.float64).reshape(-1, 3)


def order(load: Load, seconds: float, peak: float, deadline_s: float, seed: int) -> dict[str, Any]:
    """What the generator is told of a turn."""
    if load.kind == "closed":
        return {"concurrency": int(load.size), "seconds": seconds, "timeout_s": PATIENCE_S}
    if load.kind == "open":
        phases = [(load.size * peak, seconds)]
        return {"phases": phases, "timeout_s": deadline_s, "seed": seed}
    if load.kind == "overload":
        phases = overload_phases(peak, seconds)
        return {"phases": phases, "timeout_s": deadline_s, "seed": seed}
    return {"size": int(load.size), "repeats": 2, "timeout_s": PATIENCE_S}


def figures(
    load: Load, record: Mapping[str, Any], told: Mapping[str, Any], deadline_s: float
) -> Figures:
    """What a turn's record says."""
    calls = record["calls"]
    if load.kind == "closed":
        return closed_figures(calls, told["seconds"], load.texts)
    if load.kind == "open":
        seconds = told["phases"][0][1]
        return open_figures(calls, OPEN_WARM_SHARE * seconds, seconds, deadline_s)
    if load.kind == "overload":
        return overload_figures(calls, told["phases"], deadline_s)
    return burst_figures(calls, record["found"])
