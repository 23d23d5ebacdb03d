"""One Model as it runs: its revisions, what they hold, and the execution of a plan's operations."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from bertd import errors, metrics
from bertd.batching import batch
from bertd.reconcile import desire, outputs, plan, resolving, state
from bertd.runtime import dispatcher, feeder, revision, router
from bertd.tokenization import tokenizer

log = structlog.get_logger()

LOADING_RETRY_S = 0.5


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


class LiveModel:
    """Executes operations for one Model; only its own reconcile task calls it.

    Args:
        name: the Model's name.
        device: where its workers' lanes come from.
        router: where its routes are published.
        metrics: where revisions are recorded.
        on_state: called when a worker comes or goes.
    """

    def __init__(
        self,
        name: str,
        *,
        device: dispatcher.Dispatcher,
        router: router.Router,
        metrics: metrics.Metrics,
        on_state: Callable[[], None],
    ) -> None:
        self.name = name
        self.serving: Running | None = None
        self._device = device
        self._router = router
        self._metrics = metrics
        self._on_state = on_state
        self._revisions: dict[str, Running] = {}
        self.publish({})

    @property
    def is_up(self) -> bool:
        """Whether calls are answered right now."""
        return self.serving is not None and self.serving.revision.serving

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
        adapters = {f.file.digest for each in running for f in each.adapters.values()}
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

    def publish(self, failures: Mapping[str, errors.Error]) -> None:
        """Routes every loaded name to the serving revision and explains the others.

        Args:
            failures: adapter name, or "" for the Model itself, -> why it does not serve.
        """
        running = self.serving
        if running is None:
            error = failures.get("")
            loading = errors.NotReady(
                f"model '{self.name}' is loading", retry_after_s=LOADING_RETRY_S
            )
            why = _for_callers(f"model {self.name}", error) if error else loading
            self._router.publish(self.name, router.Names(refusals={"": why}))
            return
        routes = {"": self._route(running, "", None)}
        for adapter, found in running.adapters.items():
            routes[adapter] = self._route(running, adapter, found)
        waiting = {
            adapter: _for_callers(f"adapter {self.name}/{adapter}", error)
            for adapter, error in failures.items()
            if adapter and adapter not in routes
        }
        self._router.publish(self.name, router.Names(routes=routes, refusals=waiting))

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
            ),
            base=base,
            key=state.reload_key(picture),
            inputs=state.reload_inputs(spec, picture.base),
            limits=limits,
            tokenizer=await _tokenizer(base, limits),
        )
        await running.revision.start()
        self._revisions[operation.revision] = running

    def _switch(self, name: str) -> None:
        running = self.serving = self._revisions[name]
        self._metrics.revision(
            model=self.name,
            revision=name,
            precision=str(running.revision.facts.get("precision", "")),
            digest=running.base.description.digest,
        )
        self.publish({})

    async def _retire(self, name: str) -> None:
        await self._revisions.pop(name).revision.close()

    async def _load(
        self, operation: plan.LoadAdapter | plan.ReplaceAdapter, desired: desire.Desired
    ) -> None:
        running = self._revisions[operation.revision]
        found = desired.adapters[operation.adapter]
        if isinstance(found, errors.Error):
            found = self._held(operation, found)
        target = running.revision
        await target.load_adapter(operation.adapter, found.file.digest, found.file.path)
        running.adapters[operation.adapter] = found
        if running is self.serving and isinstance(operation, plan.ReplaceAdapter):
            self.publish({})

    def _held(
        self, operation: plan.LoadAdapter | plan.ReplaceAdapter, error: errors.Error
    ) -> desire.Found:
        """What serves now under this name and digest: its source may be gone, its blob is not."""
        held = self.serving.adapters.get(operation.adapter) if self.serving else None
        if held is None or held.file.digest != operation.digest:
            raise error
        return held

    def _unload(self, operation: plan.UnloadAdapter) -> None:
        running = self._revisions[operation.revision]
        running.adapters.pop(operation.adapter)
        self.publish({})
        running.revision.unload_adapter(operation.adapter)
        self._metrics.forget_adapter(self.name, operation.adapter)

    def _update_output(self, operation: plan.UpdateOutput, desired: desire.Desired) -> None:
        found = desired.adapters[operation.adapter]
        if isinstance(found, errors.Error):
            raise found
        self._revisions[operation.revision].adapters[operation.adapter] = found

    async def _update_limits(self, operation: plan.UpdateLimits) -> None:
        running = self._revisions[operation.revision]
        running.tokenizer = await _tokenizer(running.base, operation.limits)
        running.limits = operation.limits
        running.revision.set_limits(_limits(operation.limits))


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
    """The base's tokenizer for the declared length.

    Raises:
        BadArtifact: the file is broken, or `maxLength` is more than the checkpoint can number.
    """
    described = base.description
    longest = described.shape.max_tokens
    if limits.max_length is not None and limits.max_length > longest:
        raise errors.BadArtifact(
            f"`maxLength` is {limits.max_length}, but the checkpoint has positions for {longest}",
            reason="MaxLengthTooLarge",
            hint=f"set `maxLength` to {longest} or less",
        )
    return await asyncio.to_thread(
        tokenizer.Tokenizer.load,
        described.tokenizer,
        max_length=limits.max_length or described.max_length,
        vocab=described.shape.vocab,
        token_types=described.shape.token_types,
    )


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
