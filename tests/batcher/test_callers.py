"""Callers that leave, hurry, or ask for the impossible harm nobody else."""

import asyncio
import gc
import math
import weakref
from collections.abc import Callable
from typing import cast

import pytest

from bertd import errors
from bertd.batcher.aio import Batcher
from bertd.batcher.limits import Limits
from tests.batcher import virtual
from tests.batcher.functions import Echo, Gate, together, turns


def test_a_cancelled_caller_kills_nothing() -> None:
    """One caller leaves while its batch runs: its mates and the next one are answered (D5).

    The predecessor's engine died of this.
    """

    async def main() -> None:
        function = Gate()
        async with Batcher(function) as batcher:
            tasks = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
            await turns()
            assert function.batches == [[0, 1, 2]]
            tasks[1].cancel()
            await turns()
            function.open.set()
            assert [await tasks[0], await tasks[2]] == [0, 20]
            assert await batcher.submit(3) == 30
            assert tasks[1].cancelled()
        counts = batcher.counts
        assert (counts.answered, counts.cancelled, counts.pending) == (3, 1, 0)

    virtual.run(main())


def test_every_caller_of_a_batch_may_leave() -> None:
    """A batch that nobody waits for any more ends quietly, and the lane goes on."""

    async def main() -> None:
        function = Gate()
        async with Batcher(function) as batcher:
            tasks = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
            await turns()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            function.open.set()
            assert await batcher.submit(4) == 40

    virtual.run(main())


def test_a_cancelled_item_frees_its_place_and_never_runs() -> None:
    """Thousands vanish from a full queue: as many others may come at once (D5, checklist 56)."""

    async def main() -> None:
        function = Gate()
        limits = Limits(max_queue_rows=2000, max_rows=4000)
        async with Batcher(function, limits=limits) as batcher:
            plug = batcher.schedule(0)
            await turns()
            waiting = [batcher.schedule(i) for i in range(1, 2001)]
            with pytest.raises(errors.Overloaded, match="full"):
                batcher.schedule(9999)
            for future in waiting:
                future.cancel()
            await turns()
            others = [batcher.schedule(-i) for i in range(1, 2001)]
            function.open.set()
            assert await asyncio.gather(plug, *others) == [-10 * i for i in range(2001)]
        assert function.batches[1] == [-i for i in range(1, 2001)]
        counts = batcher.counts
        assert (counts.submitted, counts.answered, counts.cancelled) == (4001, 2001, 2000)

    virtual.run(main())


def test_expired_work_never_runs() -> None:
    """An item whose time is over while it waits is refused on the second, and not computed (D5)."""

    async def main() -> None:
        function = Gate()
        loop = asyncio.get_running_loop()
        async with Batcher(function) as batcher:
            plug = batcher.schedule(0)
            await turns()
            began_s = loop.time()
            results = await together(batcher, [1, 2], timeout_s=0.5)
            assert loop.time() - began_s == pytest.approx(0.5)
            assert [type(r) for r in results] == [errors.Expired] * 2
            function.open.set()
            assert await batcher.submit(3) == 30
            assert await plug == 0
        assert function.batches == [[0], [3]]
        assert batcher.counts.expired == 2

    virtual.run(main())


def test_a_loop_that_was_blocked_runs_no_expired_work() -> None:
    """Deadlines are looked at before every call, also when timers come too late."""

    async def main() -> None:
        function = Gate()
        loop = asyncio.get_running_loop()
        async with Batcher(function) as batcher:
            plug = batcher.schedule(0)
            await turns()
            late = batcher.schedule(1, timeout_s=5.0)
            loop._clock.now_s += 60  # type: ignore[attr-defined]  # as if somebody had blocked it
            function.open.set()
            with pytest.raises(errors.Expired):
                await late
            await plug
        assert function.batches == [[0]]

    virtual.run(main())


def test_a_caller_whose_batch_runs_too_long_is_told_in_time() -> None:
    """The deadline also holds while the item is computed; its mates are answered."""

    async def main() -> None:
        function = Echo(seconds=10)
        async with Batcher(function) as batcher:
            patient = batcher.schedule(1)
            with pytest.raises(errors.Expired):
                await batcher.submit(2, timeout_s=1)
            assert await patient == 10

    virtual.run(main())


@pytest.mark.parametrize("timeout_s", [0, 0.0, -1, -math.inf])
def test_an_item_without_time_is_refused_at_once(timeout_s: float) -> None:
    """A deadline that has passed is never queued."""

    async def main() -> None:
        async with Batcher(Echo()) as batcher:
            with pytest.raises(errors.Expired):
                await batcher.submit(1, timeout_s=timeout_s)
        assert batcher.counts.refused == 1

    virtual.run(main())


@pytest.mark.parametrize("timeout_s", [365 * 86_400, 1e300, math.inf, None])
def test_an_item_with_all_the_time_in_the_world_is_answered(timeout_s: float | None) -> None:
    """A deadline in a year is a deadline."""

    async def main() -> None:
        async with Batcher(Echo()) as batcher:
            assert await batcher.submit(1, timeout_s=timeout_s) == 10

    virtual.run(main())


async def test_an_answered_item_is_forgotten() -> None:
    """Neither a deadline that is far away nor the batcher holds an item after its answer."""

    class Item:
        pass

    async def function(items: list[Item]) -> list[int]:
        return [id(item) for item in items]

    async with Batcher(function) as batcher:
        item = Item()
        kept = weakref.ref(item)
        assert await batcher.submit(item, timeout_s=3600) == id(item)
        del item
        await turns()
        gc.collect()
        assert kept() is None


