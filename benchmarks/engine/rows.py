"""A batch: rows of token ids, and how they are laid out for engines that want rectangles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """B rows, T tokens of all rows end to end."""

    lengths_B: NDArray[np.int32]
    ids_T: NDArray[np.int32]

    @property
    def tokens(self) -> int:
        """Real tokens of all rows."""
        return len(self.ids_T)

    def pick(self, places: Sequence[int]) -> "Rows":
        """Some of the rows, in the order of `places`."""
        ends = np.cumsum(self.lengths_B)
        parts = [self.ids_T[ends[i] - self.lengths_B[i] : ends[i]] for i in places]
        return Rows(lengths_B=self.lengths_B[list(places)], ids_T=np.concatenate(parts))


def pad(rows: Rows) -> tuple[Ints, Ints]:
    """Ids and mask [B, S], S being the length of the longest row."""
    mask = np.arange(int(rows.lengths_B.max())) < rows.lengths_B[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = rows.ids_T
    return ids, mask.astype(np.int64)


def by_length(rows: Rows, size: int) -> list[list[int]]:
    """Places of rows in groups of at most `size`, of neighbours in length, the longest first."""
    order = np.argsort(-rows.lengths_B, kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def deal(lengths_B: NDArray[np.int32], lanes: int) -> list[list[int]]:
    """Places of rows for each lane, so that all get about as many tokens; sorted by length."""
    hands: list[list[int]] = [[] for _ in range(lanes)]
    held = [0] * lanes
    for place in np.argsort(-lengths_B, kind="stable").tolist():
        lane = held.index(min(held))
        hands[lane].append(place)
        held[lane] += int(lengths_B[place])
    return [hand[::-1] for hand in hands if hand]


def merge(count: int, groups: Sequence[Sequence[int]], found: Sequence[Floats]) -> Floats:
    """Answers of groups [n, D] back in the order of the rows [B, D]."""
    out = np.empty((count, found[0].shape[1]), np.float32)
    for places, answers in zip(groups, found, strict=True):
        out[list(places)] = answers
    return out


def in_groups(run: Callable[[Rows], Floats], rows: Rows, size: int) -> Floats:
    """Runs neighbours in length together, group by group."""
    groups = by_length(rows, size)
    return merge(len(rows.lengths_B), groups, [run(rows.pick(group)) for group in groups])
