"""Edge processes: they speak gRPC and tokenise, the front answers their calls.

All edges listen on the same ports, and the kernel gives each new connection to one of them. An edge
that dies loses its own connections and is replaced; what it asked for is cancelled. It learns from
the front what health checks are told, and stops when the front says so, or is gone.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import structlog

from bertd import errors, frames
from bertd.runtime import described, desk, pipe
from bertd.runtime import revision as revisions

log = structlog.get_logger()

START_TIMEOUT_S = 60.0
STABLE_S = 60.0  # an edge that lived so long is replaced at once
STOP_SLACK_S = 2.0  # an edge has so long after its calls' grace to report and leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an edge is started with; `listen` are `HOST:PORT`, which all edges share."""

    listen: tuple[str, ...]
    default_deadline_s: float
    log_format: str = "auto"
    reflection: bool = False


class Process(Protocol):
    """An edge, as `Edges` uses it; `Edge` is the real one."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def tell(self, operation: str, **fields: Any) -> None:
        """Says something that has no reply."""

    async def listening(self) -> None:
        """Returns when it takes calls; raises what it said of why it does not."""

    async def ended(self) -> None:
        """Returns when it is gone."""

    async def close(self, grace_s: float) -> None:
        """Waits so long for its end, then ends it; returns when it is gone."""


Seat = Callable[[Callable[[bytes], None], Callable[[Mapping[str, Any]], None]], desk.Desk]
Spawn = Callable[[Options, Seat], Awaitable[Process]]


class Edge:
    """A live edge process; made by `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process, seat: Seat) -> None:
        self._process = process
        self._desk = seat(self._send, self._on_told)
        self._pipe = pipe.Pipe(self._desk.on_frame, self._on_lost)
        self._listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def spawn(cls, options: Options, seat: Seat) -> "Edge":
        """Starts an edge, whose frames a desk answers that `seat` makes.

        Raises:
            Temporary: the system has no process, descriptor or memory to spare.
        """
        try:
            ours, theirs = socket.socketpair()
            with theirs, contextlib.ExitStack() as undo:
                undo.enter_context(ours)
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "bertd.edge"),
                    *("--owner", str(theirs.fileno()), "--parent", str(os.getpid())),
                    *("--options", json.dumps(_as_json(options))),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
                undo.pop_all()
        except OSError as error:
            raise errors.Temporary(
                f"no edge process could be started: {error.strerror}", reason="SpawnFailed"
            ) from error
        edge = cls(process, seat)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: edge._pipe, sock=ours)
        except BaseException:
            ours.close()
            await edge.close(0)
            raise
        return edge

    @property
    def pid(self) -> int:
        """The edge's process id."""
        return self._process.pid

    def tell(self, operation: str, **fields: Any) -> None:
        """Says something that has no reply."""
        self._send(frames.encode_control(0, {"op": operation, **fields}))

    async def listening(self) -> None:
        """Returns when it takes calls.

        Raises:
            Conflict, InvalidRequest: it cannot listen where it was told.
            Temporary: it ended, or does not come up.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(self._listening)
        except TimeoutError:
            raise errors.Temporary("an edge does not come up", reason="EdgeTimeout") from None

    async def ended(self) -> None:
        """Returns when it is gone."""
        await self._process.wait()

    async def close(self, grace_s: float) -> None:
        """Waits so long for its end, then ends it; returns when it is gone."""
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()
        self._pipe.close()
        self._desk.close()

    def _send(self, frame: bytes) -> None:
        self._pipe.send(frame)

    def _on_told(self, message: Mapping[str, Any]) -> None:
        if "error" in message:
            self._fail(described.raised(message["error"]))
        elif not self._listening.done():
            self._listening.set_result(None)

    def _on_lost(self) -> None:
        """The socket closed: the process is gone or useless, and its calls with it."""
        self._desk.close()
        self._kill()
        self._fail(errors.Temporary("an edge ended as it began", reason="EdgeLost"))

    def _fail(self, error: errors.Error) -> None:
        if not self._listening.done():
            self._listening.set_exception(error)
            self._listening.exception()  # perhaps nobody waits

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


class Edges:
    """Keeps a number of edges running, and tells all of them what the daemon's health is.

    Args:
        count: how many; none is allowed.
        seat: makes the desk of each.
        clock: monotonic seconds.
        spawn: starts one.
    """

    def __init__(
        self,
        count: int,
        seat: Seat,
        *,
        clock: Callable[[], float] = monotonic,
        spawn: Spawn = Edge.spawn,
    ) -> None:
        self._count = count
        self._seat = seat
        self._clock = clock
        self._spawn = spawn
        self._running: dict[int, Process] = {}
        self._serving: dict[str, bool] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of those that run."""
        return tuple(each.pid for each in self._running.values())

    def tell(self, name: str, serving: bool | None) -> None:
        """What health checks are told of a name from now on; None: that there is no such name."""
        if serving is None:
            self._serving.pop(name, None)
        else:
            self._serving[name] = serving
        self._tell_all("health", name=name, serving=serving)

    def drain(self) -> None:
        """Health says from now on that nothing serves; calls are answered until `stop`."""
        self._is_stopping = True
        self._tell_all("drain")

    async def start(self, options: Options) -> None:
        """Starts all, and returns when they listen; whatever this raises, `stop` is due.

        Raises:
            Conflict, InvalidRequest: they cannot listen where they were told.
            Temporary: one could not be started, or did not come up.
        """
        first = [await self._start(slot, options) for slot in range(self._count)]
        for edge in first:
            await edge.listening()
        self._keepers = [
            asyncio.create_task(self._keep(slot, options, edge)) for slot, edge in enumerate(first)
        ]

    async def stop(self, grace_s: float) -> None:
        """Ends all: calls in flight have so long; returns when they are gone."""
        self._is_stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._tell_all("stop", graceSeconds=grace_s)
        slack_s = grace_s + STOP_SLACK_S
        await asyncio.gather(*(each.close(slack_s) for each in self._running.values()))

    async def _start(self, slot: int, options: Options) -> Process:
        edge = self._running[slot] = await self._spawn(options, self._seat)
        for name, serving in self._serving.items():
            edge.tell("health", name=name, serving=serving)
        return edge

    async def _keep(self, slot: int, options: Options, edge: Process) -> None:
        """Replaces the edge of a slot whenever it ends."""
        began_s, crashes = self._clock(), 0
        while True:
            await edge.ended()
            if self._is_stopping:
                return
            crashes = 0 if self._clock() - began_s >= STABLE_S else crashes
            log.error("edge died", pid=edge.pid)
            for attempt in itertools.count(crashes):
                await asyncio.sleep(revisions.restart_delay_s(attempt))
                began_s = self._clock()
                try:
                    edge = await self._start(slot, options)
                    await edge.listening()
                    break
                except errors.Error as error:
                    log.error("edge restart failed", error=str(error))
                    await self._running[slot].close(0)
            crashes += 1
            log.warning("edge restarted", pid=edge.pid)

    def _tell_all(self, operation: str, **fields: Any) -> None:
        for edge in self._running.values():
            edge.tell(operation, **fields)


def _as_json(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in Options.__dataclass_fields__}


def options_from(text: str) -> Options:
    """The options that an edge was started with."""
    message = json.loads(text)
    return Options(**{**message, "listen": tuple(message["listen"])})
