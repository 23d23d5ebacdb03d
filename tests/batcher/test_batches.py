"""What shares a batch, when it starts, and where it runs."""

import asyncio
import contextvars
import itertools
import threading

import pytest

from bertd.batcher.aio import Batcher
from bertd.batcher.limits import Limits
from tests.batcher import virtual
from tests.batcher.functions import Echo, Gate, together, turns


@pytest.mark.parametrize("delay_s", [0.0, 0.005])
def test_a_lone_item_waits_no_longer_than_the_delay(delay_s: float) -> None:
    """One item on an idle batcher runs in a batch of one, `max_delay_s` after it came (D1)."""

    async def main() -> None:
        function = Echo(seconds=0.02)
        async with Batcher(function, limits=Limits(max_delay_s=delay_s)) as batcher:
            began_s = asyncio.get_running_loop().time()
            assert await batcher.submit(7) == 70
            taken_s = asyncio.get_running_loop().time() - began_s
        assert function.batches == [[7]]
        assert taken_s == pytest.approx(0.02 + delay_s, abs=1e-6)

    virtual.run(main())


def test_a_hundred_callers_have_their_own_results_in_ten_batches() -> None:
    """100 at once, at most 10 together: ten full batches, first come first served (D2)."""

    async def main() -> None:
        function = Echo(seconds=0.01)
        async with Batcher(function, limits=Limits(max_rows=10)) as batcher:
            assert await together(batcher, range(100)) == [10 * i for i in range(100)]
        assert function.batches == [list(range(at, at + 10)) for at in range(0, 100, 10)]

    virtual.run(main())


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        (Limits(max_rows=8, max_delay_s=0.02), 8),
        (Limits(max_rows=32, enough_rows=8, max_delay_s=0.02), 8),
        (Limits(max_rows=8, max_delay_s=0.0), 1),
    ],
    ids=["max_rows", "enough_rows", "no wait"],
)
def test_items_wait_for_company_while_a_lane_is_idle(limits: Limits, first: int) -> None:
    """8 arrivals 1 ms apart are one batch of 8 if they may wait 20 ms, else start with 1 (D4)."""

    async def main() -> None:
        function = Echo(seconds=0.005)
        async with Batcher(function, limits=limits) as batcher:
            waiting = []
            for item in range(8):
                waiting.append(batcher.schedule(item))
                await asyncio.sleep(0.001)
            assert await asyncio.gather(*waiting) == [10 * i for i in range(8)]
        assert len(function.batches[0]) == first
        assert sum(map(len, function.batches)) == 8

    virtual.run(main())


def test_enough_company_ends_the_wait_at_once() -> None:
    """A batch starts the moment `enough_rows` wait, long before `max_delay_s`."""

    async def main() -> None:
        function = Echo()
        began_s = asyncio.get_running_loop().time()
        async with Batcher(
            function, limits=Limits(max_rows=8, enough_rows=2, max_delay_s=5.0)
        ) as batcher:
            await together(batcher, [1, 2, 3])
        assert function.batches == [[1, 2, 3]]
        assert function.starts_s[0] == began_s

    virtual.run(main())


def test_a_batch_gathers_while_another_runs() -> None:
    """Without any delay, what comes during a batch is the next batch."""

    async def main() -> None:
        function = Echo(seconds=1.0)
        async with Batcher(function) as batcher:
            first = batcher.schedule(0)
            await asyncio.sleep(0.1)
            rest = []
            for item in (1, 2, 3):
                rest.append(batcher.schedule(item))
                await asyncio.sleep(0.1)
            await asyncio.gather(first, *rest)
        assert function.batches == [[0], [1, 2, 3]]

    virtual.run(main())


def test_a_batch_never_has_more_tokens_than_allowed() -> None:
    """Items are measured by `size`; no batch is over `max_tokens`, and all are answered (D9)."""

    async def main() -> None:
        function = Echo(seconds=0.001)
        limits = Limits(max_tokens=10, max_rows=100)
        async with Batcher(function, limits=limits, size=lambda item: item) as batcher:
            items = [7, 3, 10, 1, 1, 9, 2, 5, 5, 6]
            assert await together(batcher, items) == [10 * i for i in items]
        assert max(map(sum, function.batches)) <= 10
        assert sorted(itertools.chain(*function.batches)) == sorted(items)

    virtual.run(main())


