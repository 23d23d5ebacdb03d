"""Probes and health-checking clients are told the truth, per Model."""

import asyncio
import contextlib

import grpc.aio
import prometheus_client
import pytest
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from bertd import metrics
from bertd.serving import guard, health, server, sockets
from tests.serving import fakes

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


@contextlib.asynccontextmanager
async def serving(socket: str):
    """A health stub on the data port, and the table behind it."""
    async with (
        fakes.running({}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
        asyncio.timeout(5),
    ):
        yield health_pb2_grpc.HealthStub(channel), daemon.health


async def check(stub: health_pb2_grpc.HealthStub, name: str) -> int:
    """The status of a name."""
    return (await stub.Check(pb.HealthCheckRequest(service=name))).status


def watch(stub: health_pb2_grpc.HealthStub, name: str):
    """A Watch and the function that reads its next status."""
    call = stub.Watch(pb.HealthCheckRequest(service=name))

    async def following() -> int:
        return (await call.read()).status

    return call, following


@pytest.mark.parametrize(
    ("name", "status"),
    [("live", SERVING), ("", NOT_SERVING), ("ready", NOT_SERVING), ("startup", NOT_SERVING)],
)
async def test_before_anything_is_known_only_live_serves(socket, name, status):
    """A daemon that has just started is alive and nothing more."""
    async with serving(socket) as (stub, _):
        assert await check(stub, name) == status


async def test_each_name_has_its_own_status(socket):
    """One Model that does not serve does not hide another that does."""
    async with serving(socket) as (stub, table):
        table.set("model/good", True)
        table.set("model/bad", False)
        assert await check(stub, "model/good") == SERVING
        assert await check(stub, "model/bad") == NOT_SERVING
        table.set("model/good", False)
        assert await check(stub, "model/good") == NOT_SERVING


@pytest.mark.parametrize("name", ["model/none", "nonsense", "x" * 100_000])
async def test_check_of_an_unknown_name_is_not_found(socket, name):
    """A probe with a misspelt name fails, and says which names there are."""
    async with serving(socket) as (stub, _):
        error = await fakes.refusal(stub.Check(pb.HealthCheckRequest(service=name)))
    assert error.code().name == "NOT_FOUND"
    assert "'model/NAME'" in error.details()


async def test_a_forgotten_model_is_unknown(socket):
    """A deleted Model leaves no status behind."""
    async with serving(socket) as (stub, table):
        table.set("model/gone", True)
        table.forget("model/gone")
        error = await fakes.refusal(stub.Check(pb.HealthCheckRequest(service="model/gone")))
    assert error.code().name == "NOT_FOUND"


async def test_watch_tells_the_status_at_once_and_each_change(socket):
    """A watcher sees every change of its own name, and only of that."""
    async with serving(socket) as (stub, table):
        call, following = watch(stub, "model/m")
        assert await following() == SERVICE_UNKNOWN
        table.set("model/other", True)
        table.set("model/m", False)
        assert await following() == NOT_SERVING
        table.set("model/m", False)
        table.set("model/m", True)
        assert await following() == SERVING
        table.forget("model/m")
        assert await following() == SERVICE_UNKNOWN
        assert not call.done()
        call.cancel()


async def test_watch_of_an_unknown_name_stays_open(socket):
    """SERVICE_UNKNOWN is an answer, not an end: the Model may come."""
    async with serving(socket) as (stub, table):
        call, following = watch(stub, "model/later")
        assert await following() == SERVICE_UNKNOWN
        table.set("model/later", True)
        assert await following() == SERVING
        call.cancel()


async def test_draining_turns_everything_but_live_away(socket):
    """Clients go elsewhere, the process is still alive, and nothing turns it back."""
    async with serving(socket) as (stub, table):
        table.set("model/m", True)
        call, following = watch(stub, "model/m")
        assert await following() == SERVING
        table.drain()
        table.set("model/m", True)
        table.set("ready", True)
        assert await following() == NOT_SERVING
        assert [await check(stub, n) for n in ("", "ready", "live")] == [2, 2, SERVING]
        call.cancel()


async def test_a_watcher_that_leaves_is_forgotten(socket):
    """Watchers that come and go do not pile up."""
    async with serving(socket) as (stub, table):
        for _ in range(3):
            call, following = watch(stub, "live")
            assert await following() == SERVING
            call.cancel()
        while table.watchers:
            await asyncio.sleep(0)
    assert table.watchers == 0


async def test_closing_ends_every_watch(socket):
    """A server that stops waits for no watcher; who comes later is told the status and let go."""
    async with serving(socket) as (stub, table):
        call, following = watch(stub, "live")
        assert await following() == SERVING
        table.close()
        assert await call.read() is grpc.aio.EOF
        later, following = watch(stub, "live")
        assert await following() == SERVING
        assert await later.read() is grpc.aio.EOF


async def test_a_health_port_serves_health_alone():
    """Probes have a port of their own, and it knows no model and no reflection."""
    table = health.Health()
    watch_over = guard.Guard(metrics=metrics.Metrics(prometheus_client.CollectorRegistry()))
    port = server.health_server(watch_over, health=table)
    with sockets.bind(port, "127.0.0.1:0") as listener:
        await port.start()
        async with grpc.aio.insecure_channel(listener.address) as channel:
            assert await check(health_pb2_grpc.HealthStub(channel), "live") == SERVING
            for method in ("bertd.v1.Inference/Classify", "bertd.v1.Admin/List"):
                error = await fakes.refusal(channel.unary_unary(f"/{method}")(b""))
                assert error.code().name == "UNIMPLEMENTED"
        await port.stop(0)


async def test_watchers_are_bounded(socket, monkeypatch):
    """More watchers than the bound are told to come again."""
    monkeypatch.setattr(health, "MOST_WATCHERS", 1)
    async with serving(socket) as (stub, _):
        call, following = watch(stub, "live")
        await following()
        second = stub.Watch(pb.HealthCheckRequest(service="live"))
        error = await fakes.refusal(second.read())
        call.cancel()
    assert error.code().name == "UNAVAILABLE"


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_a_malformed_probe_is_the_probers_fault(socket, method):
    """Noise to the health service is INVALID_ARGUMENT too."""
    async with (
        fakes.running({}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
    ):
        path = f"/grpc.health.v1.Health/{method}"
        if method == "Check":
            error = await fakes.refusal(channel.unary_unary(path)(b"\xff\xff"))
        else:
            error = await fakes.refusal(channel.unary_stream(path)(b"\xff\xff").read())
    assert error.code().name == "INVALID_ARGUMENT"