@pytest.mark.parametrize(
    "options",
    [{"weight": 0}, {"weight": -1.0}, {"weight": math.nan}, {"weight": math.inf},
     {"timeout_s": math.nan}],
)  # fmt: skip
def test_senseless_arguments_are_refused(options: dict[str, float]) -> None:
    """Weights that cannot share and times that are none are the caller's mistake."""

    async def main() -> None:
        async with Batcher(Echo()) as batcher:
            with pytest.raises(errors.InvalidRequest):
                await batcher.submit(1, **options)  # type: ignore[arg-type]  # what is tested
            assert await batcher.submit(1) == 10

    virtual.run(main())


@pytest.mark.parametrize("size", [0, -5, 1.5, None, "3"])
def test_a_senseless_size_is_its_own_callers_error(size: object) -> None:
    """An item must have at least one token."""

    async def main() -> None:
        sizes = {1: 1, 2: size}
        size_of = cast("Callable[[int], int]", sizes.__getitem__)
        async with Batcher(Echo(), size=size_of) as batcher:
            results = await together(batcher, [1, 2, 3])
            assert [type(r) for r in results] == [int, errors.InvalidRequest, KeyError]
        counts = batcher.counts
        assert (counts.submitted, counts.refused) == (1, 2)

    virtual.run(main())


def test_an_item_larger_than_a_batch_is_refused() -> None:
    """What cannot fit into any batch is too large, not too early (D9)."""

    async def main() -> None:
        async with Batcher(Echo(), limits=Limits(max_tokens=10), size=abs) as batcher:
            with pytest.raises(errors.TooLarge, match="10 tokens, and has 11"):
                await batcher.submit(11)
            assert await batcher.submit(10) == 100

    virtual.run(main())


def test_a_full_queue_refuses_at_once() -> None:
    """The queue is bounded; who is refused is told when to come again (D10)."""

    async def main() -> None:
        function = Gate()
        async with Batcher(function, limits=Limits(max_queue_rows=2)) as batcher:
            waiting = [batcher.schedule(0)]
            await turns()
            waiting += [batcher.schedule(i) for i in (1, 2)]
            with pytest.raises(errors.Overloaded) as caught:
                batcher.schedule(3)
            assert caught.value.retry_after_s > 0
            function.open.set()
            assert await asyncio.gather(*waiting) == [0, 10, 20]

    virtual.run(main())


async def warm(batcher: Batcher[int, int]) -> None:
    """Teaches the batcher what a batch of one costs."""
    for _ in range(20):
        await batcher.submit(0)


def fill(
    batcher: Batcher[int, int], *, timeout_s: float
) -> tuple[list[asyncio.Future[int]], errors.Overloaded]:
    """Submits until one is refused: what waits now, and the refusal."""
    waiting: list[asyncio.Future[int]] = []
    while len(waiting) < 1000:
        try:
            waiting.append(batcher.schedule(1, timeout_s=timeout_s))
        except errors.Overloaded as error:
            return waiting, error
    raise AssertionError("nothing is refused")


def test_an_item_that_would_be_late_is_refused_now() -> None:
    """Who cannot be in time, or would make an accepted item late, hears so at once.

    Whoever was accepted is in time, and who has time enough may still come.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Batcher(Echo(seconds=0.5), limits=Limits(max_rows=1)) as batcher:
            await warm(batcher)
            began_s = loop.time()
            waiting, refused = fill(batcher, timeout_s=6.0)
            assert 5 <= len(waiting) <= 12
            assert "too late for the deadline" in str(refused)
            assert 2 <= refused.retry_after_s <= 6
            with pytest.raises(errors.Overloaded, match="admitted before"):
                batcher.schedule(1, timeout_s=3.0)
            waiting.append(batcher.schedule(1))
            assert loop.time() == began_s
            assert set(await asyncio.gather(*waiting)) == {10}

    virtual.run(main())


def test_an_item_that_would_wait_too_long_is_refused() -> None:
    """`max_queue_delay_s` bounds the predicted wait also of items without a deadline."""

    async def main() -> None:
        limits = Limits(max_rows=1, max_queue_delay_s=1.2)
        async with Batcher(Echo(seconds=0.5), limits=limits) as batcher:
            await warm(batcher)
            results = await together(batcher, range(10))
        accepted = [r for r in results if isinstance(r, int)]
        refused = [r for r in results if isinstance(r, errors.Overloaded)]
        assert len(accepted) + len(refused) == 10
        assert 2 <= len(accepted) <= 4

    virtual.run(main())


def test_a_slow_first_call_closes_no_door() -> None:
    """A function that loads its model when it is first called is not held to be so slow."""

    async def main() -> None:
        seconds = iter([30.0])

        async def function(items: list[int]) -> list[int]:
            await asyncio.sleep(next(seconds, 0.01))
            return items

        async with Batcher(function, limits=Limits(max_rows=1)) as batcher:
            await batcher.submit(0)
            results = await together(batcher, range(20), timeout_s=1.0)
            assert results == list(range(20))

    virtual.run(main())


def test_an_idle_lane_serves_whatever_was_predicted() -> None:
    """One slow batch must not close the door for ever: who finds an idle lane runs."""

    async def main() -> None:
        seconds = iter([0.01, 30.0])

        async def function(items: list[int]) -> list[int]:
            await asyncio.sleep(next(seconds, 0.01))
            return items

        async with Batcher(function) as batcher:
            for _ in range(2):
                await batcher.submit(1)
            for item in range(20):
                assert await batcher.submit(item, timeout_s=1.0) == item

    virtual.run(main())
