"""The controller: keeps what runs equal to what the store declares.

Level-based: a reconcile carries only a Model's name and reads everything else anew. One task per
Model at most; changes that arrive meanwhile make it run once more. Failures that may heal are
retried with backoff, others wait for a change, which every resync would notice.
"""

import asyncio
import contextlib
import datetime
import random
from collections.abc import AsyncIterator, Callable, Iterable

import structlog

from bertd import errors, metrics
from bertd.reconcile import declarations, desire, live, plan, resolving, statuses
from bertd.runtime import dispatcher, revision, router, worker
from bertd.store import objects

log = structlog.get_logger()

RESYNC_S = 60.0
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 300.0
RETRY_JITTER = 0.2

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
        device: whose lanes the workers use.
        router: where routes are published.
        metrics: where revisions are recorded.
        on_health: told of health names (`model/NAME`, `ready`, `startup`) and whether they serve;
            None when a Model is gone.
        jitter: uniform in [-1, 1].
        spawn: starts a worker process.
    """

    def __init__(
        self,
        *,
        objects: objects.Objects,
        resolver: resolving.Resolver,
        device: dispatcher.Dispatcher,
        router: router.Router,
        metrics: metrics.Metrics,
        on_health: OnHealth,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),
        spawn: revision.Spawn = worker.Worker.spawn,
    ) -> None:
        self._objects = objects
        self._resolver = resolver
        self._device = device
        self._router = router
        self._metrics = metrics
        self._on_health = on_health
        self._jitter = jitter
        self._spawn = spawn
        self._live: dict[str, live.LiveModel] = {}
        self.statuses = statuses.Statuses()
        self._dirty: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._closing = False
        self._settled: set[str] = set()  # Models that were reconciled at least once
        self._previews = 0
        self._sweep_wanted = False

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
            tasks = [resync, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(model.remove() for model in self._live.values()))

    async def _resync(self) -> None:
        while True:
            try:
                self.poke(*await asyncio.to_thread(declarations.models, self._objects), *self._live)
                self._tell_readiness()
            except Exception:  # such as a disk that fails for a while
                log.exception("resync failed")
            await asyncio.sleep(RESYNC_S)

    def poke(self, *models: str) -> None:
        """Looks at these Models again, soon; several pokes may be one look."""
        for model in () if self._closing else set(models):
            self._dirty.add(model)
            if model not in self._tasks:
                self._tasks[model] = asyncio.create_task(self._drive(model))

    async def _drive(self, model: str) -> None:
        try:
            while model in self._dirty:
                self._dirty.discard(model)
                await self._step(model)
        finally:
            del self._tasks[model]
        self._sweep()

    def _sweep(self) -> None:
        """Removes unused blobs, but only while nobody resolves: new ones are not in use yet."""
        if self._sweep_wanted and not self._tasks and not self._previews:
            in_use = {digest for model in self._live.values() for digest in model.blobs()}
            try:
                log.info("swept", blobs=self._resolver.sweep(in_use))
            except errors.Temporary as error:
                log.error("sweep failed", error=str(error))
            else:
                self._sweep_wanted = False

    async def _step(self, model: str) -> None:
        """One reconcile of one Model; whatever goes wrong stays its own."""
        if retry := self._retries.pop(model, None):
            retry.cancel()
        try:
            heals = await self._reconcile(model)
        except Exception:
            log.exception("reconcile failed", model=model)
            heals = True
        self._settled.add(model)
        try:
            self._tell_health(model)
        except errors.Error as error:  # the store could not be read
            log.error("health is not known", model=model, error=str(error))
            heals = True
        if not heals:
            self._failures.pop(model, None)
            return
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
                model.publish()

    async def preview(self, wanted: desire.Declared) -> tuple[str, ...]:
        """The operations that declaring this Model so would cause, one line each."""
        model = self._live.get(wanted.name)
        serving = model.serving.base if model and model.serving else None
        self._previews += 1
        try:
            desired = await asyncio.to_thread(desire.resolve, wanted, self._resolver, serving)
        finally:
            self._previews -= 1
            self._sweep_wanted = True  # what it copied may never be applied
        revisions = model.observed() if model else []
        return tuple(str(each) for each in plan.plan_model(desired.picture(), revisions))

    # One Model.

    async def _reconcile(self, name: str) -> bool:
        """Makes one Model as declared; True if another try may do better."""
        declared = await asyncio.to_thread(declarations.read, self._objects, name)
        if declared is None:
            await self._remove(name)
            return False
        model = self._model(name)
        self.statuses.begin(declared, _now())
        model.names |= declared.names
        model.publish()
        serving = model.serving.base if model.serving else None
        desired = await asyncio.to_thread(desire.resolve, declared, self._resolver, serving)
        # What was applied meanwhile stays expected: the next reconcile will see it.
        expected = model.names if name in self._dirty else set()
        model.names, model.failures = expected | desired.adapters.keys(), desired.failures
        await self._execute(model, desired)
        model.publish()
        await self.statuses.settle(desired, model, _now())
        return any(isinstance(error, errors.Temporary) for error in model.failures.values())

    def _model(self, name: str) -> live.LiveModel:
        if name not in self._live:
            self._live[name] = live.LiveModel(
                name,
                device=self._device,
                router=self._router,
                metrics=self._metrics,
                on_state=lambda: self._on_worker(name),
                spawn=self._spawn,
            )
        return self._live[name]

    async def _execute(self, model: live.LiveModel, desired: desire.Desired) -> None:
        """Runs the plan; adds to the Model's failures."""
        model.drop_lost()
        for operation in plan.plan_model(desired.picture(), model.observed()):
            try:
                await model.execute(operation, desired)
            except errors.Error as error:
                log.warning("operation failed", operation=str(operation), error=str(error))
                # Not its traceback, whose frames hold the slot of what was not loaded.
                model.failures[getattr(operation, "adapter", "")] = error.with_traceback(None)
                if _ends_plan(operation, error, model):
                    model.failures.setdefault("", error)
                    break
            self._sweep_wanted |= isinstance(operation, LEAVING)

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
        self._router.remove(name)  # again: something may have been applied to it meanwhile
        orphans = await asyncio.to_thread(declarations.adapters_of, self._objects, name)
        self.statuses.remove(name, orphans, _now())
        self._sweep_wanted = True

    def _tell_health(self, name: str) -> None:
        model = self._live.get(name)
        self._on_health(f"model/{name}", model.is_up if model else None)
        self._tell_readiness()

    def _tell_readiness(self) -> None:
        """`ready` while every declared Model serves; `startup` once each had its first try."""
        declared = {stored.name for stored in self._objects.every("Model")}
        self._on_health("ready", all(n in self._live and self._live[n].is_up for n in declared))
        if declared <= self._settled:
            self._on_health("startup", True)


def _ends_plan(operation: plan.Operation, error: errors.Error, model: live.LiveModel) -> bool:
    """Whether the rest would switch to a revision that is not there, or lacks what may come yet."""
    if isinstance(operation, plan.StartRevision | plan.SwitchRevision):
        return True
    if not isinstance(operation, plan.LoadAdapter | plan.ReplaceAdapter):
        return False
    return isinstance(error, errors.Temporary) and model.is_replacing(operation.revision)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
