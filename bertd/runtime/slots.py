"""Which adapter lies in which slot of a revision's table, for as long as anybody may read it.

An `Entry` is held by the table while its adapter is resident, and by every row queued or running on
it. When the last of them lets go, the slot is free: no call ever reads a slot that was given to
another adapter meanwhile.
"""

import asyncio
import heapq
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BASE_SLOT = 0


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Content:
    """An adapter file in the blob store: what a route names, whether it is in memory or not.

    `inline` came with a request: nobody declared it, and it never pushes out what was declared.
    """

    digest: str
    path: Path
    inline: bool = False


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Entry:
    """An adapter in a slot; the base's own has no content to load."""

    slot: int
    content: Content | None = None


class Slots:
    """Hands out slots and takes them back by itself.

    Args:
        on_free: called on the event loop with each slot that nobody can read any more.
    """

    def __init__(self, on_free: Callable[[int], None]) -> None:
        self._base: Entry | None = Entry(BASE_SLOT)
        self._on_free = on_free
        self._next = BASE_SLOT + 1
        self._free: list[int] = []
        self._held: weakref.WeakSet[Entry] = weakref.WeakSet((self._base,))

    @property
    def base(self) -> Entry:
        """The base's own entry, until `let_go`."""
        assert self._base is not None  # nobody routes to a revision that closes
        return self._base

    @property
    def is_read(self) -> bool:
        """Whether anybody may still read a slot; always so before `let_go`."""
        return len(self._held) > 0

    def take(self, content: Content) -> Entry:
        """A new entry in the lowest free slot; call it on the event loop."""
        slot = heapq.heappop(self._free) if self._free else self._next
        self._next = max(self._next, slot + 1)
        entry = Entry(slot, content)
        self._held.add(entry)
        loop = asyncio.get_running_loop()
        weakref.finalize(entry, _free_on, loop, self._give_back, slot).atexit = False
        return entry

    def held(self) -> list[Entry]:
        """Every entry that somebody may still read, the base's own left out."""
        return [entry for entry in self._held if entry.content is not None]

    def let_go(self) -> None:
        """Holds the base's entry no longer: from now on only callers keep it."""
        self._base = None

    def _give_back(self, slot: int) -> None:
        heapq.heappush(self._free, slot)
        self._on_free(slot)


def _free_on(loop: asyncio.AbstractEventLoop, give_back: Callable[[int], None], slot: int) -> None:
    """The last reference may go in any thread, the tokenising one for example."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(give_back, slot)
