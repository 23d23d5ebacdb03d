"""A batcher that closes answers whom it accepted, and nobody waits for ever."""

import asyncio
import threading

import pytest

from bertd import errors
from bertd.batcher.aio import Batcher
from bertd.batcher.limits import Limits
from tests.batcher import virtual
from tests.batcher.functions import Echo, Gate, together, turns


def test_closing_answers_what_was_accepted_and_refuses_what_comes() -> None:
    """What runs and what waits is answered, without company; who is new is told not to retry."""

    async def main() -> None:
        function = Echo(seconds=1)
        loop = asyncio.get_running_loop()
        batcher = Batcher(function, limits=Limits(max_rows=4, max_delay_s=60))
        async with batcher:
            began_s = loop.time()
            waiting = [batcher.schedule(i) for i in range(6)]
            await turns()
            closing = asyncio.create_task(batcher.close())
            await turns()
            with pytest.raises(errors.NotReady, match="closing") as caught:
                await batcher.submit(7)
            assert caught.value.retry_after_s < 0
            await closing
            assert loop.time() - began_s == pytest.approx(2)
            assert [future.result() for future in waiting] == [0, 10, 20, 30, 40, 50]
        with pytest.raises(errors.NotReady):
            await batcher.submit(8)

    virtual.run(main())


def test_closing_twice_is_closing_once() -> None:
    """Any number of closes, together and after each other, all return when all is answered."""

    async def main() -> None:
        async with Batcher(Echo(seconds=1)) as batcher:
            future = batcher.schedule(1)
            await asyncio.gather(*(batcher.close() for _ in range(3)))
            assert future.result() == 10
            await batcher.close()

    virtual.run(main())


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_a_close_that_gives_up_frees_every_caller(is_stubborn: bool) -> None:
    """After `grace_s` running and waiting callers are refused, even if the function goes on."""

    async def main() -> None:
        gone = asyncio.Event()

        async def function(items: list[int]) -> list[int]:
            while not gone.is_set():
                try:
                    await gone.wait()
                except asyncio.CancelledError:
                    if not is_stubborn:
                        raise
            return items

        loop = asyncio.get_running_loop()
        batcher = Batcher(function, limits=Limits(max_rows=2))
        batcher.open()
        waiting = [batcher.schedule(i) for i in range(5)]
        await turns()
        patient = asyncio.create_task(batcher.close())
        began_s = loop.time()
        await batcher.close(grace_s=3)
        assert 3 <= loop.time() - began_s <= 5
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(r) for r in results] == [errors.NotReady] * 5
        await patient
        assert batcher.counts.dropped == 5
        gone.set()
        await turns()

    virtual.run(main())


async def test_a_close_does_not_wait_for_a_thread_that_hangs() -> None:
    """A sync function that never returns keeps its thread, not its callers."""
    entered, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def function(items: list[int]) -> list[int]:
        loop.call_soon_threadsafe(entered.set)
        leave.wait()
        return items

    batcher = Batcher(function)
    batcher.open()
    future = batcher.schedule(1)
    await entered.wait()
    await batcher.close(grace_s=0)
    leave.set()
    with pytest.raises(errors.NotReady):
        await future


def test_whoever_stops_waiting_for_a_close_ends_it() -> None:
    """A cancelled close refuses what is left instead of leaving it without an owner."""

    async def main() -> None:
        function = Gate()
        async with Batcher(function) as batcher:
            waiting = [batcher.schedule(1)]
            await turns()
            waiting.append(batcher.schedule(2))
            closing = asyncio.create_task(batcher.close())
            await turns()
            closing.cancel()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(r) for r in results] == [errors.NotReady] * 2

    virtual.run(main())


def test_cancelled_callers_do_not_hold_up_a_close() -> None:
    """A close waits for batches, not for callers that left."""

    async def main() -> None:
        function = Gate()
        batcher = Batcher(function, limits=Limits(max_delay_s=1e6, max_rows=8))
        batcher.open()
        future = batcher.schedule(1)
        await turns()
        future.cancel()
        await batcher.close()
        assert function.batches == []

    virtual.run(main())


async def test_a_batcher_serves_only_while_it_is_open() -> None:
    """Not before, not again, and not on another loop: each says what to do."""
    batcher = Batcher(Echo())
    with pytest.raises(errors.NotReady, match="async with"):
        await batcher.submit(1)
    async with batcher:
        with pytest.raises(errors.Conflict):
            batcher.open()
        with pytest.raises(errors.InvalidRequest, match="SyncBatcher"):
            await asyncio.to_thread(asyncio.run, batcher.submit(1))
        with pytest.raises(errors.InvalidRequest, match="SyncBatcher"):
            await asyncio.to_thread(asyncio.run, batcher.close())
    never = Batcher(Echo())
    await never.close()
    with pytest.raises(errors.Conflict):
        never.open()


def test_a_function_that_waits_for_itself_is_told_so() -> None:
    """A batch function that asks or closes its own batcher has an error instead of a deadlock.

    A task that it left behind may ask.
    """

    async def main() -> None:
        later: list[asyncio.Task[int]] = []
        go = asyncio.Event()

        async def afterwards() -> int:
            await go.wait()
            return await batcher.submit(5)

        async def function(items: list[int]) -> list[int]:
            if 1 in items:
                await asyncio.gather(batcher.submit(2))
            if 3 in items:
                await batcher.close()
            if 4 in items:
                later.append(asyncio.create_task(afterwards()))
            return items

        async with Batcher(function, limits=Limits(max_rows=1)) as batcher:
            results = await together(batcher, [1, 3, 4])
            assert [type(r) for r in results] == [errors.InvalidRequest] * 2 + [int]
            go.set()
            assert await later[0] == 5

    virtual.run(main())


@pytest.mark.parametrize("lanes", [0, -1, 1.5, None])
def test_a_batcher_has_lanes_and_a_function(lanes: int) -> None:
    """What could never run a batch is refused when it is made (D3)."""
    with pytest.raises(errors.InvalidRequest, match="lanes"):
        Batcher(Echo(), lanes=lanes)
    with pytest.raises(errors.InvalidRequest, match="callable"):
        Batcher("model")  # type: ignore[arg-type]  # what is tested
