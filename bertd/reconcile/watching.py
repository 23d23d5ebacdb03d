"""Who wants to hear of changes, and of which objects they have not been told yet.

A watcher holds names, never events: however slow it reads, an object that changed a thousand times
is one name, and a watcher with too many names forgets them and begins anew.
"""

import asyncio
import contextlib
from collections.abc import Iterator

from bertd import errors

MOST_WATCHERS = 64
MOST_NAMES = 10_000  # that one watcher has yet to be told of
FULL_RETRY_S = 1.0

Key = tuple[str, str]  # kind, name


class Watcher:
    """What one watcher has yet to be told.

    `missed` says that these are no longer known: everything must be told again.
    """

    def __init__(self, kind: str, name: str) -> None:
        self._kind = kind
        self._name = name
        self._existed: dict[Key, bool] = {}
        self._woken = asyncio.Event()
        self.missed = False

    def tell(self, key: Key, *, existed: bool) -> None:
        """An object came, changed or went; `existed` is whether it was there before."""
        if (self._kind and key[0] != self._kind) or (self._name and key[1] != self._name):
            return
        if len(self._existed) >= MOST_NAMES:
            self._existed.clear()
            self.missed = True
        if not self.missed:
            self._existed.setdefault(key, existed)
        self._woken.set()

    def wake(self) -> None:
        """Ends one `news`, with nothing to tell."""
        self._woken.set()

    async def news(self) -> None:
        """Returns when there is something to tell, or `wake` was called."""
        await self._woken.wait()

    def take(self, limit: int) -> dict[Key, bool]:
        """At most so many of the objects to tell of, each with whether it was there before."""
        keys = [key for _, key in zip(range(limit), self._existed, strict=False)]
        taken = {key: self._existed.pop(key) for key in keys}
        if not self._existed and not self.missed:
            self._woken.clear()
        return taken

    def restart(self) -> None:
        """Everything will be told again."""
        self._existed.clear()
        self.missed = False
        self._woken.clear()


class Watchers:
    """All watchers of one daemon. All calls on the event loop's thread."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self.are_closed = False

    def tell(self, kind: str, name: str, *, existed: bool = True) -> None:
        """Tells every watcher that an object came, changed or went."""
        for each in self._watchers:
            each.tell((kind, name), existed=existed)

    @contextlib.contextmanager
    def watching(self, kind: str, name: str) -> Iterator[Watcher]:
        """One more watcher: of one object, of a kind (`name` is empty), or of everything.

        Raises:
            errors.Overloaded: `MOST_WATCHERS` watch already.
        """
        if len(self._watchers) >= MOST_WATCHERS:
            raise errors.Overloaded(
                f"{MOST_WATCHERS} watch already",
                retry_after_s=FULL_RETRY_S,
                hint="end another watch, or look again with `bertd get`",
            )
        watcher = Watcher(kind, name)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """From now on nobody watches: no watcher delays a daemon that stops."""
        self.are_closed = True
        for each in self._watchers:
            each.wake()
