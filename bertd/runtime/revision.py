"""One revision: a base in a worker process, the adapters in its table, the feeder of its lanes.

A worker that dies is replaced by another with the same base. Adapters that waiting rows name get
the same slots again, and the rows that were in flight run again; the others follow in time.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from bertd import errors, frames, metrics
from bertd.runtime import calls, devices, feeder, gate, residency, slots, worker
from bertd.tokenization import tokenizer

log = structlog.get_logger()

RESTART_FIRST_S = 0.1
RESTART_MAX_S = 30.0
STABLE_S = 60.0  # a worker that lived so long, or answered anything, is replaced at once
DRAIN_GRACE_S = 30.0
DRAIN_POLL_S = 0.01
SPARE_SLOTS = 1 + 2 * residency.GROUP_ADAPTERS  # the base, and what callers read while others come


class Process(Protocol):
    """A worker, as a revision uses it; `worker.Worker` is the real one."""

    lost: bool

    @property
    def pid(self) -> int:
        """Its process id."""

    async def control(
        self, operation: str, timeout_s: float = ..., **fields: Any
    ) -> dict[str, Any]:
        """Asks for something and waits for the reply."""

    def tell(self, operation: str, **fields: Any) -> None:
        """Asks for something whose reply nobody needs."""

    def send(self, lane: int, frame: bytes) -> None:
        """Gives one batch to an idle lane."""

    async def close(self) -> None:
        """Ends it."""


Spawn = Callable[[int, worker.Listener], Awaitable[Process]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What a worker is started from; another one means another revision."""

    name: str
    model: str
    files: Mapping[str, Path]
    precision: str
    pooling: str
    device: str = devices.CPU  # as declared: auto, cpu, cuda or cuda:1
    folded: Path | None = None  # directory in which the worker keeps folded adapters
    choices: Path | None = None  # directory in which it remembers what `precision: auto` chose


def restart_delay_s(attempt: int) -> float:
    """How long to wait before attempt 0, 1, 2, ... to replace a dead worker."""
    return 0.0 if attempt == 0 else min(RESTART_MAX_S, RESTART_FIRST_S * 2.0 ** (attempt - 1))


