"""When calls begin and what they carry, decided by a seeded source of random numbers. Pure."""

import math
import random
from collections.abc import Callable, Iterator, Sequence

from bertd import errors

# Texts of a wanted length are these words and two special tokens: each word is one token of the
# usual English vocabularies, so a text of n tokens has n - 2 of them.
WORDS = (
    *("the", "of", "and", "to", "in", "was", "for", "on", "that", "with", "as", "it", "by"),
    *("at", "from", "his", "her", "he", "she", "they", "we", "you", "all", "one", "two"),
    *("new", "first", "more", "other", "time", "can", "could", "would", "will", "about"),
)
SPECIAL_TOKENS = 2
SHORTEST_TOKENS = 3
LONGEST_TOKENS = 4096
WIDEST_SIGMA = 3.0
MAX_DRAWN_TEXTS = 4096
MAX_DRAWN_TOKENS = 250_000
LEAST_DIFFERENT_CALLS = 256
MAX_DIFFERENT_CALLS = 4096

Lengths = Callable[[random.Random], int]
"""Draws the number of tokens of one text."""


def poisson(rate: float, source: random.Random) -> Iterator[float]:
    """Seconds from the start at which the calls of an open loop begin: endless, `rate` a second.

    Gaps are exponential, as between callers who know nothing of each other.
    """
    at_s = 0.0
    while True:
        at_s += source.expovariate(rate)
        yield at_s


def lengths(text: str) -> Lengths:
    """A distribution of lengths from what people write.

    Args:
        text: `16`, `uniform:6-256`, or `lognormal:MEDIAN,SIGMA` such as `lognormal:24,0.6`.

    Raises:
        errors.InvalidRequest: It is none of these, or its numbers are out of bounds.
    """
    try:
        found = _lengths(text)
    except ValueError:
        found = None
    if found is None:
        raise errors.InvalidRequest(
            f"`--lengths` must be tokens of {SHORTEST_TOKENS} to {LONGEST_TOKENS}, not '{text}'",
            hint="write 16, uniform:6-256, or lognormal:24,0.6 (median, sigma)",
        )
    return found


def texts(wanted: Lengths, source: random.Random, *, count: int = MAX_DRAWN_TEXTS) -> list[str]:
    """Texts of drawn lengths: that many tokens, special ones included, in English vocabularies.

    They are fewer than `count` where all would have more than `MAX_DRAWN_TOKENS`.
    """
    made: list[str] = []
    tokens = 0
    while len(made) < count and tokens < MAX_DRAWN_TOKENS:
        length = wanted(source)
        made.append(" ".join(source.choices(WORDS, k=length - SPECIAL_TOKENS)))
        tokens += length
    return made


def groups(texts: Sequence[str], inputs: int, source: random.Random) -> Iterator[list[str]]:
    """What each of a bounded number of different calls carries: `inputs` texts each.

    Texts are dealt from shuffled packs, so that all are used alike.
    """
    calls = min(MAX_DIFFERENT_CALLS, max(LEAST_DIFFERENT_CALLS, len(texts)))
    pack = _packs(texts, source)
    for _ in range(calls):
        yield [next(pack) for _ in range(inputs)]


def _packs(texts: Sequence[str], source: random.Random) -> Iterator[str]:
    while True:
        yield from source.sample(texts, len(texts))


def _lengths(text: str) -> Lengths | None:
    kind, _, numbers = text.rpartition(":")
    if not kind:
        return _uniform(int(text), int(text))
    if kind == "uniform":
        shortest, _, longest = numbers.partition("-")
        return _uniform(int(shortest), int(longest))
    if kind == "lognormal":
        median, _, sigma = numbers.partition(",")
        return _lognormal(float(median), float(sigma))
    return None


def _uniform(shortest: int, longest: int) -> Lengths | None:
    if not SHORTEST_TOKENS <= shortest <= longest <= LONGEST_TOKENS:
        return None
    return lambda source: source.randint(shortest, longest)


def _lognormal(median: float, sigma: float) -> Lengths | None:
    if not (SHORTEST_TOKENS <= median <= LONGEST_TOKENS and 0 <= sigma <= WIDEST_SIGMA):
        return None

    def draw(source: random.Random) -> int:
        drawn = round(source.lognormvariate(math.log(median), sigma))
        return min(max(drawn, SHORTEST_TOKENS), LONGEST_TOKENS)

    return draw
