"""Batch functions that tests watch."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from bertd.batcher.aio import Batcher


class Echo:
    """Answers every item with itself times ten, after `seconds`; remembers its batches."""

    def __init__(self, seconds: float = 0.0, seconds_per_item: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.starts_s: list[float] = []
        self._seconds = seconds
        self._seconds_per_item = seconds_per_item

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.starts_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._seconds + self._seconds_per_item * len(items))
        return [10 * item for item in items]


class Gate:
    """Answers as `Echo`, but a batch ends only when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        await self.open.wait()
        return [10 * item for item in items]


async def turns(count: int = 3) -> None:
    """Lets everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def together(
    batcher: Batcher[int, int], items: Sequence[int], **options: object
) -> list[int | BaseException]:
    """Submits all at once; exceptions stand in the place of results."""
    submit: Callable[..., Awaitable[int]] = batcher.submit
    return await asyncio.gather(
        *(submit(item, **options) for item in items), return_exceptions=True
    )
