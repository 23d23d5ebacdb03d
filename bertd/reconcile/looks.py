"""Looking for adapters that nobody has seen yet: once for all who ask, and not again and again.

A call may name an adapter whose file has just appeared under a glob. Names come from callers, so
what looking costs is bounded: so many names at once, and each that was not there only after a while
again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

AT_ONCE_MAX = 16
AGAIN_S = 1.0  # not before, for a name that was not there
REMEMBERED_MAX = 1024  # such names

Key = tuple[str, str]  # model, adapter


class Looks:
    """Shares and limits looks.

    Args:
        look: looks for (model, adapter); True if it is there now.
    """

    def __init__(self, look: Callable[[str, str], Awaitable[bool]]) -> None:
        self._look = look
        self._running: dict[Key, asyncio.Task[bool]] = {}
        self._missing: dict[Key, float] = {}  # when a name was not there

    @property
    def running(self) -> Iterable[asyncio.Task[bool]]:
        """The looks that are under way."""
        return self._running.values()

    async def find(self, model: str, adapter: str) -> bool:
        """Whether it is worth asking for this name again."""
        key, now_s = (model, adapter), asyncio.get_running_loop().time()
        if key not in self._running:
            is_early = now_s - self._missing.get(key, -AGAIN_S) < AGAIN_S
            if is_early or len(self._running) >= AT_ONCE_MAX:
                return False
            task = self._running[key] = asyncio.create_task(self._run(key, now_s))
            task.add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(self._running[key])

    async def _run(self, key: Key, now_s: float) -> bool:
        is_there = await self._look(*key)
        if not is_there:
            if len(self._missing) >= REMEMBERED_MAX:
                self._missing.clear()
            self._missing[key] = now_s
        return is_there
