"""Did you mean …? The closest legal name, by edit distance."""

import itertools
from collections.abc import Iterable

SIMILARITY_LOWEST = 0.6
# A suggestion is a courtesy: longer names and further candidates get none, which bounds its cost.
NAME_LIMIT_CHARACTERS = 40
CANDIDATES_LIMIT = 32


def closest(name: str, legal: Iterable[str]) -> str | None:
    """The most similar legal name, letter case ignored, or None when none is similar enough."""
    candidates = itertools.islice(legal, CANDIDATES_LIMIT)
    ranked = sorted((-_rank(name.lower(), other.lower()), other) for other in candidates)
    if not ranked or -ranked[0][0] < SIMILARITY_LOWEST:
        return None
    return ranked[0][1]


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing: to be appended to an error text."""
    best = closest(name, legal)
    return f"; did you mean '{best}'?" if best else ""


def _rank(name: str, other: str) -> float:
    shorter, longer = sorted((len(name), len(other)))
    if longer > NAME_LIMIT_CHARACTERS or shorter < SIMILARITY_LOWEST * longer:
        return 0.0
    return similarity(name, other)


def similarity(left: str, right: str) -> float:
    """1 for equal names, 0 for names without anything in common.

    The distance counts inserted, removed, replaced and swapped neighbouring characters ("optimal
    string alignment").
    """
    longest = max(len(left), len(right))
    if longest == 0:
        return 1.0
    above, row = [0] * (len(right) + 1), list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        further, above, row = above, row, [i]
        for j, b in enumerate(right, start=1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and (a, left[i - 2]) == (right[j - 2], b):
                cost = min(cost, further[j - 2] + 1)
            row.append(cost)
    return 1.0 - row[-1] / longest
