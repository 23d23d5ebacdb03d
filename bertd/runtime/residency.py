"""Which adapters are in memory: loaded before they are asked for, or by the first who asks.

A declared adapter need not lie in the table. While there is room, every declared one is loaded in
the background; a call that comes first, or finds its adapter evicted, waits until it is loaded.
Where the table is smaller than what is declared, the least recently used makes room. Adapters that
came with requests have a few places of their own and never push out a declared one.
"""

import asyncio
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from bertd import errors, metrics
from bertd.runtime import slots

log = structlog.get_logger()

GROUP_ADAPTERS = 32  # loaded by one message: folding many is ten times cheaper than one by one
BACKGROUND_ADAPTERS = 16  # of these: whoever asks meanwhile waits for the whole group
INLINE_ADAPTERS = 64  # in memory
WAITERS_MAX = 4096
RETRY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What became of a group of entries, by slot."""

    failed: dict[int, errors.Error]
    head_bytes: dict[int, int]


Load = Callable[[Sequence[slots.Entry]], Awaitable[Loaded]]


@dataclass(slots=True, kw_only=True)
class _Demand:
    """Calls that wait for one adapter."""

    content: slots.Content
    waiters: set[asyncio.Future[slots.Entry]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Place:
    """An adapter in memory; holding the entry keeps it there."""

    entry: slots.Entry
    size_bytes: int


class Residency:
    """Keeps the table of one revision filled.

    Args:
        model: name for errors and metrics.
        table: hands out slots.
        metrics: where hits, loads and evictions are recorded.
        load: puts a group of adapters into their slots; Temporary when there is no worker.
        on_lost: called when a stored file turned out not to be what it was.
        on_loaded: called when all that has room is in memory.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: str,
        table: slots.Slots,
        *,
        metrics: metrics.Metrics,
        load: Load,
        on_lost: Callable[[], None],
        on_loaded: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost: dict[str, errors.Error] = {}  # digests that cannot be loaded, and why
        self._model = model
        self._table = table
        self._metrics = metrics
        self._load = load
        self._on_lost = on_lost
        self._on_loaded = on_loaded
        self._clock = clock
        self._slot_bytes = 1
        self.limit_bytes = 0
        self._declared: dict[str, slots.Content] = {}
        self._leaving: weakref.WeakSet[slots.Content] = weakref.WeakSet()
        self._resident: OrderedDict[str, _Place] = OrderedDict()  # least recently used first
        self._resident_bytes = 0
        self._inline: OrderedDict[str, _Place] = OrderedDict()
        self._warm: deque[str] = deque()
        self._is_warming = False
        self._demands: dict[tuple[str, bool], _Demand] = {}
        self._waiters = 0
        self._task: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None  # why the last group was not loaded
        self._open = False
        self._is_leaving = False

    # What is declared.

    def declare(self, content: slots.Content) -> slots.Content:
        """Keeps an adapter at hand from now on; returns the one object for its content."""
        known = self._declared.get(content.digest)
        if known is not None:
            return known
        self._declared[content.digest] = content
        self.lost.pop(content.digest, None)
        self._warm.append(content.digest)
        self._record()
        self._wake()
        return content

    def forget(self, digest: str) -> None:
        """Nobody declares this content any more; whoever found it still gets its answers."""
        content = self._declared.pop(digest, None)
        if content is None:
            return
        self._leaving.add(content)
        self._drop(digest)
        self._record()

    @property
    def held(self) -> set[str]:
        """Digests whose files somebody may still load."""
        leaving = {content.digest for content in self._leaving}
        reading = {entry.content.digest for entry in self._table.held() if entry.content}
        return {*self._declared, *leaving, *reading}

    @property
    def resident(self) -> int:
        """How many declared adapters are in memory."""
        return len(self._resident)

    # Calls.

    def find(self, content: slots.Content) -> slots.Entry | None:
        """The entry of an adapter that is in memory."""
        places = self._inline if content.inline else self._resident
        place = places.get(content.digest)
        if place is None:
            return None
        places.move_to_end(content.digest)
        self._metrics.adapter_hit(model=self._model)
        return place.entry

    async def wait(self, content: slots.Content, deadline_s: float) -> slots.Entry:
        """Has an adapter loaded and returns its entry.

        Raises:
            Expired: the deadline passed first.
            Overloaded: too many calls wait for adapters.
            NotReady: it could not be loaded now.
        """
        self._metrics.adapter_miss(model=self._model)
        if self._waiters >= WAITERS_MAX:
            self._metrics.shed(model=self._model, reason="AdapterLoading")
            raise errors.Overloaded(
                f"{WAITERS_MAX} calls of model '{self._model}' wait for adapters to be loaded",
                retry_after_s=RETRY_S,
            )
        waiter: asyncio.Future[slots.Entry] = asyncio.get_running_loop().create_future()
        key = content.digest, content.inline
        demand = self._demands.setdefault(key, _Demand(content=content))
        demand.waiters.add(waiter)
        self._waiters += 1
        self._wake()
        try:
            async with asyncio.timeout(deadline_s - self._clock()):
                return await waiter
        except TimeoutError:
            self._metrics.expired(model=self._model)
            raise errors.Expired("the deadline passed while the adapter was being loaded") from None
        finally:
            self._waiters -= 1
            demand.waiters.discard(waiter)
            if not demand.waiters and self._demands.get(key) is demand:
                del self._demands[key]

    # The worker comes and goes.

    def limit(self, size_bytes: int) -> None:
        """How much memory declared adapters may take from now on."""
        self.limit_bytes = size_bytes
        self._trim()
        self._rewarm()

    def close(self) -> None:
        """The worker has gone and took the table along; entries that rows name live on."""
        self._open = False
        self._warm = deque(reversed(self._resident))  # what was used last is loaded first
        self._resident.clear()
        self._inline.clear()
        self._resident_bytes = 0
        self._record()

    def open(self, slot_bytes: int, reloaded: Iterable[tuple[slots.Entry, int]] = ()) -> None:
        """A worker is up.

        Args:
            slot_bytes: the size of one slot of its table.
            reloaded: entries that lie in the table already, with the bytes of their heads.
        """
        self._slot_bytes = slot_bytes
        self._metrics.adapter_bytes(model=self._model, slot=slot_bytes)
        for entry, head_bytes in reloaded:
            self._keep(entry, head_bytes)
        self._open = True
        self._rewarm()

    def let_go(self) -> None:
        """Keeps nothing in memory any more; whoever found an adapter still gets its answers."""
        self._leaving.update(self._declared.values())
        for places in (self._declared, self._resident, self._inline, self._warm):
            places.clear()
        self._resident_bytes = 0
        self._is_leaving = True

    def abandon(self, error: errors.Error) -> None:
        """Nothing will be loaded any more; fails whoever waits."""
        self._open = False
        for demand in self._demands.values():
            _fail(demand, error)
        self._demands.clear()

    async def settled(self) -> None:
        """Waits until nothing is being loaded: everything that has room is in memory."""
        while self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))

    async def fill(self) -> None:
        """Loads everything that has room.

        Raises:
            Temporary: the worker could not.
        """
        self._trouble = None
        self._rewarm()
        await self.settled()
        if self._trouble is not None:
            raise errors.Temporary(
                f"adapters could not be loaded: {self._trouble}",
                reason=getattr(self._trouble, "reason", "WorkerError"),
            )

    # Loading.

    def _rewarm(self) -> None:
        queued = set(self._warm)
        self._warm.extend(d for d in self._declared if d not in queued)
        self._wake()

    def _wake(self) -> None:
        idle = self._task is None or self._task.done()
        self._is_warming |= bool(self._warm)
        if self._open and idle and (self._demands or self._warm):
            self._task = asyncio.get_running_loop().create_task(self._drive())

    async def _drive(self) -> None:
        while self._open and (group := self._next_group()):
            try:
                await self._load_group(group)
            except Exception as error:  # whatever it is, nobody may wait for ever
                if self._open:  # else the next worker loads them
                    self._give_up(group, error)
        if self._is_warming and not self._warm:
            self._is_warming = False
            self._on_loaded()

    def _next_group(self) -> list[slots.Content]:
        """What somebody waits for, else what there is room for."""
        if self._demands:
            most = min(GROUP_ADAPTERS, max(1, self.limit_bytes // self._slot_bytes))
            return [demand.content for demand in self._demands.values()][:most]
        group: list[slots.Content] = []
        while self._warm and len(group) < BACKGROUND_ADAPTERS:
            if self._bytes_of(len(group) + 1) > self.limit_bytes:
                self._warm.clear()
                break
            content = self._declared.get(self._warm.popleft())
            if content is not None and not self._is_known(content.digest):
                group.append(content)
        return group

    def _is_known(self, digest: str) -> bool:
        return digest in self._resident or digest in self.lost

    def _bytes_of(self, more: int) -> int:
        return self._resident_bytes + more * self._slot_bytes

    async def _load_group(self, group: Sequence[slots.Content]) -> None:
        self._make_room(group)
        entries = [self._table.take(content) for content in group]
        began_s = self._clock()
        loaded = await self._load(entries)
        seconds = self._clock() - began_s
        self._metrics.adapters_loaded(model=self._model, adapters=len(group), seconds=seconds)
        for content, entry in zip(group, entries, strict=True):
            demand = self._demands.pop((content.digest, content.inline), None)
            if error := loaded.failed.get(entry.slot):
                refusal = self.lose(entry, error)
                if demand is not None:
                    _fail(demand, refusal)
                continue
            self._keep(entry, loaded.head_bytes.get(entry.slot, 0))
            for waiter in demand.waiters if demand else ():
                if not waiter.done():
                    waiter.set_result(entry)
        self._trim()  # how large heads are was not known before
        self._record()

    def _trim(self) -> None:
        """Lets go of what is too much by now; one adapter may always be there."""
        while len(self._resident) > 1 and self._resident_bytes > self.limit_bytes:
            self._evict(self._resident)

    def _make_room(self, group: Sequence[slots.Content]) -> None:
        inline = sum(content.inline for content in group)
        while self._inline and len(self._inline) + inline > INLINE_ADAPTERS:
            self._evict(self._inline)
        while self._resident and self._bytes_of(len(group) - inline) > self.limit_bytes:
            self._evict(self._resident)

    def _evict(self, places: OrderedDict[str, _Place]) -> None:
        _, place = places.popitem(last=False)
        if places is self._resident:
            self._resident_bytes -= place.size_bytes
        self._metrics.adapter_evicted(model=self._model)

    def _keep(self, entry: slots.Entry, head_bytes: int) -> None:
        """Holds an adapter in memory, unless it was taken back while it was loaded."""
        content = entry.content
        assert content is not None  # the base's slot is never loaded
        place = _Place(entry, self._slot_bytes + head_bytes)
        if content.inline and not self._is_leaving:
            self._inline[content.digest] = place
        elif content.digest in self._declared and content.digest not in self._resident:
            self._resident[content.digest] = place
            self._resident_bytes += place.size_bytes

    def _drop(self, digest: str) -> None:
        place = self._resident.pop(digest, None)
        if place is not None:
            self._resident_bytes -= place.size_bytes

    def lose(self, entry: slots.Entry, error: errors.Error) -> errors.NotReady:
        """The file of this entry cannot be loaded; returns what its callers are told.

        It is not to be made anew where that may pass: whoever asks next has it loaded again.
        """
        content = entry.content
        assert content is not None  # the base's slot is never loaded
        log.error("adapter lost", model=self._model, digest=content.digest, error=str(error))
        if isinstance(error, errors.Temporary):
            self._trouble = error
        elif not content.inline:
            self.lost[content.digest] = error
            self._on_lost()
        return self._not_now()

    def _give_up(self, group: Sequence[slots.Content], error: Exception) -> None:
        """The worker cannot load now: tells whoever waits; the rest is loaded when asked for."""
        log.error("adapters not loaded", model=self._model, error=str(error))
        self._trouble = error.with_traceback(None)  # whose frames hold what was not loaded
        for content in group:
            if demand := self._demands.pop((content.digest, content.inline), None):
                _fail(demand, self._not_now())

    def _not_now(self) -> errors.NotReady:
        return errors.NotReady(
            f"an adapter of model '{self._model}' could not be loaded", retry_after_s=RETRY_S
        )

    def _record(self) -> None:
        if self._is_leaving:
            return  # another revision speaks for the model
        self._metrics.adapters(
            model=self._model,
            declared=len(self._declared),
            resident=len(self._resident),
            size_bytes=self._resident_bytes,
        )


def _fail(demand: _Demand, error: errors.Error) -> None:
    for waiter in demand.waiters:
        if not waiter.done():
            waiter.set_exception(error)
