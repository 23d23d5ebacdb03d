"""One worker process, seen from the front: spawn it, talk to it, notice its end."""

import asyncio
import functools
import importlib.util
import itertools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from bertd import errors, frames
from bertd.runtime import wire

log = structlog.get_logger()

START_TIMEOUT_S = 300.0
CONTROL_TIMEOUT_S = 60.0
EXIT_GRACE_S = 5.0
# One thread per lane: teams of spinning threads on few cores destroy every latency.
SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ERRORS: dict[str, Callable[[dict[str, str]], errors.Error]] = {
    "BadArtifact": lambda e: errors.BadArtifact(e["message"], reason=e["reason"], hint=e["hint"]),
}


class Listener(Protocol):
    """Who hears from a worker."""

    def on_result(self, lane: int, header: frames.Header, body: memoryview) -> None:
        """A lane answered its batch; `body` is valid only during the call."""

    def on_lost(self) -> None:
        """The process has gone; nothing it was running will be answered."""


class Worker:
    """A live worker process; made by `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process, listener: Listener) -> None:
        self._process = process
        self._listener = listener
        self._transports: list[asyncio.WriteTransport] = []  # control, then the lanes
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self.lost = False

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @classmethod
    async def spawn(cls, lanes: int, listener: Listener) -> "Worker":
        """Starts a worker with `lanes` lanes; it holds no base yet.

        Raises:
            BadArtifact: this installation has no torch to compute with.
            Temporary: the system has no process, descriptor or memory to spare.
        """
        if importlib.util.find_spec("torch") is None:
            raise errors.BadArtifact(
                "this installation of bertd has no engine: torch is missing",
                reason="EngineMissing",
                hint="pip install 'bertd[engine]', and start the daemon again",
            )
        try:
            return await cls._spawn(lanes, listener)
        except OSError as error:
            raise errors.Temporary(
                f"no worker process could be started: {error.strerror}", reason="SpawnFailed"
            ) from error

    @classmethod
    async def _spawn(cls, lanes: int, listener: Listener) -> "Worker":
        pairs = [socket.socketpair() for _ in range(lanes + 1)]
        theirs = [pair[1].fileno() for pair in pairs]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bertd.engine"),
                *("--control", str(theirs[0])),
                *("--lanes", ",".join(map(str, theirs[1:]))),
                *("--parent", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=theirs,
                env=os.environ | SINGLE_THREAD,
            )
        except BaseException:
            for pair in pairs:
                pair[0].close()
            raise
        finally:
            for pair in pairs:
                pair[1].close()
        worker = cls(process, listener)
        try:
            await worker._connect([pair[0] for pair in pairs])
        except BaseException:
            await worker.close()
            raise
        return worker

    async def control(
        self, operation: str, timeout_s: float = CONTROL_TIMEOUT_S, **fields: Any
    ) -> dict[str, Any]:
        """Sends one control message and returns its reply.

        Raises:
            BadArtifact: the worker refused a file.
            Temporary: the worker died, failed or did not answer in time.
        """
        if self.lost:
            raise _lost()
        id_ = next(self._ids)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[id_] = reply
        self._transports[0].write(frames.encode_control(id_, {"op": operation, **fields}))
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets the reply.
            async with asyncio.timeout(timeout_s):
                return _checked(await reply)
        except TimeoutError:
            raise errors.Temporary(
                f"the worker did not finish '{operation}' within {timeout_s:g} s",
                reason="WorkerTimeout",
            ) from None
        finally:
            self._replies.pop(id_, None)

    def tell(self, operation: str, **fields: Any) -> None:
        """Sends a control message whose reply nobody needs."""
        if not self.lost:
            self._transports[0].write(frames.encode_control(0, {"op": operation, **fields}))

    def send(self, lane: int, frame: bytes) -> None:
        """Gives one batch to an idle lane."""
        self._transports[1 + lane].write(frame)

    async def close(self) -> None:
        """Ends the process: politely, then by force; returns when it is gone."""
        self._hang_up()
        try:
            async with asyncio.timeout(EXIT_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def _connect(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for number, sock in enumerate(sockets):
            on_frame = (
                self._on_reply
                if number == 0
                else functools.partial(self._listener.on_result, number - 1)
            )
            protocol = functools.partial(wire.FrameProtocol, on_frame, self._on_lost)
            transport, _ = await loop.create_unix_connection(protocol, sock=sock)
            self._transports.append(transport)

    def _on_reply(self, header: frames.Header, body: memoryview) -> None:
        reply = self._replies.get(header.id)
        if reply is not None and not reply.done():
            reply.set_result(frames.decode_control(body))

    def _on_lost(self) -> None:
        """Any of the sockets closed: the process is gone or useless."""
        if self.lost:
            return
        self._hang_up()
        self.kill()
        self._listener.on_lost()

    def _hang_up(self) -> None:
        self.lost = True
        for transport in self._transports:
            transport.close()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(_lost())


def error(found: dict[str, str]) -> errors.Error:
    """An error that a worker describes: whose file it is, or that it may heal."""
    if found["kind"] in ERRORS:
        return ERRORS[found["kind"]](found)
    return errors.Temporary(found["message"], reason=found["reason"], hint=found.get("hint", ""))


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise error(reply["error"])
    ok: dict[str, Any] = reply["ok"]
    return ok


def _lost() -> errors.Temporary:
    return errors.Temporary("the worker process ended unexpectedly", reason="WorkerLost")
