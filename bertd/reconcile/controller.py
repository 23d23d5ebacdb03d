"""The controller: keeps what runs equal to what the store declares.

Level-based: a reconcile carries only a Model's name, or those of some of its adapters, and reads
everything else anew. One task per Model at most; changes that arrive meanwhile make it run once
more. Failures that may heal are retried with backoff, others wait for a change, which every resync
would notice.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import structlog

from bertd import errors
from bertd.reconcile import declarations, desire, live, looks, plan, resolving, state, statuses
from bertd.store import folded, history, objects

log = structlog.get_logger()

RESYNC_S = 60.0
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 300.0
RETRY_JITTER = 0.2
BETWEEN_TURNS = 256  # operations: thousands of them must not keep callers waiting
LOOK_S = 5.0
SWEEP_AGAIN_S = 30.0  # not before: it looks at every stored file
LOGGED_MAX = 16  # operations of one kind in one plan that get a line each

# Operations after which files in the blob store may be of no use any more.
LEAVING = (plan.RetireRevision, plan.ReplaceAdapter, plan.UnloadAdapter)

OnHealth = Callable[[str, bool | None], None]


def retry_delay_s(failures: int, jitter: float) -> float:
    """Backoff after the `failures`-th failure in a row; `jitter` in [-1, 1] spreads it by 20 %."""
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** (failures - 1)) * (1 + RETRY_JITTER * jitter)


class Controller:
    """Owns every `LiveModel` and its status; `control.Control` tells it what changed.

    Args:
        objects: the truth about what is declared.
        resolver: declared sources to content.
        shared: what Models run with.
        on_health: told of health names (`model/NAME`, `ready`, `startup`) and whether they serve;
            None when a Model is gone.
        history: which version of an adapter served since when.
        jitter: uniform in [-1, 1].
    """

    def __init__(
        self,
        *,
        objects: objects.Objects,
        resolver: resolving.Resolver,
        shared: live.Shared,
        on_health: OnHealth,
        history: history.History | None = None,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),
    ) -> None:
        self._declarations = declarations.Declarations(objects)
        self._resolver = resolver
        self._shared = shared
        self._on_health = on_health
        self._jitter = jitter
        self._live: dict[str, live.LiveModel] = {}
        self.statuses = statuses.Statuses(history)
        self._dirty: dict[str, set[str] | None] = {}  # Models; None: all of their adapters
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._closing = False
        self._settled: set[str] = set()  # Models that were reconciled at least once
        self._previews = 0
        self._sweep_wanted = False
        self._sweeping: asyncio.Task[None] | None = None
        self._sweep_from_s = 0.0
        self._looks = looks.Looks(self._appears)

    # Life.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reconciles everything that is stored, and whatever changes, until the block ends."""
        resync = asyncio.create_task(self._resync())
        try:
            yield
        finally:
            self._closing = True
            for retry in self._retries.values():
                retry.cancel()
            tasks = [resync, *self._tasks.values(), *self._looks.running]
            tasks += [self._sweeping] if self._sweeping else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(model.remove() for model in self._live.values()))

    async def _resync(self) -> None:
        while True:
            try:
                self.poke(*await asyncio.to_thread(self._declarations.models), *self._live)
                await self._tell_readiness()
            except Exception:  # such as a disk that fails for a while
                log.exception("resync failed")
            await asyncio.sleep(RESYNC_S)

    def poke(self, *models: str) -> None:
        """Looks at these Models again, soon; several pokes may be one look."""
        self.poke_some(dict.fromkeys(models))

    def poke_some(self, models: Mapping[str, set[str] | None]) -> None:
        """Looks at some adapters of Models again, or at all of a Model: None."""
        for model, adapters in () if self._closing else models.items():
            known = self._dirty.get(model, set())
            is_all = adapters is None or known is None
            self._dirty[model] = None if is_all else {*known, *adapters}  # type: ignore[misc]
            if model not in self._tasks:
                self._tasks[model] = asyncio.create_task(self._drive(model))

    async def _drive(self, model: str) -> None:
        try:
            while model in self._dirty:
                await self._step(model, self._dirty.pop(model))
        finally:
            del self._tasks[model]
        self._sweep()

    def _sweep(self) -> None:
        """Removes unused blobs, but only while nobody resolves: new ones are not in use yet.

        What is too early now is done after a later reconcile, such as the next resync.
        """
        if not self._sweep_wanted or self._tasks or self._previews or self._sweeping:
            return
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._sweep_from_s:
            self._sweep_from_s = now_s + SWEEP_AGAIN_S
            self._sweep_wanted = False
            self._sweeping = asyncio.create_task(self._sweep_now())

    async def _sweep_now(self) -> None:
        in_use = {digest for model in self._live.values() for digest in model.blobs()}
        keys = {key for model in self._live.values() for key in model.folded_keys()}
        try:
            log.info("swept", blobs=await asyncio.to_thread(self._resolver.sweep, in_use))
            if self._shared.folded is not None:
                await asyncio.to_thread(folded.sweep, self._shared.folded, keys, in_use)
        except errors.Temporary as error:
            log.error("sweep failed", error=str(error))
            self._sweep_wanted = True
        finally:
            self._sweeping = None

    async def _resolve(
        self, declared: desire.Declared, base: resolving.Base | errors.Error | None = None
    ) -> desire.Desired:
        """Looks at sources; never while unused blobs are being removed."""
        while self._sweeping is not None:
            await asyncio.wait((self._sweeping,))
        model = self._live.get(declared.name)
        serving = model.serving if model else None
        return await asyncio.to_thread(
            desire.resolve,
            declared,
            self._resolver,
            serving.base if serving else None,
            serving.adapters if serving else None,  # only asked for names, which a thread may do
            base,
        )

    async def _step(self, model: str, only: set[str] | None) -> None:
        """One reconcile of one Model; whatever goes wrong stays its own."""
        if only is None and (retry := self._retries.pop(model, None)):
            retry.cancel()
        try:
            heals = await self._reconcile(model, only)
        except Exception:
            log.exception("reconcile failed", model=model)
            heals = True
        self._settled.add(model)
        try:
            await self._tell_health(model)
        except errors.Error as error:  # the store could not be read
            log.error("health is not known", model=model, error=str(error))
            heals = True
        if not heals:
            if only is None:
                self._failures.pop(model, None)
            return
        if model in self._retries:
            return  # a look at some adapters is no retry
        self._failures[model] = self._failures.get(model, 0) + 1
        delay_s = retry_delay_s(self._failures[model], self._jitter())
        later = asyncio.get_running_loop().call_later(delay_s, self.poke, model)
        self._retries[model] = later

    # What an apply is about to change.

    def expect(self, names: Iterable[tuple[str, str]]) -> None:
        """From now on callers are told to come back, not that nothing of this name exists.

        Args:
            names: (model, "") for a Model, (model, adapter) for an adapter of a known Model.
        """
        for name, adapter in sorted(names):
            if not adapter:
                self._model(name)
            elif model := self._live.get(name):
                model.names.add(adapter)

    async def preview(self, wanted: desire.Declared) -> tuple[str, ...]:
        """The operations that declaring this Model so would cause, one line each."""
        model = self._live.get(wanted.name)
        self._previews += 1
        try:
            desired = await self._resolve(wanted)
        finally:
            self._previews -= 1
            self._sweep_wanted = True  # what it copied may never be applied
        planned = await asyncio.to_thread(_planned, desired, model.observed() if model else [])
        return tuple(map(str, planned))

    # One Model.

    async def _reconcile(self, name: str, only: set[str] | None) -> bool:
        """Makes one Model, or some of its adapters, as declared; True if a retry may do better."""
        names = frozenset(only) if only is not None and self._is_settled(name) else None
        declared = await asyncio.to_thread(self._declarations.read, name, names)
        if declared is None:
            await self._remove(name)
            return False
        model = self._model(name)
        if names is not None and declared.generation != model.generation:
            declared = await asyncio.to_thread(self._declarations.read, name)
        if declared is None:
            return True  # it went at this moment
        self.statuses.begin(declared, _now())
        model.names |= declared.names
        await self._mend(model)
        desired, failure = await self._look_and_start(model, declared)
        self._expect_only(model, desired)
        if failure is not None:
            model.failures.setdefault("", failure)
        else:
            await self._execute(model, desired)
        model.generation = declared.generation
        await self._tell_health(name)  # before a status says so: who waits for that may probe next
        await self.statuses.settle(desired, model, _now())
        return any(isinstance(error, errors.Temporary) for error in model.failures.values())

    async def _look_and_start(
        self, model: live.LiveModel, declared: desire.Declared
    ) -> tuple[desire.Desired, errors.Error | None]:
        """Looks at all sources; a Model that does not serve yet starts its base meanwhile.

        Returns what was found, and why the base could not be started.
        """
        if model.serving is not None:
            return await self._resolve(declared), None
        bare = await self._resolve(
            dataclasses.replace(declared, adapters={}, generations={}, only=frozenset())
        )
        failure, desired = await asyncio.gather(
            self._execute(model, bare), self._resolve(declared, bare.base)
        )
        return desired, failure

    def _is_settled(self, name: str) -> bool:
        """Whether it is enough to look at some adapters of a Model.

        Not while another revision is due: it would be given these adapters and no others.
        """
        model = self._live.get(name)
        return model is not None and model.serving is not None and "" not in model.failures

    def _expect_only(self, model: live.LiveModel, desired: desire.Desired) -> None:
        """Which names are declared, and why some cannot serve, according to this look."""
        # What was applied meanwhile stays expected: the next reconcile will see it.
        soon = self._dirty.get(model.name, set())
        expected = model.names if soon is None else soon & model.names
        if desired.only is None:
            model.names, model.failures = expected | desired.adapters.keys(), desired.failures
            return
        model.names -= desired.only - expected
        model.names |= desired.adapters.keys()
        kept = {n: e for n, e in model.failures.items() if n not in desired.only}
        model.failures = kept | desired.failures

    async def _mend(self, model: live.LiveModel) -> None:
        """Stored files that are not what they were are made anew from their sources."""
        if lost := model.drop_lost():
            try:
                await asyncio.to_thread(self._resolver.forget, lost)
            except errors.Temporary as error:
                log.error("broken files stay", files=len(lost), error=str(error))

    def _model(self, name: str) -> live.LiveModel:
        if name not in self._live:
            self._live[name] = live.LiveModel(
                name,
                self._shared,
                on_state=lambda: self._on_worker(name),
                on_loaded=lambda: self.poke_some({name: set()}),  # only its details have changed
                look=functools.partial(self._looks.find, name),
            )
        return self._live[name]

    async def _execute(self, model: live.LiveModel, desired: desire.Desired) -> errors.Error | None:
        """Runs the plan; adds to the Model's failures. Returns what ended the plan early."""
        planned = await asyncio.to_thread(_planned, desired, model.observed(desired.only))
        _log(model.name, planned)
        for number, operation in enumerate(planned):
            if number % BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
            try:
                await model.execute(operation, desired)
            except errors.Error as error:
                log.warning("operation failed", operation=str(operation), error=str(error))
                # Not its traceback, whose frames hold what was not loaded.
                model.failures[getattr(operation, "adapter", "")] = error.with_traceback(None)
                if _ends_plan(operation, error, model):
                    model.failures.setdefault("", error)
                    return error
            self._sweep_wanted |= isinstance(operation, LEAVING)
        return None

    async def _appears(self, name: str, adapter: str) -> bool:
        """Looks for a file of this name under the globs of a Model, and has it served."""
        declared = await asyncio.to_thread(self._declarations.read, name, frozenset())
        if declared is None or not await asyncio.to_thread(
            desire.could_appear, declared.globs, adapter
        ):
            return False
        self.poke_some({name: {adapter}})
        if task := self._tasks.get(name):  # none while the daemon stops
            await asyncio.wait((task,), timeout=LOOK_S)
        return True

    def measured(self, name: str) -> dict[str, object]:
        """What is known of a running Model that changes all the time; JSON values."""
        model = self._live.get(name)
        return model.measured() if model else {}

    def _on_worker(self, name: str) -> None:
        """A worker came or went: probes hear at once, whatever the reconcile takes."""
        if model := self._live.get(name):
            self._on_health(f"model/{name}", model.is_up)
        self.poke(name)

    async def _remove(self, name: str) -> None:
        """Drains and forgets a Model that is no longer declared; its Adapter objects stay."""
        if model := self._live.get(name):
            await model.remove()
            del self._live[name]
        self._shared.router.remove(name)  # again: something may have been applied to it meanwhile
        orphans = await asyncio.to_thread(self._declarations.orphans, name)
        self.statuses.remove(name, orphans, _now())
        self._sweep_wanted = True

    async def _tell_health(self, name: str) -> None:
        model = self._live.get(name)
        self._on_health(f"model/{name}", model.is_up if model else None)
        await self._tell_readiness()

    async def _tell_readiness(self) -> None:
        """`ready` while every declared Model serves; `startup` once each had its first try."""
        declared = await asyncio.to_thread(self._declarations.declared_models)
        self._on_health("ready", all(n in self._live and self._live[n].is_up for n in declared))
        if declared <= self._settled:
            self._on_health("startup", True)


def _planned(
    desired: desire.Desired, observed: Sequence[state.ObservedModel]
) -> tuple[plan.Operation, ...]:
    return tuple(plan.plan_model(desired.picture(), observed))


def _log(model: str, planned: Sequence[plan.Operation]) -> None:
    """A line for each operation; of thousands alike, one line for all."""
    for kind, count in Counter(map(type, planned)).items():
        if count > LOGGED_MAX:
            log.info("execute", model=model, operations=count, kind=kind.__name__)
            continue
        for operation in planned:
            if type(operation) is kind:
                log.info("execute", operation=str(operation))


def _ends_plan(operation: plan.Operation, error: errors.Error, model: live.LiveModel) -> bool:
    """Whether the rest would switch to a revision that is not there, or lacks what may come yet."""
    if isinstance(operation, plan.StartRevision | plan.SwitchRevision):
        return True
    if not isinstance(operation, plan.LoadAdapter | plan.ReplaceAdapter):
        return False
    return isinstance(error, errors.Temporary) and model.is_replacing(operation.revision)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
