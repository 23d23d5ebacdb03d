"""An edge from its first moment to its last: the front says when it ends."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any, cast

import grpc.aio

from bertd import errors, metrics
from bertd.edge import answering, owner, reports, routes
from bertd.runtime import described, edges
from bertd.serving import guard, health, server, sockets, stream


class Program:
    """One edge, over its socket to the front."""

    def __init__(self, options: edges.Options) -> None:
        self._options = options
        self._states = health.Health()
        self._stopping = asyncio.Event()
        self._grace_s = 0.0
        self._owner = owner.Owner(self._on_told, self._stopping.set)
        self._streams = stream.Streams()

    async def run(self, ours: socket.socket) -> None:
        """Serves until the front says stop, or is gone."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._owner.pipe, sock=ours)
        told = reports.Reports(self._owner)
        with futures.ThreadPoolExecutor(1, thread_name_prefix="tokenise") as executor:
            served = self._server(executor, told)
            try:
                with self._listening(served):
                    await served.start()
                    self._owner.tell("listening")
                    await self._stopping.wait()
                    self._drain()
                    await served.stop(self._grace_s)
            except errors.Error as error:
                self._owner.tell("failed", error=described.error(error))
        told.send()
        self._owner.pipe.close()

    def _server(self, executor: futures.Executor, told: reports.Reports) -> grpc.aio.Server:
        guarded = guard.Guard(
            metrics=cast(metrics.Metrics, told),  # it has what a guard records
            default_deadline_s=self._options.default_deadline_s,
        )
        found = routes.Routes(self._owner, executor)
        service = answering.Inference(
            found,
            adapters=routes.Brought(self._owner, found),
            executor=executor,
            streams=self._streams,
        )
        return server.data_server(
            guarded,
            inference=service,
            health=self._states,
            is_reflecting=self._options.reflection,
            is_shared=True,
        )

    @contextlib.contextmanager
    def _listening(self, served: grpc.aio.Server) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for target in self._options.listen:
                stack.enter_context(sockets.bind(served, target))
            yield

    def _on_told(self, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "health" if message["serving"] is None:
                self._states.forget(message["name"])
            case "health":
                self._states.set(message["name"], message["serving"])
            case "drain":
                self._drain()
            case "stop":
                self._grace_s = message["graceSeconds"]
                self._stopping.set()

    def _drain(self) -> None:
        self._states.drain()
        self._streams.drain()
        self._states.close()
