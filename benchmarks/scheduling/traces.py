"""Arrivals, drawn from a seed: when, how long, for whom, and by when."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine.workloads import cola_lengths

LONGEST = 512
Lengths = Callable[[np.random.Generator, int], NDArray[np.int_]]
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: its rows are answered together, and are worth nothing after the deadline."""

    arrival_s: float
    deadline_s: float  # a time, not a span
    lengths: tuple[int, ...]  # tokens of each row
    tenant: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What sends calls: when, for whom, how long rows are and how much time they have."""

    times: Times
    lengths: Lengths
    spans_s: tuple[float, ...]  # deadlines after arrival, drawn evenly
    rows: int = 1
    tenant: str = ""
    model: str = ""


def draw(rng: np.random.Generator, sources: Iterable[Source]) -> list[Call]:
    """The calls of all sources, in the order in which they arrive."""
    calls = itertools.chain.from_iterable(_calls(rng, source) for source in sources)
    return sorted(calls, key=lambda call: call.arrival_s)


def _calls(rng: np.random.Generator, source: Source) -> Iterator[Call]:
    count = len(source.times)
    lengths = source.lengths(rng, count * source.rows).reshape(count, source.rows).tolist()
    spans_s = rng.choice(source.spans_s, count).tolist()
    for at_s, span_s, row_lengths in zip(source.times.tolist(), spans_s, lengths, strict=True):
        yield Call(
            arrival_s=at_s, deadline_s=at_s + span_s, lengths=tuple(row_lengths),
            tenant=source.tenant, model=source.model,
        )  # fmt: skip


# When.


def poisson(rng: np.random.Generator, rate: float, until_s: float) -> Times:
    """Arrivals that know nothing of each other."""
    many = rng.exponential(1 / rate, math.ceil(1.2 * rate * until_s + 50)).cumsum()
    return many[many < until_s]


def bursts(
    rng: np.random.Generator, rate: float, until_s: float, *, times: float = 4.0, on_s: float = 0.5
) -> Times:
    """Markov-modulated: `times` the rate for `on_s` in the mean, then silence, the mean as asked.

    Both phases have exponential lengths (an on/off source, an MMPP of two states).
    """
    found, at_s = [], 0.0
    while at_s < until_s:
        burst_s = rng.exponential(on_s)
        found.append(at_s + poisson(rng, rate * times, burst_s))
        at_s += burst_s + rng.exponential(on_s * (times - 1))
    every = np.concatenate(found)
    return every[every < until_s]


# How long.


def cola(rng: np.random.Generator, count: int) -> NDArray[np.int_]:
    """Sentences as in CoLA's development set: 5 to 45 tokens, 11 in the mean."""
    return rng.choice(cola_lengths(), count)


def heavy(rng: np.random.Generator, count: int) -> NDArray[np.int_]:
    """Mostly short, one in ten from a Pareto tail (shape 1.1) from 32 tokens to 512."""
    body = rng.lognormal(math.log(12), 0.45, count)
    tail = 32 * (1 + rng.pareto(1.1, count))
    chosen = np.where(rng.random(count) < 0.1, tail, body)
    return np.clip(chosen.round(), 4, LONGEST).astype(np.int_)


def passages(rng: np.random.Generator, count: int) -> NDArray[np.int_]:
    """Paragraphs: 16 to 512 tokens, 130 in the mean."""
    return np.clip(rng.lognormal(math.log(110), 0.6, count).round(), 16, LONGEST).astype(np.int_)


def extremes(rng: np.random.Generator, count: int) -> NDArray[np.int_]:
    """1 token and 512 tokens in turn."""
    return np.where(np.arange(count) % 2 == 0, 1, LONGEST)
