"""Deadlines, cancellation and bounds: nothing waits for ever, and nothing that expired runs."""

import asyncio
import contextlib
import threading

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bertd import errors
from bertd.serving import guard
from bertd.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc
from bertd.v1 import inference_pb2 as pb
from tests.serving import fakes

PATIENCE_S = 5.0


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now_s

    def pass_a_minute(self) -> None:
        """Moves it by 60 s."""
        self.now_s += 60.0


class Gate:
    """Work that waits until it is let go, and tells when it began and when it was given up."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.opened = asyncio.Event()
        self.left = asyncio.Event()
        self.running = 0
        self.deadlines_s: list[float] = []

    async def __call__(self, rows: object, deadline_s: float) -> None:
        """The work of a fake route."""
        self.deadlines_s.append(deadline_s)
        self.running += 1
        self.began.set()
        try:
            await self.opened.wait()
        finally:
            self.running -= 1
            self.left.set()


def request(text: str = "fine") -> pb.ClassifyRequest:
    """A Classify request for the usual route."""
    return pb.ClassifyRequest(model="english", adapter="sst2", inputs=[pb.Input(text=text)])


@contextlib.asynccontextmanager
async def serving(socket: str, route: fakes.Route, **guarding: object):
    """Stubs of Inference and Health, and the daemon."""
    async with (
        fakes.running({("english", "sst2"): route}, socket, **guarding) as daemon,
        grpc.aio.insecure_channel(daemon.admin) as channel,
        asyncio.timeout(PATIENCE_S),
    ):
        stubs = inference_pb2_grpc.InferenceStub(channel), health_pb2_grpc.HealthStub(channel)
        yield *stubs, daemon


async def counted(daemon: fakes.Daemon, *codes: str) -> None:
    """Waits until one call of the usual route ended with one of these codes."""
    labels = {"model": "english", "adapter": "sst2", "method": "Classify"}
    while not any(daemon.count(code=code, **labels) for code in codes):
        await asyncio.sleep(0)  # a call is counted just after its client was told


@pytest.mark.parametrize("timeout_s", [5.0, None])
async def test_what_expired_while_it_was_tokenised_is_never_run(socket, timeout_s):
    """A passed deadline is DEADLINE_EXCEEDED, and the engine is untouched (checklist 56)."""
    clock = Clock()
    route = fakes.Route(tokenizer=fakes.WordTokenizer(clock.pass_a_minute))
    async with serving(socket, route, clock=clock) as (stub, _, daemon):
        error = await fakes.refusal(stub.Classify(request(), timeout=timeout_s))
        await counted(daemon, "DEADLINE_EXCEEDED")
    assert error.code().name == "DEADLINE_EXCEEDED"
    assert "before anything was computed" in error.details()
    assert route.runs == []


async def test_a_call_without_deadline_gets_the_default(socket):
    """The default deadline goes into the queue and ends the call, and is counted (checklist 57)."""
    gate, clock = Gate(), Clock()
    route = fakes.Route(work=gate)
    options = {"clock": clock, "default_deadline_s": 0.05}
    async with serving(socket, route, **options) as (stub, _, daemon):
        error = await fakes.refusal(stub.Classify(request()))
        await counted(daemon, "DEADLINE_EXCEEDED")
    assert error.code().name == "DEADLINE_EXCEEDED"
    assert "not answered within 0.05 s" in error.details()
    assert gate.deadlines_s == [100.05]
    assert gate.running == 0


def test_the_default_deadline_is_ten_seconds():
    """The documented number (checklist 57)."""
    assert guard.DEFAULT_DEADLINE_S == 10.0


@pytest.mark.parametrize(("timeout_s", "wanted_s"), [(60, 160), (100_000, 400)])
async def test_the_callers_deadline_is_carried_up_to_a_bound(socket, timeout_s, wanted_s):
    """The queue gets the caller's own absolute deadline, and none later than 300 s."""
    gate = Gate()
    gate.opened.set()
    async with serving(socket, fakes.Route(work=gate), clock=Clock()) as (stub, _, _):
        await stub.Classify(request(), timeout=timeout_s)
    assert gate.deadlines_s == [pytest.approx(wanted_s, abs=1.0)]


async def test_the_callers_deadline_ends_the_call(socket):
    """A deadline that passes while the call waits frees its place, and is counted."""
    gate = Gate()
    async with serving(socket, fakes.Route(work=gate)) as (stub, _, daemon):
        error = await fakes.refusal(stub.Classify(request(), timeout=0.3))
        await gate.left.wait()
        # On a loaded machine the caller's own cancellation may come first by more than the slack.
        await counted(daemon, "DEADLINE_EXCEEDED", "CANCELLED")
    assert error.code().name == "DEADLINE_EXCEEDED"


async def test_a_cancelled_call_frees_its_place_at_once(socket):
    """What waited for a client that left is given up within 10 ms (checklist 56)."""
    gate, took_s = Gate(), []
    async with serving(socket, fakes.Route(work=gate)) as (stub, _, daemon):
        for _ in range(5):
            gate.began.clear()
            gate.left.clear()
            call = stub.Classify(request())
            await gate.began.wait()
            began_s = asyncio.get_running_loop().time()
            call.cancel()
            await gate.left.wait()
            took_s.append(asyncio.get_running_loop().time() - began_s)
        await counted(daemon, "CANCELLED")
    assert gate.running == 0
    assert min(took_s) < 0.01


