"""The daemon: puts the front's rooms together, runs them, and takes them down in order.

Start-up order: state lock, store, metrics, workers' dispatcher, reconciler, listeners. It serves
as soon as the listeners are bound; models become ready one by one, and health tells which.
"""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import grpc.aio
import prometheus_client
import structlog
import uvloop

from bertd import addresses, cores, errors, logs, metrics, processes
from bertd.reconcile import control, controller, live, resolving
from bertd.runtime import desk, devices, dispatcher, edges, inline, memory, router
from bertd.serving import admin, guard, health, inference, server, sockets
from bertd.store import blobs, history, lock, objects

log = structlog.get_logger()

STOP_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `bertd serve` was told. Addresses are `HOST:PORT`, `unix:/PATH`, or "" for none."""

    state_dir: Path
    listen: tuple[str, ...]
    admin: str
    metrics: str = ""
    health: str = ""
    lanes: int = 0  # batches that run at once; 0: one for each usable core
    edges: int = 0  # processes that speak gRPC and tokenise on the TCP ports of `listen`; 0: none
    default_deadline_s: float = guard.DEFAULT_DEADLINE_S  # of calls that set none
    log_format: str = "auto"  # console on a terminal, else json
    reflection: bool = False  # on the data port; the admin socket always has it


def main(options: Options) -> None:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        Conflict: another daemon holds the state directory or an address.
        InvalidRequest, BadArtifact, Temporary: it cannot start as it was told.
    """
    if not 0 < options.default_deadline_s <= guard.LONGEST_DEADLINE_S:
        raise errors.InvalidRequest(
            f"the default deadline must be above 0 and at most {guard.LONGEST_DEADLINE_S:g} s"
        )
    if options.edges and all(map(_is_unix, options.listen)):
        raise errors.InvalidRequest(
            "edges listen on TCP ports alone, and there is none",
            hint="add `--listen HOST:PORT`, or leave out `--edges`",
        )
    logs.configure(options.log_format)
    processes.collect_seldom()
    uvloop.run(_run(options))


async def _run(options: Options) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, functools.partial(_stop, stopping))
    with lock.StateLock(options.state_dir):
        async with _serving(options):
            await stopping.wait()
            log.info("stopping")


def _stop(stopping: asyncio.Event) -> None:
    """The first signal stops in order, the second at once."""
    if stopping.is_set():
        os._exit(1)
    stopping.set()


@contextlib.asynccontextmanager
async def _serving(options: Options) -> AsyncIterator[None]:
    # Half of the page, and nobody asks for it.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = prometheus_client.CollectorRegistry()
    series = metrics.Metrics(registry)
    states = health.Health()
    routes = router.Router()
    with (
        objects.Objects(options.state_dir / "objects.sqlite") as store,
        history.History(options.state_dir / "history.sqlite") as versions,
        futures.ThreadPoolExecutor(1, thread_name_prefix="tokenise") as executor,
        _exporting(options.metrics, registry),
    ):
        brought = inline.Inline(options.state_dir / "inline", metrics=series)
        answering = functools.partial(
            desk.Desk, desk.Published(routes), adapters=brought, metrics=series
        )
        outside = edges.Edges(options.edges, answering)
        resolver = resolving.Resolver(blobs.Blobs(options.state_dir / "blobs"))
        keeper = controller.Controller(
            objects=store,
            resolver=resolver,
            shared=live.Shared(
                devices=devices.Devices(
                    dispatcher.Dispatcher(options.lanes or cores.usable(), monotonic)
                ),
                router=routes,
                metrics=series,
                blob=resolver.path,
                folded=options.state_dir / "folded",
                choices=options.state_dir / "choices",
            ),
            on_health=functools.partial(_tell, states, outside),
            history=versions,
        )
        owner = admin.Admin(control.Control(objects=store, controller=keeper, metrics=series))
        service = inference.Inference(routes, adapters=brought, executor=executor)
        guarded = guard.Guard(
            metrics=series,
            default_deadline_s=options.default_deadline_s,
            is_memory_short=memory.Pressure(),
        )
        # Taken down in reverse: listeners go while workers still answer what is in flight.
        async with (
            keeper.running(),
            _listening(options, guarded, service, states, owner, outside),
        ):
            yield
            states.drain()
            outside.drain()
            service.streams.drain()
            states.close()
            owner.close()


def _tell(states: health.Health, outside: edges.Edges, name: str, serving: bool | None) -> None:
    """Health follows what serves; the empty name stands for `ready`."""
    for each in (name, "") if name == "ready" else (name,):
        outside.tell(each, serving)
        if serving is None:
            states.forget(each)
        else:
            states.set(each, serving)


@contextlib.asynccontextmanager
async def _listening(
    options: Options,
    guarded: guard.Guard,
    service: inference.Inference,
    states: health.Health,
    owner: admin.Admin,
    outside: edges.Edges,
) -> AsyncIterator[None]:
    if not _is_unix(options.admin):
        raise errors.InvalidRequest(
            f"the admin address '{options.admin}' must be a Unix socket: whoever reaches it may do "
            "anything",
            hint="name a path, for example /run/bertd/admin.sock",
        )
    data = server.data_server(
        guarded, inference=service, health=states, is_reflecting=options.reflection
    )
    private = server.admin_server(guarded, inference=service, health=states, admin=owner)
    probes = server.health_server(guarded, health=states)
    shared = [each for each in options.listen if options.edges and not _is_unix(each)]
    targets = [
        *((data, address) for address in options.listen if address not in shared),
        (private, options.admin),
        *([(probes, options.health)] if options.health else []),
    ]
    async with contextlib.AsyncExitStack() as stack:
        ports = [stack.enter_context(sockets.reserve(each)) for each in shared]
        for each, address in targets:
            listener = stack.enter_context(sockets.bind(each, addresses.target(address)))
            log.info("listening", address=listener.address)
        running: list[grpc.aio.Server] = list({id(each): each for each, _ in targets}.values())
        for each in running:
            await each.start()
        try:
            await outside.start(_edge_options(options, ports))
            for port in ports:
                log.info("listening", address=port, edges=options.edges)
            yield
        finally:
            await asyncio.gather(
                outside.stop(STOP_GRACE_S), *(each.stop(STOP_GRACE_S) for each in running)
            )


def _is_unix(address: str) -> bool:
    return addresses.target(address).startswith(sockets.UNIX)


def _edge_options(options: Options, ports: Sequence[str]) -> edges.Options:
    return edges.Options(
        listen=tuple(ports),
        default_deadline_s=options.default_deadline_s,
        log_format=options.log_format,
        reflection=options.reflection,
    )


@contextlib.contextmanager
def _exporting(address: str, registry: prometheus_client.CollectorRegistry) -> Iterator[None]:
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        exporter, thread = prometheus_client.start_http_server(int(port), host, registry)
    except (OSError, ValueError) as error:
        raise errors.Conflict(
            f"cannot export metrics on '{address}': {error}", hint="choose another with --metrics"
        ) from None
    log.info("metrics", url=f"http://{host}:{exporter.server_port}/metrics")
    try:
        yield
    finally:
        exporter.shutdown()
        exporter.server_close()
        thread.join()