def test_lanes_run_side_by_side() -> None:
    """Two lanes run two batches at once, and never three."""

    async def main() -> None:
        running = highest = 0

        async def function(items: list[int]) -> list[int]:
            nonlocal running, highest
            running += 1
            highest = max(highest, running)
            await asyncio.sleep(1)
            running -= 1
            return items

        async with Batcher(function, limits=Limits(max_rows=1), lanes=2) as batcher:
            began_s = asyncio.get_running_loop().time()
            await together(batcher, range(6))
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(3)
        assert highest == 2

    virtual.run(main())


async def test_a_sync_function_never_runs_on_the_loop() -> None:
    """It has threads of its own, and with one lane it is never called from two at once."""
    threads: set[threading.Thread] = set()
    alone = threading.Lock()

    def function(items: list[int]) -> list[int]:
        assert alone.acquire(blocking=False)
        threads.add(threading.current_thread())
        alone.release()
        return items

    async with Batcher(function, limits=Limits(max_rows=2)) as batcher:
        assert await together(batcher, range(20)) == list(range(20))
    assert len(threads) == 1
    assert threading.current_thread() not in threads


async def test_a_callable_that_returns_an_awaitable_is_awaited() -> None:
    """A lambda around an async method is as good as the method."""

    async def times(factor: int, items: list[int]) -> list[int]:
        return [factor * item for item in items]

    batcher: Batcher[int, int] = Batcher(lambda items: times(2, items))
    async with batcher:
        assert await batcher.submit(4) == 8


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_function_sees_no_callers_context(is_async: bool) -> None:
    """Context variables are those of the opener: a batch belongs to no single caller."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = []

    def function(items: list[int]) -> list[int]:
        seen.append(tenant.get())
        return items

    async def async_function(items: list[int]) -> list[int]:
        return function(items)

    tenant.set("opener")
    chosen = async_function if is_async else function
    async with Batcher(chosen) as batcher:

        async def ask(name: str) -> None:
            tenant.set(name)
            await batcher.submit(1)

        await asyncio.gather(asyncio.create_task(ask("a")), asyncio.create_task(ask("b")))
        tenant.set("changed")
        await batcher.submit(1)
    assert seen == ["opener", "opener"]


def test_flows_share_by_weight() -> None:
    """A flow of weight 3 has three of four places while both wait; neither starves."""

    async def main() -> None:
        gate = asyncio.Event()
        batches: list[list[str]] = []

        async def function(items: list[str]) -> list[str]:
            batches.append(items)
            await gate.wait()
            return items

        limits = Limits(max_rows=256, max_tokens=256)
        async with Batcher(function, limits=limits) as batcher:
            plug = batcher.schedule("plug")
            await turns()
            waiting = [batcher.schedule("greedy") for _ in range(4000)]
            waiting += [batcher.schedule("paid", flow="paid", weight=3.0) for _ in range(1500)]
            gate.set()
            await asyncio.gather(plug, *waiting)
        early = [item for batch in batches[1:8] for item in batch]
        assert 0.65 < early.count("paid") / len(early) < 0.85

    virtual.run(main())


def test_a_small_flow_is_not_behind_a_greedy_one() -> None:
    """One item of a flow that wants little overtakes the thousand that another has queued."""

    async def main() -> None:
        gate = Gate()
        async with Batcher(gate, limits=Limits(max_rows=8)) as batcher:
            waiting = [batcher.schedule(item, flow="greedy") for item in range(1000)]
            await turns()
            waiting.append(batcher.schedule(-1, flow="modest"))
            gate.open.set()
            await asyncio.gather(*waiting)
        assert -1 in gate.batches[1]

    virtual.run(main())


def test_the_nearest_deadline_goes_first() -> None:
    """Inside a flow, items that must be done sooner overtake those that came before."""

    async def main() -> None:
        function = Echo(seconds=0.1)
        async with Batcher(function, limits=Limits(max_rows=1)) as batcher:
            plug = batcher.schedule(0)
            await turns()
            waiting = [batcher.schedule(i, timeout_s=9.0 - i) for i in (1, 2, 3)]
            await asyncio.gather(plug, *waiting)
        assert function.batches == [[0], [3], [2], [1]]

    virtual.run(main())