async def test_a_call_cancelled_while_it_is_tokenised_never_runs(socket):
    """A client that leaves early costs no computation."""
    began, go = threading.Event(), threading.Event()

    def encode() -> None:
        began.set()
        go.wait(PATIENCE_S)

    route = fakes.Route(tokenizer=fakes.WordTokenizer(encode), truncate=True)
    async with serving(socket, route) as (stub, _, daemon):
        call = stub.Classify(request("w " * 2000))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        call.cancel()
        await counted(daemon, "CANCELLED")
        go.set()
    assert route.runs == []


async def test_a_cancellation_from_inside_does_not_leave_the_client_waiting(socket):
    """A future that somebody else cancelled is an error of ours, answered as one."""

    async def work(rows: object, deadline_s: float) -> None:
        raise asyncio.CancelledError

    async with serving(socket, fakes.Route(work=work)) as (stub, _, daemon):
        error = await fakes.refusal(stub.Classify(request()))
        await counted(daemon, "INTERNAL")
    assert error.code().name == "INTERNAL"


async def live_s(health: health_pb2_grpc.HealthStub) -> float:
    """How long a liveness probe takes."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    reply = await health.Check(health_pb2.HealthCheckRequest(service="live"))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    return loop.time() - began_s


async def test_liveness_answers_while_calls_compute(socket):
    """With 32 callers waiting for the engine, a probe answers within 100 ms (F6)."""
    gate = Gate()
    async with serving(socket, fakes.Route(work=gate)) as (stub, health, _):
        waiting = [asyncio.ensure_future(stub.Classify(request())) for _ in range(32)]
        while gate.running < 32:
            await asyncio.sleep(0)
        assert await live_s(health) < 0.1
        gate.opened.set()
        replies = await asyncio.gather(*waiting)
    assert len(replies) == 32


async def test_liveness_answers_while_long_texts_are_tokenised(socket):
    """Long texts are tokenised off the event loop: probes and short calls pass them (F6)."""
    go, encoding = threading.Event(), threading.Event()
    loop_thread = threading.get_ident()

    def encode() -> None:
        if threading.get_ident() != loop_thread:
            encoding.set()
            go.wait(PATIENCE_S)

    route = fakes.Route(tokenizer=fakes.WordTokenizer(encode), truncate=True)
    async with serving(socket, route) as (stub, health, _):
        long = asyncio.ensure_future(stub.Classify(request("w " * 2000)))
        await asyncio.to_thread(encoding.wait, PATIENCE_S)
        assert await live_s(health) < 0.1
        assert (await stub.Classify(request())).results
        assert not long.done()
        go.set()
        assert (await long).results


async def test_more_calls_than_the_bound_are_shed_with_pushback(socket):
    """Calls beyond the bound are refused at once, in the same words, and probes never are."""
    gate = Gate()
    async with serving(socket, fakes.Route(work=gate), most_calls=1) as (stub, health, _):
        first = asyncio.ensure_future(stub.Classify(request()))
        await gate.began.wait()
        error = await fakes.refusal(stub.Classify(request()))
        assert await live_s(health) < 0.1
        gate.opened.set()
        assert (await first).results
        assert (await stub.Classify(request())).results
    assert error.code().name == "UNAVAILABLE"
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "100"


async def test_calls_are_shed_while_memory_is_short(socket):
    """Near the limit of memory calls are refused before anything is read (checklist 69)."""
    short = [True]
    async with serving(socket, fakes.Route(), is_memory_short=lambda: short[0]) as served:
        stub, health, daemon = served
        error = await fakes.refusal(stub.Classify(request()))
        assert await live_s(health) < 0.1
        short[0] = False
        assert (await stub.Classify(request())).results
        assert daemon.series("shed_total", model="", reason="Memory") == 1
    assert error.code().name == "UNAVAILABLE"
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "100"


async def test_a_hopeless_call_is_refused_before_it_is_encoded(socket):
    """Where it is known that a call cannot come in, nobody tokenises it."""
    full = errors.Overloaded("full", retry_after_s=0.2)
    route = fakes.Route(refusal=full, tokenizer=fakes.WordTokenizer(on_encode=pytest.fail))
    async with serving(socket, route) as (stub, _, _):
        error = await fakes.refusal(stub.Classify(request()))
    assert error.code().name == "UNAVAILABLE"
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "200"


async def test_an_operator_is_never_shed(socket):
    """Whoever can end an overload is heard while it lasts."""
    async with (
        serving(socket, fakes.Route(), most_calls=0) as (_, _, daemon),
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):
        request_ = admin_pb2.ListRequest(kind="Model")
        assert (await admin_pb2_grpc.AdminStub(channel).List(request_)) is not None


async def test_more_bytes_than_the_bound_are_shed(socket):
    """The memory of waiting calls is bounded by bytes too."""
    async with serving(socket, fakes.Route(truncate=True), most_bytes=1000) as (stub, _, _):
        error = await fakes.refusal(stub.Classify(request("w " * 1000)))
        assert (await stub.Classify(request())).results
    assert error.code().name == "UNAVAILABLE"
