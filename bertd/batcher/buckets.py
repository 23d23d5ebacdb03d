"""Items by length: who shares a call, so that little of it is padding. Pure.

groups = buckets.group([len(ids) for ids in items], bounds=(16, 32, 64))
parts = [run([items[i] for i in group]) for group in groups]
results = buckets.restore(groups, parts)
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from bertd import errors

R = TypeVar("R")


def group(
    lengths: Sequence[int],
    bounds: Sequence[int],
    *,
    rows: Sequence[int] | None = None,
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Positions of items that go together, shortest first; every position once.

    Args:
        lengths: Of each item, as it will be padded.
        bounds: The longest of each bucket, rising; one more bucket takes whatever is longer.
        rows: Of each item that is several rows already; 1 each if None.
        max_tokens: A group that padded to its longest would be larger is split.

    Raises:
        errors.TooLarge: One item alone is larger than `max_tokens`.
        errors.InvalidRequest: The bounds do not rise, or there is not one count of rows per item.
    """
    if any(a >= b for a, b in itertools.pairwise((0, *bounds))):
        raise errors.InvalidRequest(f"bucket bounds must rise from at least 1, and are {bounds}")
    counts = [1] * len(lengths) if rows is None else rows
    if len(counts) != len(lengths):
        raise errors.InvalidRequest(f"`rows` must have one count for each of {len(lengths)} items")
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    by_bucket = itertools.groupby(ordered, key=lambda i: bisect.bisect_left(bounds, lengths[i]))
    return [part for _, each in by_bucket for part in _split(each, lengths, counts, max_tokens)]


def restore(groups: Sequence[Sequence[int]], parts: Sequence[Sequence[R]]) -> list[R]:
    """The results of each group's items, in the order of the items.

    Raises:
        errors.InvalidRequest: A group has another number of results than items.
    """
    if [len(each) for each in groups] != [len(each) for each in parts]:
        raise errors.InvalidRequest("every group must have one result for each of its items")
    found = {
        i: result
        for positions, results in zip(groups, parts, strict=True)
        for i, result in zip(positions, results, strict=True)
    }
    return [found[i] for i in range(len(found))]


def _split(
    positions: Iterator[int],
    lengths: Sequence[int],
    rows: Sequence[int],
    max_tokens: int | None,
) -> Iterator[list[int]]:
    """Cuts where the next item, the longest so far, would take the padded group over the limit."""
    part: list[int] = []
    held = 0
    for i in positions:
        if max_tokens is not None and rows[i] * lengths[i] > max_tokens:
            raise errors.TooLarge(
                f"an item must have at most {max_tokens} tokens, and item {i} has "
                f"{rows[i]} rows of {lengths[i]}",
                hint="split it, or raise `max_tokens`",
            )
        if part and max_tokens is not None and (held + rows[i]) * lengths[i] > max_tokens:
            yield part
            part, held = [], 0
        part.append(i)
        held += rows[i]
    if part:
        yield part
