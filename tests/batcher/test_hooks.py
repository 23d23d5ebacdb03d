"""Hooks see five events, and nothing that they do changes anything."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from bertd import errors
from bertd.batcher.aio import Batcher
from bertd.batcher.hooks import Hooks
from bertd.batcher.limits import Limits
from tests.batcher import virtual
from tests.batcher.functions import together, turns

EVENTS = ("on_start", "on_schedule", "on_batch_start", "on_batch_complete", "on_exception")


class Diary(Hooks):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def on_start(self) -> None:
        self.lines.append(("start",))

    def on_schedule(self, item: object) -> None:
        self.lines.append(("schedule", item))

    def on_batch_start(self, items: Sequence[object]) -> None:
        self.lines.append(("batch", items))

    def on_batch_complete(self, items: Sequence[object], results: Sequence[object]) -> None:
        self.lines.append(("complete", items, results))

    def on_exception(self, error: Exception) -> None:
        self.lines.append(("exception", str(error)))


async def function(items: list[int]) -> list[int]:
    """Cannot do 3."""
    if 3 in items:
        raise ValueError("no 3")
    return [-item for item in items]


def test_the_five_events_are_told_in_order() -> None:
    """Start, schedule, batch start, batch complete and exception are all observable (D13)."""

    async def main() -> None:
        diary = Diary()
        async with Batcher(function, hooks=[Hooks(), diary]) as batcher:
            await together(batcher, [1, 3])
        assert diary.lines == [
            ("start",),
            ("schedule", 1),
            ("schedule", 3),
            ("batch", [1, 3]),
            ("exception", "no 3"),
            ("batch", [1]),
            ("complete", [1], [-1]),
            ("batch", [3]),
            ("exception", "no 3"),
        ]

    virtual.run(main())


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError, StopIteration])
def test_a_raising_hook_affects_nothing(
    event: str, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Answers, errors and other hooks are as without it, and its failure is logged once (D13).

    The predecessor's loop died of this.
    """

    class Bad(Hooks):
        pass

    def fail(self: Hooks, *_: object) -> None:
        raise raised

    setattr(Bad, event, fail)

    async def main() -> None:
        diary = Diary()
        async with Batcher(function, hooks=[Bad(), diary]) as batcher:
            for _ in range(3):
                results = await together(batcher, [1, 3, 5])
                assert [str(r) for r in results] == ["-1", "no 3", "-5"]
        assert len(diary.lines) > 20

    with caplog.at_level(logging.ERROR):
        virtual.run(main())
    assert [event in record.getMessage() for record in caplog.records] == [True]


def test_a_hook_cannot_change_a_batch() -> None:
    """Lists that a hook is given are its own."""

    class Greedy(Hooks):
        def on_batch_start(self, items: Sequence[object]) -> None:
            assert isinstance(items, list)
            items.clear()

        def on_batch_complete(self, items: Sequence[object], results: Sequence[object]) -> None:
            assert isinstance(results, list)
            results.clear()

    async def main() -> None:
        async with Batcher(function, hooks=[Greedy()]) as batcher:
            assert await together(batcher, [1, 2]) == [-1, -2]

    virtual.run(main())


def test_a_refused_item_is_not_scheduled() -> None:
    """Hooks hear of an item when it is accepted."""

    async def main() -> None:
        diary = Diary()
        limits = Limits(max_queue_rows=1)
        async with Batcher(function, limits=limits, hooks=[diary]) as batcher:
            first = batcher.schedule(1)
            with pytest.raises(errors.Overloaded):
                batcher.schedule(2)
            await turns()
            assert await first == -1
        assert ("schedule", 2) not in diary.lines

    virtual.run(main())
