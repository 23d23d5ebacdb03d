"""One Model as it runs: its revisions, what they hold, and the execution of a plan's operations."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from bertd import errors, metrics
from bertd.batching import batch
from bertd.reconcile import desire, outputs, plan, resolving, state
from bertd.runtime import dispatcher, feeder, revision, router, worker
from bertd.tokenization import tokenizer

log = structlog.get_logger()

LOADING_RETRY_S = 0.5
PUBLISH_EVERY_S = 0.2  # while a plan runs: thousands of adapters become routable as they load


@dataclass(slots=True, kw_only=True)
class Running:
    """A revision, what it was built from, and the adapters that it holds."""

    revision: revision.Revision
    base: resolving.Base
    key: str
    inputs: Mapping[str, str]
    limits: state.Limits
    tokenizer: tokenizer.Tokenizer
    adapters: dict[str, desire.Found] = field(default_factory=dict)
    routes: dict[str, router.Route] = field(default_factory=dict)  # by adapter; "" is the base


class LiveModel:
    """Executes operations for one Model; only its own reconcile task calls it.

    Args:
        name: the Model's name.
        device: where its workers' lanes come from.
        router: where its routes are published.
        metrics: where revisions are recorded.
        on_state: called when a worker comes or goes.
        spawn: starts a worker process.

    `names` are the adapters that are declared: those that do not serve yet are on their way, unless
    `failures` says why not ("" is the Model itself). `publish` makes changes of either known.
    """

    def __init__(
        self,
        name: str,
        *,
        device: dispatcher.Dispatcher,
        router: router.Router,
        metrics: metrics.Metrics,
        on_state: Callable[[], None],
        spawn: revision.Spawn = worker.Worker.spawn,
    ) -> None:
        self.name = name
        self.serving: Running | None = None
        self.failures: dict[str, errors.Error] = {}
        self.names: set[str] = set()
        self._device = device
        self._router = router
        self._metrics = metrics
        self._on_state = on_state
        self._spawn = spawn
        self._revisions: dict[str, Running] = {}
        self._published_s = 0.0
        self.publish()

    @property
    def is_up(self) -> bool:
        """Whether calls are answered right now."""
        return self.serving is not None and self.serving.revision.serving

    def is_replacing(self, revision: str) -> bool:
        """Whether another revision serves while this one is being filled."""
        return self.serving is not None and self.serving is not self._revisions.get(revision)

    def observed(self) -> list[state.ObservedModel]:
        """What exists, for the plan."""
        return [
            state.ObservedModel(
                name=self.name,
                revision=name,
                reload_key=running.key,
                limits=running.limits,
                serving=running is self.serving,
                adapters={
                    adapter: state.ObservedAdapter(digest=found.file.digest, output=found.settings)
                    for adapter, found in running.adapters.items()
                },
                reload_inputs=running.inputs,
            )
            for name, running in self._revisions.items()
        ]

    def blobs(self) -> set[str]:
        """Digests of every stored file that a revision of this Model may still open."""
        running = self._revisions.values()
        adapters = {digest for each in running for digest in each.revision.held}
        return adapters | {digest for each in running for digest in each.base.blobs.values()}

    def details(self) -> dict[str, object]:
        """Facts about what serves, for people and scripts; JSON values."""
        running = self.serving
        if running is None:
            return {}
        return {
            **running.revision.facts,
            "lanes": self._device.permits,
            "workerPid": running.revision.worker_pid,
            "adapters": len(running.adapters),
            "maxLength": running.tokenizer.max_length,
        }

    async def execute(self, operation: plan.Operation, desired: desire.Desired) -> None:
        """Does one operation.

        Raises:
            BadArtifact, Temporary: it could not be done; what served before still serves.
        """
        log.info("execute", operation=str(operation))
        await self._execute(operation, desired)
        if asyncio.get_running_loop().time() >= self._published_s + PUBLISH_EVERY_S:
            self.publish()

    async def _execute(self, operation: plan.Operation, desired: desire.Desired) -> None:
        match operation:
            case plan.StartRevision():
                await self._start(operation, desired)
            case plan.SwitchRevision():
                self._switch(operation.revision)
            case plan.RetireRevision():
                await self._retire(operation.revision)
            case plan.LoadAdapter() | plan.ReplaceAdapter():
                await self._load(operation, desired)
            case plan.UnloadAdapter():
                self._unload(operation)
            case plan.UpdateOutput():
                self._update_output(operation, desired)
            case plan.UpdateLimits():
                await self._update_limits(operation)
            case plan.RemoveModel():
                await self.remove()

    async def remove(self) -> None:
        """Stops routing, answers what is queued, ends all workers, forgets the metrics."""
        self._router.remove(self.name)
        self.serving = None
        for name in list(self._revisions):
            await self._retire(name)
        self._metrics.forget_model(self.name)

    def drop_lost(self) -> None:
        """Forgets adapters that a restarted worker could not load again, so that a plan does."""
        for running in self._revisions.values():
            for adapter in running.adapters.keys() - running.revision.entries.keys():
                del running.adapters[adapter], running.routes[adapter]

    def publish(self) -> None:
        """Routes every loaded name to the serving revision and explains the others."""
        self._published_s = asyncio.get_running_loop().time()
        routes = dict(self.serving.routes) if self.serving else {}
        names = self.names if self.serving else {""}
        refusals = {name: self._refusal(name) for name in names if name not in routes}
        self._router.publish(self.name, router.Names(routes=routes, refusals=refusals))

    def _refusal(self, adapter: str) -> errors.Error:
        what = f"adapter {self.name}/{adapter}" if adapter else f"model {self.name}"
        if error := self.failures.get(adapter):
            return _for_callers(what, error)
        return errors.NotReady(f"{what} is loading", retry_after_s=LOADING_RETRY_S)

    def _make_routes(self, running: Running) -> None:
        running.routes = {"": self._route(running, "", None)}
        for adapter, found in running.adapters.items():
            running.routes[adapter] = self._route(running, adapter, found)

    def _route(self, running: Running, adapter: str, found: desire.Found | None) -> router.Route:
        described = running.base.description
        target = running.revision
        declared = running.limits.normalize
        return router.Route(
            model=self.name,
            adapter=adapter,
            revision=target.build.name,
            digest=found.file.digest if found else "",
            output=found.output if found else outputs.of_base(described),
            tokenizer=running.tokenizer,
            truncate=running.limits.on_too_long == "truncate",
            normalize=described.pooling.normalize if declared is None else declared,
            dimensions=described.shape.hidden,
            target=target,
            entry=target.entries[adapter] if found else target.base,
        )

    async def _start(self, operation: plan.StartRevision, desired: desire.Desired) -> None:
        base = desired.base
        if isinstance(base, errors.Error):
            raise base
        picture = desired.picture()
        spec = desired.declared.spec
        limits = state.limits(spec)
        assert picture.base is not None  # the base was resolved
        running = Running(
            revision=revision.Revision(
                revision.Build(
                    name=operation.revision,
                    model=self.name,
                    files=base.files,
                    precision=spec.precision,
                    pooling=spec.pooling.mode or base.description.pooling.mode,
                ),
                _limits(limits),
                device=self._device,
                metrics=self._metrics,
                on_state=self._on_state,
                spawn=self._spawn,
            ),
            base=base,
            key=state.reload_key(picture),
            inputs=state.reload_inputs(spec, picture.base),
            limits=limits,
            tokenizer=await _tokenizer(base, limits),
        )
        await running.revision.start()
        self._make_routes(running)
        self._revisions[operation.revision] = running

    def _switch(self, name: str) -> None:
        running = self._revisions[name]
        if not running.revision.serving:
            raise errors.Temporary("its worker is being replaced", reason="WorkerRestarting")
        self.serving = running
        self._metrics.revision(
            model=self.name,
            revision=name,
            precision=str(running.revision.facts.get("precision", "")),
            digest=running.base.description.digest,
        )
        self.publish()

    async def _retire(self, name: str) -> None:
        running = self._revisions[name]
        running.routes.clear()  # a revision closes when nobody holds a route to it any more
        await running.revision.close()
        del self._revisions[name]

    async def _load(
        self, operation: plan.LoadAdapter | plan.ReplaceAdapter, desired: desire.Desired
    ) -> None:
        running = self._revisions[operation.revision]
        found = desired.adapters.get(operation.adapter)
        if not isinstance(found, desire.Found):
            found = self._held(operation, found)
        target = running.revision
        await target.load_adapter(operation.adapter, found.file.digest, found.file.path)
        self._hold(running, operation.adapter, found)

    def _hold(self, running: Running, adapter: str, found: desire.Found) -> None:
        running.adapters[adapter] = found
        running.routes[adapter] = self._route(running, adapter, found)

    def _held(
        self, operation: plan.LoadAdapter | plan.ReplaceAdapter, error: errors.Error | None
    ) -> desire.Found:
        """What serves now under this name and digest: its source may be gone, its blob is not."""
        held = self.serving.adapters.get(operation.adapter) if self.serving else None
        if held is None or held.file.digest != operation.digest:
            raise error or errors.Bug(f"nothing is known of adapter '{operation.adapter}'")
        return held

    def _unload(self, operation: plan.UnloadAdapter) -> None:
        running = self._revisions[operation.revision]
        del running.adapters[operation.adapter], running.routes[operation.adapter]
        running.revision.unload_adapter(operation.adapter)
        self._metrics.forget_adapter(self.name, operation.adapter)

    def _update_output(self, operation: plan.UpdateOutput, desired: desire.Desired) -> None:
        found = desired.adapters[operation.adapter]
        if isinstance(found, errors.Error):
            raise found
        self._hold(self._revisions[operation.revision], operation.adapter, found)

    async def _update_limits(self, operation: plan.UpdateLimits) -> None:
        running = self._revisions[operation.revision]
        running.tokenizer = await _tokenizer(running.base, operation.limits)
        running.limits = operation.limits
        running.revision.set_limits(_limits(operation.limits))
        self._make_routes(running)


def _limits(limits: state.Limits) -> feeder.Limits:
    return feeder.Limits(
        batch=batch.Limits(
            max_tokens=limits.max_tokens,
            max_rows=limits.max_rows,
            max_delay_s=limits.max_delay_s,
        ),
        max_queue_delay_s=limits.max_queue_delay_s,
    )


async def _tokenizer(base: resolving.Base, limits: state.Limits) -> tokenizer.Tokenizer:
    return await asyncio.to_thread(resolving.load_tokenizer, base.description, limits.max_length)


def _for_callers(what: str, error: errors.Error) -> errors.Error:
    """What a caller is told of a failure: come back, or have it mended; paths stay with the owner.

    Args:
        what: the object as `bertd describe` names it.
        error: why it does not serve.
    """
    if not isinstance(error, errors.BadArtifact):
        return errors.NotReady(f"{what} is not ready yet", retry_after_s=LOADING_RETRY_S)
    return errors.NotServable(
        f"{what} cannot be served as declared: {error.reason}",
        reason=error.reason,
        hint=f"its owner sees why with `bertd describe {what}`",
    )
