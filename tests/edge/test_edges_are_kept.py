"""The front keeps its edges running, tells them of its health, and stops them in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from bertd import errors
from bertd.runtime import desk, edges
from tests.edge import fakes

OPTIONS = edges.Options(listen=("127.0.0.1:1",), default_deadline_s=10.0)


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Process:
    """An edge that does what a test says."""

    def __init__(self, pid: int, problem: errors.Error | None) -> None:
        self.pid = pid
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.dead = asyncio.Event()
        self.stays = False
        self._problem = problem

    def tell(self, operation: str, **fields: Any) -> None:
        self.told.append((operation, fields))
        if operation == "stop" and not self.stays:
            self.dead.set()

    async def listening(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def ended(self) -> None:
        await self.dead.wait()

    async def close(self, grace_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(grace_s, 0.01)):
                await self.dead.wait()
        self.dead.set()

    @property
    def health(self) -> dict[str, bool | None]:
        """What it says to probes."""
        return {f["name"]: f["serving"] for operation, f in self.told if operation == "health"}


class Bench:
    """Edges of fake processes; `problems` come with the next ones that are started."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.started: list[Process] = []
        self.problems: list[errors.Error | None] = []
        self.refusals: list[errors.Error] = []
        self.edges = edges.Edges(count, self.seat, clock=self.clock, spawn=self.spawn)

    def seat(
        self, send: Callable[[bytes], None], on_told: Callable[[Mapping[str, Any]], None]
    ) -> desk.Desk:
        raise AssertionError("a fake process needs no desk")

    async def spawn(self, options: edges.Options, seat: edges.Seat) -> Process:
        assert options is OPTIONS
        if self.refusals:
            raise self.refusals.pop(0)
        problem = self.problems.pop(0) if self.problems else None
        self.started.append(Process(100 + len(self.started), problem))
        return self.started[-1]


@pytest.fixture(name="slept")
def _slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits before restarts, which take no time here."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float, result: object = None) -> None:
        if delay_s >= 0.05:
            waits.append(delay_s)
        await sleep(0 if delay_s >= 0.05 else delay_s)

    monkeypatch.setattr(asyncio, "sleep", note)
    return waits


@contextlib.asynccontextmanager
async def running(count: int) -> AsyncIterator[Bench]:
    """Edges that listen."""
    bench = Bench(count)
    await bench.edges.start(OPTIONS)
    try:
        yield bench
    finally:
        await bench.edges.stop(5.0)


async def test_an_edge_that_dies_is_replaced(slept: list[float]) -> None:
    """The others stay as they are; the new one is told what health is now."""
    async with running(2) as bench:
        bench.edges.tell("ready", True)
        bench.edges.tell("model/a", True)
        bench.edges.tell("model/b", True)
        bench.edges.tell("model/b", None)
        bench.started[0].dead.set()
        await fakes.until(lambda: bench.edges.pids == (102, 101))
        bench.edges.tell("model/a", False)
        assert bench.started[2].health == {"ready": True, "model/a": False}
        assert bench.started[1].health["model/b"] is None
        assert slept == []


async def test_edges_that_die_at_once_are_restarted_ever_later(slept: list[float]) -> None:
    """The first replacement is immediate; then waits double, until one lives long."""
    async with running(1) as bench:
        for n in range(5):
            bench.started[n].dead.set()
            await fakes.until(lambda n=n: len(bench.started) == n + 2)
        assert slept == [0.1, 0.2, 0.4, 0.8]
        bench.clock.now_s += edges.STABLE_S
        bench.started[5].dead.set()
        await fakes.until(lambda: len(bench.started) == 7)
        assert slept == [0.1, 0.2, 0.4, 0.8]


async def test_a_replacement_that_fails_is_tried_again(slept: list[float]) -> None:
    """Whether it cannot be started or does not listen: nobody gives up, and none is left over."""
    async with running(1) as bench:
        bench.refusals = [errors.Temporary("no process to spare")]
        bench.problems = [errors.Conflict("the port is taken"), None]
        bench.started[0].dead.set()
        await fakes.until(lambda: len(bench.started) == 3)
        await fakes.until(lambda: bench.edges.pids == (102,))
        assert bench.started[1].dead.is_set()
        assert slept == [0.1, 0.2]


@pytest.mark.parametrize("slot", [0, 1])
async def test_edges_that_cannot_listen_stop_the_start(slot: int) -> None:
    """What keeps one from listening is raised, and `stop` ends all of them."""
    bench = Bench(2)
    bench.problems = [None] * slot + [errors.Conflict("taken")]
    with pytest.raises(errors.Conflict, match="taken"):
        await bench.edges.start(OPTIONS)
    await bench.edges.stop(0.0)
    assert all(each.dead.is_set() for each in bench.started)


async def test_health_goes_before_the_servers_do() -> None:
    """Drain reaches every edge before stop does, and none is replaced from then on."""
    async with running(2) as bench:
        bench.edges.drain()
        bench.started[0].dead.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bench.started) == 2
    for each in bench.started:
        assert each.told == [("drain", {}), ("stop", {"graceSeconds": 5.0})]


async def test_an_edge_that_does_not_leave_is_ended() -> None:
    """Stop returns though one hangs."""
    async with running(2) as bench:
        bench.started[1].stays = True
    assert bench.started[1].dead.is_set()


async def test_no_edges_are_no_trouble() -> None:
    """With none, everything that the daemon tells them is told to nobody."""
    async with running(0) as bench:
        bench.edges.tell("ready", True)
        bench.edges.drain()
        assert bench.edges.pids == ()
