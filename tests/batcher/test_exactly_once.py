"""Whatever happens, every item is answered or refused exactly once."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.batcher.aio import Batcher
from bertd.batcher.limits import Limits
from tests.batcher import virtual


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One caller: when it comes, what it brings, and when it leaves."""

    after_ms: int
    size: int
    poison: str
    timeout_ms: int | None
    leaves_ms: int | None
    flow: str
    weight: float


ASKS = st.builds(
    Ask,
    after_ms=st.integers(0, 6),
    size=st.integers(0, 9),
    poison=st.sampled_from(["", "", "", "", "raise", "short", "long", "none", "cancel"]),
    timeout_ms=st.none() | st.integers(-1, 60),
    leaves_ms=st.none() | st.integers(0, 40),
    flow=st.sampled_from("ab"),
    weight=st.sampled_from([0.1, 1.0, 16.0]),
)


@dataclass(slots=True)
class World:
    """A function with moods, and what it was given."""

    batch_ms: int
    asks: list[Ask]
    limits: Limits
    calls: list[list[int]] = field(default_factory=list)
    deadlines_s: dict[int, float] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    async def function(self, items: list[int]) -> object:
        """Fails as the items say; nothing that it is given may be over, gone or too much."""
        now_s = asyncio.get_running_loop().time()
        assert len(items) <= self.limits.max_rows
        assert sum(self.asks[i].size for i in items) <= self.limits.max_tokens
        assert not self.gone.intersection(items)
        assert all(self.deadlines_s.get(i, now_s + 1) > now_s for i in items)
        self.calls.append(items)
        await asyncio.sleep(self.batch_ms / 1000)
        moods = {self.asks[i].poison for i in items}
        if "cancel" in moods:
            raise asyncio.CancelledError
        if "raise" in moods:
            raise ValueError
        if "none" in moods:
            return None
        if "short" in moods:
            return items[:-1]
        return [*items, 0] if "long" in moods else items


async def caller(batcher: Batcher[int, int], world: World, item: int) -> str:
    """Asks, leaves if it is told to, and says how it ended."""
    ask = world.asks[item]
    timeout_s = None if ask.timeout_ms is None else ask.timeout_ms / 1000
    loop = asyncio.get_running_loop()
    if timeout_s is not None:
        world.deadlines_s[item] = loop.time() + timeout_s
    try:
        future = batcher.schedule(item, timeout_s=timeout_s, flow=ask.flow, weight=ask.weight)
    except errors.Error:
        return "refused"
    if ask.leaves_ms is not None:
        loop.call_later(ask.leaves_ms / 1000, leave, world, item, future)
    try:
        assert await future == item
    except asyncio.CancelledError:
        return "cancelled"
    except errors.Expired:
        return "expired"
    except errors.NotReady:
        return "dropped"
    except (ValueError, errors.InvalidRequest, errors.Temporary):
        assert ask.poison, "an innocent item had the error of a mate"
        return "failed"
    assert not ask.poison
    return "answered"


def leave(world: World, item: int, future: asyncio.Future[int]) -> None:
    """The caller goes away."""
    if future.cancel():
        world.gone.add(item)


async def live(world: World, lanes: int, close_ms: int, grace_ms: int | None) -> None:
    """Everybody asks, somebody closes, and the books are checked."""
    batcher: Batcher[int, int] = Batcher(
        world.function,  # type: ignore[arg-type]  # it lies about its results
        limits=world.limits,
        size=lambda item: world.asks[item].size,
        lanes=lanes,
    )
    batcher.open()
    loop = asyncio.get_running_loop()
    closing = []
    loop.call_later(
        close_ms / 1000,
        lambda: closing.append(
            loop.create_task(batcher.close(None if grace_ms is None else grace_ms / 1000))
        ),
    )
    callers = []
    for item, ask in enumerate(world.asks):
        await asyncio.sleep(ask.after_ms / 1000)
        callers.append(asyncio.create_task(caller(batcher, world, item)))
    ends = Counter(await asyncio.gather(*callers))
    await batcher.close()
    await asyncio.gather(*closing)
    counts = batcher.counts
    counted = {name: getattr(counts, name) for name in (
        "answered", "failed", "expired", "cancelled", "dropped", "refused"
    )}  # fmt: skip
    assert {name: number for name, number in counted.items() if number} == dict(ends)
    assert counts.submitted + counts.refused == len(world.asks)
    assert counts.pending == 0
    assert counts.calls == len(world.calls)


@given(
    asks=st.lists(ASKS, max_size=30),
    batch_ms=st.integers(0, 20),
    lanes=st.integers(1, 3),
    limits=st.builds(
        Limits,
        max_rows=st.integers(1, 8),
        max_tokens=st.integers(1, 20),
        max_delay_s=st.sampled_from([0.0, 0.004, 0.03]),
        max_queue_rows=st.integers(1, 12),
        max_queue_delay_s=st.sampled_from([0.02, 10.0]),
    ),
    close_ms=st.integers(0, 150),
    grace_ms=st.none() | st.integers(0, 20),
)
@settings(max_examples=400, deadline=None)
def test_every_item_is_answered_or_refused_exactly_once(
    asks: list[Ask],
    batch_ms: int,
    lanes: int,
    limits: Limits,
    close_ms: int,
    grace_ms: int | None,
) -> None:
    """Whoever leaves, fails, lies or closes: nobody is lost or answered twice (D5, D6, D9).

    Nor is any batch over its limits, or anything computed that is expired or abandoned, and the
    counts add up.
    """
    world = World(batch_ms=batch_ms, asks=asks, limits=limits)
    virtual.run(live(world, lanes, close_ms, grace_ms))