class Revision:
    """Starts, watches and retires the worker of one `Build`.

    Args:
        build: what to run.
        limits: batching and admission; replaced by `set_limits`.
        devices: whose permits it uses, those of the device that its worker finds.
        metrics: where batches, queues and restarts are recorded.
        on_state: called after every change of `serving`, and when a stored file was lost.
        on_loaded: called when all adapters that have room are in memory.
        clock: monotonic seconds.
        spawn: starts a worker process with so many lanes.
    """

    def __init__(
        self,
        build: Build,
        limits: gate.Limits,
        *,
        devices: devices.Devices,
        metrics: metrics.Metrics,
        on_state: Callable[[], None] = lambda: None,
        on_loaded: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = worker.Worker.spawn,
    ) -> None:
        self.build = build
        self.facts: dict[str, Any] = {}
        self._devices = devices
        self._device = devices.cpu
        self._metrics = metrics
        self._on_state = on_state
        self._clock = clock
        self._spawn = spawn
        self._slots = slots.Slots(on_free=self._on_free)
        self.adapters = residency.Residency(
            build.model,
            self._slots,
            metrics=metrics,
            load=self._load,
            on_lost=on_state,
            on_loaded=on_loaded,
            clock=clock,
        )
        self._feeder = feeder.Feeder(
            build.model, limits, device=self._device, metrics=metrics, clock=clock, send=self._send
        )
        self._process: Process | None = None
        self._changes = asyncio.Lock()  # one change of the process or its adapters at a time
        self._restarting: asyncio.Task[None] | None = None
        self._launched_s = 0.0
        self._adapter_bytes = 0
        self._crashes = 0  # workers in a row that died young and answered nothing
        self._closed = False

    @property
    def serving(self) -> bool:
        """Whether a worker is up and answers batches."""
        return self._process is not None and not self._closed

    @property
    def efficiency(self) -> float:
        """Share of the machine's peak that batches reached lately; 0 where it is not known."""
        return self._feeder.efficiency

    @property
    def lanes(self) -> int:
        """Batches that its device runs at once, those of other revisions included."""
        return self._device.permits

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id while one is up."""
        return self._process.pid if self._process else None

    @property
    def base(self) -> slots.Entry:
        """The slot that answers for the base alone."""
        return self._slots.base

    # Calls.

    async def run(
        self,
        rows: Sequence[tokenizer.Encoded],
        by: slots.Content | slots.Entry,
        task: frames.Task,
        deadline_s: float,
        flow: feeder.Flow = feeder.BASE_FLOW,
    ) -> calls.Ran:
        """Computes the rows of one call, all or none, by an adapter or by the base's own entry.

        `flow` is whose share of the lanes the rows use.

        Raises:
            Overloaded, TooLarge: not admitted; nothing was queued.
            NotReady: the revision is going away.
            Expired: the deadline passed before a row ran.
            Poison, Bug: an input of this call cannot be computed.
        """
        if isinstance(by, slots.Content) and not self._closed:
            by = self.adapters.find(by) or await self.adapters.wait(by, deadline_s)
        if self._closed or isinstance(by, slots.Content):
            raise self._going_away()
        return await self._feeder.run(rows, by, task, deadline_s, flow)

    def check_open(self, rows: int, flow: feeder.Flow) -> None:
        """Refuses a call of so many rows before it is tokenised, if that is in vain.

        Raises:
            Overloaded: as `run` would.
        """
        self._feeder.check_open(rows, flow)

    def set_limits(self, limits: gate.Limits, adapter_bytes: int) -> None:
        """Batching, admission and the memory of adapters from now on."""
        self._feeder.limits = limits
        self._adapter_bytes = adapter_bytes
        self._limit_adapters()
        self._device.pump()

    def _limit_adapters(self) -> None:
        """What is declared, or what the worker's table has room for: a GPU's is not large."""
        limit_bytes = self._adapter_bytes
        if "slots" in self.facts:
            room = max(1, self.facts["slots"] - SPARE_SLOTS) * self.facts["slotBytes"]
            limit_bytes = min(limit_bytes, room)
        if limit_bytes != self.adapters.limit_bytes:
            self.adapters.limit(limit_bytes)

    # Life of the worker.

    async def start(self) -> None:
        """Starts and warms the worker; the revision serves when this returns.

        Raises:
            BadArtifact: the base cannot be served.
            Temporary: the worker did not come up.
        """
        async with self._changes:
            await self._launch()
        self._device.add(self._feeder)
        self._on_state()

    async def close(self) -> None:
        """Answers everybody who has found the revision, then ends the worker.

        Whoever routes here must have stopped before. A caller that holds a route may still be
        tokenising, so calls are accepted until the last one lets go of its entry.
        """
        self._slots.let_go()
        self.adapters.let_go()
        for _ in range(round(DRAIN_GRACE_S / DRAIN_POLL_S)):
            if not self._slots.is_read:
                break
            await asyncio.sleep(DRAIN_POLL_S)
        self._closed = True
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait((self._restarting,))
        self._feeder.abandon(self._going_away())
        self.adapters.abandon(self._going_away())
        if self._process is not None:
            await self._process.close()
            self._process = None
        self._device.remove(self._feeder)

    async def _launch(self) -> None:
        process = await self._spawn(self._devices.lanes(self.build.device), self)
        try:
            self.facts = await process.control(
                "start",
                timeout_s=worker.START_TIMEOUT_S,
                files={name: str(path) for name, path in self.build.files.items()},
                precision=self.build.precision,
                pooling=self.build.pooling,
                device=self.build.device,
                folded=str(self.build.folded) if self.build.folded else None,
                choices=str(self.build.choices) if self.build.choices else None,
            )
            reloaded = await self._reload(process)
            if process.lost:  # after its last reply, when nobody listened
                raise errors.Temporary("the worker died while starting", reason="WorkerLost")
        except BaseException:
            await process.close()
            raise
        self._process = process
        self._launched_s = self._clock()
        self._move()
        self._feeder.learn_worker(self.facts)
        self._feeder.open = True
        self.adapters.open(int(self.facts["slotBytes"]), reloaded)

    def _move(self) -> None:
        """Uses the permits of the device that the worker found; nothing runs yet."""
        device = self._devices.of(str(self.facts.get("device", devices.CPU)))
        if device is not self._device:
            self._device.move(self._feeder, device)
            self._feeder.use(device)
            self._device = device
        self._limit_adapters()

    async def _reload(self, process: Process) -> list[tuple[slots.Entry, int]]:
        """Loads again what waiting rows name; one that is broken must not keep all others down.

        Returns the entries that are there, with the bytes of their heads.
        """
        entries = self._slots.held()
        there: list[tuple[slots.Entry, int]] = []
        for start in range(0, len(entries), residency.GROUP_ADAPTERS):
            group = entries[start : start + residency.GROUP_ADAPTERS]
            loaded = await _load(process, group)
            for entry in group:
                if error := loaded.failed.get(entry.slot):
                    self._feeder.refuse(entry, self.adapters.lose(entry, error))
                else:
                    there.append((entry, loaded.head_bytes.get(entry.slot, 0)))
        return there

    async def _restart(self) -> None:
        first, self._crashes = self._crashes, self._crashes + 1
        for attempt in itertools.count(first):
            await asyncio.sleep(restart_delay_s(attempt))
            try:
                async with self._changes:
                    await self._launch()
                break
            except Exception as error:  # whatever it is, giving up would leave the Model down
                log.error("worker restart failed", model=self.build.model, error=str(error))
        self._metrics.worker_restart(model=self.build.model)
        log.warning("worker restarted", revision=self.build.name, pid=self.worker_pid)
        self._on_state()
        self._device.pump()

    def on_result(self, lane: int, header: frames.Header, body: memoryview) -> None:
        """A lane answered its batch."""
        if header.kind == frames.Kind.RESULT:
            self._crashes = 0
        self._feeder.on_result(lane, header, body)

    def on_lost(self) -> None:
        """The worker died: its rows run again, in a new one."""
        if self._process is None or not self._process.lost:
            return  # it died while starting: whoever started it is told
        self._process = None
        self.adapters.close()
        if self._clock() - self._launched_s >= STABLE_S:
            self._crashes = 0
        batches = self._feeder.on_lost()
        log.error("worker died", revision=self.build.name, batches=batches)
        if not self._closed:
            self._restarting = asyncio.get_running_loop().create_task(self._restart())
        self._on_state()

    def _send(self, lane: int, frame: bytes) -> None:
        if self._process is not None:
            self._process.send(lane, frame)

    def _going_away(self) -> errors.NotReady:
        return errors.NotReady(f"model '{self.build.model}' is going away")

    # Adapters.

    async def _load(self, entries: Sequence[slots.Entry]) -> residency.Loaded:
        async with self._changes:
            if self._process is None:
                raise errors.Temporary("the worker is restarting", reason="WorkerRestarting")
            return await _load(self._process, entries)

    def _on_free(self, slot: int) -> None:
        if self._process is not None:
            self._process.tell("free", slots=[slot])


async def _load(process: Process, entries: Sequence[slots.Entry]) -> residency.Loaded:
    """Has a worker load a group of adapters, each of which may fail alone."""
    contents = [(entry.slot, entry.content) for entry in entries]
    reply = await process.control(
        "load",
        adapters=[
            {
                "slot": slot,
                "digest": content.digest,
                "path": str(content.path),
                "cache": not content.inline,
            }
            for slot, content in contents
            if content is not None
        ],
    )
    return residency.Loaded(
        failed={int(slot): worker.error(found) for slot, found in reply["failed"].items()},
        head_bytes={int(slot): int(size) for slot, size in reply["headBytes"].items()},
    )
