"""Calls over real gRPC: how each way to end is told apart, and that nothing is retried."""

import asyncio
import collections
import time

import grpc
import pytest

from bertd.client import failure
from bertd.load import calls, generator
from bertd.load.outcome import Outcome

PATH = calls.INFERENCE + "Classify"


async def ends(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Ends a call as the request says."""
    if request == b"ok":
        return b"answer"
    if request == b"slow":
        await asyncio.sleep(30)
    code = grpc.StatusCode.INTERNAL if request == b"broken" else grpc.StatusCode.UNAVAILABLE
    trailers = ((failure.PUSHBACK_KEY, "1"),) if request == b"refused" else ()
    await context.abort(code, request.decode(), trailers)
    raise AssertionError


async def end_of(wire: calls.Calls, request: bytes, timeout_s: float = 5.0) -> calls.Ended:
    """How one call ended."""
    ended: asyncio.Future[calls.Ended] = asyncio.get_running_loop().create_future()
    wire.start(request, timeout_s, ended.set_result)
    assert not ended.done()
    return await asyncio.wait_for(ended, 10.0)


async def test_an_answer_is_its_bytes_and_its_time(serve):
    """Bytes go out and come back as they are; the time lies within the call."""
    async with serve(ends) as address, calls.Calls(address, PATH) as wire:
        began_s = time.monotonic()
        ended = await end_of(wire, b"ok")
        assert (ended.outcome, ended.reply, ended.problem) == (Outcome.OK, b"answer", "")
        assert began_s <= ended.at_s <= time.monotonic()


@pytest.mark.parametrize(
    ("request_", "end", "problem"),
    [
        (b"refused", Outcome.REFUSED, ""),
        (b"bare", Outcome.FAILED, "UNAVAILABLE: bare"),
        (b"broken", Outcome.FAILED, "INTERNAL: broken"),
        (b"slow", Outcome.EXPIRED, ""),
    ],
)
async def test_each_way_to_end_is_told_apart(serve, request_, end, problem):
    """A refusal says when to ask again; UNAVAILABLE without that is a failure."""
    async with serve(ends) as address, calls.Calls(address, PATH) as wire:
        ended = await end_of(wire, request_, timeout_s=0.1 if request_ == b"slow" else 5.0)
    assert (ended.outcome, ended.problem) == (end, problem)


async def test_a_refusal_is_never_sent_again(serve):
    """A daemon that asks to be asked again in 1 ms sees each call once."""
    seen = []

    async def refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        seen.append(request)
        return await ends(b"refused", context)

    async with serve(refuse) as address, calls.Calls(address, PATH) as wire:
        made = [await end_of(wire, b"x") for _ in range(20)]
    assert len(seen) == len(made) == 20
    assert {each.outcome for each in made} == {Outcome.REFUSED}


async def test_nobody_listening_is_a_failure_and_an_error_of_one():
    """In the load it is counted, before the load it is the error that verbs leave with."""
    async with calls.Calls("unix:/nonexistent/s", PATH) as wire:
        ended = await end_of(wire, b"x")
        assert ended.outcome is Outcome.FAILED
        assert ended.problem.startswith("UNAVAILABLE")
        with pytest.raises(failure.CallError) as caught:
            await wire.one(b"x", timeout_s=5.0)
        assert caught.value.unreachable


async def test_connections_take_calls_in_turn(serve):
    """Three connections are three peers, and each has a third of the calls."""
    peers: collections.Counter[str] = collections.Counter()

    async def count(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        peers[context.peer()] += 1
        return b""

    async with (
        serve(count, tcp=True) as address,
        calls.Calls(address, PATH, connections=3) as wire,
    ):
        for _ in range(9):
            await wire.one(b"x", timeout_s=5.0)
    assert sorted(peers.values()) == [3, 3, 3]


async def test_leaving_cancels_what_is_under_way(serve):
    """A load that is broken off leaves no call and no task behind."""
    cancelled = asyncio.Event()

    async def hang(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            started.set()
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    started = asyncio.Event()
    async with serve(hang) as address:
        async with calls.Calls(address, PATH) as wire:
            wire.start(b"x", 30.0, lambda _: None)
            await asyncio.wait_for(started.wait(), 10.0)
        await asyncio.wait_for(cancelled.wait(), 10.0)


@pytest.mark.parametrize("loop", [{"concurrency": 8}, {"rate": 300.0}], ids=["closed", "open"])
async def test_a_load_over_the_wire_adds_up(serve, loop):
    """Every call of every kind is counted once, here and there."""
    seen: collections.Counter[bytes] = collections.Counter()
    kinds = (b"ok", b"refused", b"broken", b"bare", b"slow")

    async def count(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        seen[request] += 1
        return await ends(request, context)

    async with serve(count) as address, calls.Calls(address, PATH) as wire:
        await wire.one(b"ok", timeout_s=5.0)
        plan = generator.Plan(duration_s=0.4, deadline_s=0.3, **loop)
        drawn = iter(kinds * 1000)
        made = generator.Generator(plan, wire, lambda: next(drawn))
        tally = await made.run()
    assert tally.sent == tally.ok + tally.refused + tally.failed + tally.expired == made.made
    assert sum(seen.values()) == made.made + 1
    assert tally.ok == seen[b"ok"] - 1
    assert tally.refused == seen[b"refused"]
    assert tally.expired == seen[b"slow"]
    assert tally.failed == seen[b"broken"] + seen[b"bare"]


async def test_a_server_that_stalls_shows_in_latency_and_recovers(serve):
    """A stall of 0.2 s makes the p90 of an open loop as long, not just one call's latency."""
    open_again = asyncio.Event()

    async def stall(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await open_again.wait()
        return b""

    async with serve(stall) as address, calls.Calls(address, PATH) as wire:
        plan = generator.Plan(rate=200.0, duration_s=0.3, deadline_s=5.0)
        asyncio.get_running_loop().call_later(0.3, open_again.set)
        tally = await generator.Generator(plan, wire, lambda: b"x").run()
    assert tally.ok == tally.sent > 20
    assert tally.latency.percentile(500) > 0.08
    assert tally.latency.most_s > 0.2
