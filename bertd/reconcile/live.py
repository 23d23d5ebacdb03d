"""One Model as it runs: its revisions, what they hold, and the execution of a plan's operations."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bertd import errors, metrics
from bertd.batching import policy
from bertd.reconcile import desire, outputs, plan, resolving, state
from bertd.runtime import devices, feeder, gate, memory, revision, router, slots, worker
from bertd.tokenization import tokenizer

log = structlog.get_logger()

LOADING_RETRY_S = 0.5
EFFICIENCY_DIGITS = 3
EAGER = "torch"  # the kernels of a worker that has no native code for this machine

Look = Callable[[str], Awaitable[bool]]


@dataclass(slots=True, kw_only=True)
class Running:
    """A revision, what it was built from, and the adapters that it serves."""

    revision: revision.Revision
    base: resolving.Base
    key: str
    inputs: Mapping[str, str]
    limits: state.Limits
    tokenizer: tokenizer.Tokenizer
    adapters: dict[str, desire.Found] = field(default_factory=dict)
    contents: dict[str, slots.Content] = field(default_factory=dict)  # by adapter
    uses: Counter[str] = field(default_factory=Counter)  # adapters by digest: some share a file
    routes: dict[str, router.Route] = field(default_factory=dict)  # as they are asked for

    def hold(self, adapter: str, found: desire.Found, path: Path) -> None:
        """Serves `found` under this name from now on."""
        digest = found.file.digest
        self.uses[digest] += 1
        content = self.revision.adapters.declare(slots.Content(digest, path))
        before = self.contents.get(adapter)
        self.adapters[adapter], self.contents[adapter] = found, content
        self.routes.pop(adapter, None)
        if before is not None:
            self._release(before.digest)

    def drop(self, adapter: str) -> None:
        """Serves nothing under this name any more."""
        del self.adapters[adapter]
        self.routes.pop(adapter, None)
        self._release(self.contents.pop(adapter).digest)

    def _release(self, digest: str) -> None:
        self.uses[digest] -= 1
        if not self.uses[digest]:
            del self.uses[digest]
            self.revision.adapters.forget(digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all Models of a daemon have in common."""

    devices: devices.Devices  # where workers' lanes come from
    router: router.Router  # where names are published
    metrics: metrics.Metrics
    blob: Callable[[str], Path]  # where the stored file of a digest lies
    spawn: revision.Spawn = worker.Worker.spawn
    folded: Path | None = None  # directory for folded adapters, found again after a restart
    choices: Path | None = None  # directory for precisions that were measured and chosen


class LiveModel:
    """Executes operations for one Model; only its own reconcile task calls it.

    It is also what the router asks for this Model's names: what a reconcile changes is true for the
    next call.

    Args:
        name: the Model's name.
        shared: what it runs with.
        on_state: called when a worker comes or goes, or lost a file.
        on_loaded: called when all adapters that have room are in memory.
        look: looks for an adapter that nobody has seen yet; True if it is there now.

    `names` are the adapters that are declared: those that do not serve yet are on their way, unless
    `failures` says why not ("" is the Model itself). Once `generation` is set, others are unknown.
    """

    def __init__(
        self,
        name: str,
        shared: Shared,
        *,
        on_state: Callable[[], None],
        on_loaded: Callable[[], None],
        look: Look,
    ) -> None:
        self.name = name
        self.serving: Running | None = None
        self.generation = 0  # of the declaration that was made true last
        self.failures: dict[str, errors.Error] = {}
        self.names: set[str] = set()
        self._shared = shared
        self._on_state = on_state
        self._on_loaded = on_loaded
        self._look = look
        self._revisions: dict[str, Running] = {}
        self._mended: set[str] = set()  # digests whose stored file was made anew once
        self._broken: dict[str, errors.Error] = {}  # digests that failed after that, too
        shared.router.publish(name, self)

    @property
    def is_up(self) -> bool:
        """Whether calls of whatever is declared are answered right now."""
        return self.serving is not None and self.serving.revision.serving and bool(self.generation)

    def is_replacing(self, revision: str) -> bool:
        """Whether another revision serves while this one is being filled."""
        return self.serving is not None and self.serving is not self._revisions.get(revision)

    def observed(self, only: Collection[str] | None = None) -> list[state.ObservedModel]:
        """What exists, for the plan; of adapters, only these."""
        return [
            state.ObservedModel(
                name=self.name,
                revision=name,
                reload_key=running.key,
                limits=running.limits,
                serving=running is self.serving,
                adapters={
                    adapter: running.adapters[adapter].held
                    for adapter in (running.adapters if only is None else only)
                    if adapter in running.adapters
                },
                reload_inputs=running.inputs,
            )
            for name, running in self._revisions.items()
        ]

    def blobs(self) -> set[str]:
        """Digests of every stored file that a revision of this Model may still open."""
        running = self._revisions.values()
        adapters = {digest for each in running for digest in each.revision.adapters.held}
        return adapters | {digest for each in running for digest in each.base.blobs.values()}

    def folded_keys(self) -> set[str]:
        """The caches of folded adapters that a revision of this Model uses."""
        return {str(r.revision.facts.get("foldedKey", "")) for r in self._revisions.values()}

    def details(self) -> dict[str, object]:
        """Facts about what serves, for people and scripts; JSON values."""
        running = self.serving
        if running is None:
            return {}
        return {
            **running.revision.facts,
            "lanes": running.revision.lanes,
            "workerPid": running.revision.worker_pid,
            "adapters": len(running.adapters),
            "adaptersInMemory": running.revision.adapters.resident,
            "maxLength": running.tokenizer.max_length,
        }

    def measured(self) -> dict[str, object]:
        """Facts that change with every batch, as they are now; JSON values."""
        share = self.serving.revision.efficiency if self.serving else 0.0
        return {"efficiency": round(share, EFFICIENCY_DIGITS)} if share else {}

    # Names, as the router asks for them.

    def route(self, adapter: str) -> router.Route | None:
        """Who answers for an adapter ("": the base), if anybody does."""
        running = self.serving
        if running is None:
            return None
        found = running.adapters.get(adapter)
        if found is None and adapter:
            return None
        route = running.routes.get(adapter)
        if route is None:
            route = running.routes[adapter] = self._route(running, adapter, found)
        return route

    def refusal(self, adapter: str) -> errors.Error | None:
        """Why nobody answers for a name; of names not declared that is known once others serve."""
        if adapter and adapter not in self.names:
            return None if self.serving and self.generation else self.refusal("")
        what = f"adapter {self.name}/{adapter}" if adapter else f"model {self.name}"
        if error := self.failures.get(adapter):
            return _for_callers(what, error)
        return errors.NotReady(f"{what} is loading", retry_after_s=LOADING_RETRY_S)

    def known(self) -> set[str]:
        """Every name that is declared."""
        return self.names

    async def look(self, adapter: str) -> bool:
        """Looks whether an adapter has appeared; True if it is worth asking again."""
        return await self._look(adapter)

    # Operations.

    async def execute(self, operation: plan.Operation, desired: desire.Desired) -> None:
        """Does one operation.

        Raises:
            BadArtifact, Temporary: it could not be done; what served before still serves.
        """
        match operation:
            case plan.StartRevision():
                await self._start(operation, desired)
            case plan.SwitchRevision():
                await self._switch(operation.revision)
            case plan.RetireRevision():
                await self._retire(operation.revision)
            case plan.LoadAdapter() | plan.ReplaceAdapter():
                self._load(operation, desired)
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
        self._shared.router.remove(self.name)
        self.serving = None
        for name in list(self._revisions):
            await self._retire(name)
        self._shared.metrics.forget_model(self.name)

    def drop_lost(self) -> set[str]:
        """Forgets adapters that could not be loaded, so that a plan declares them again.

        Returns the digests of stored files to be made anew: a second failure is final.
        """
        mend: set[str] = set()
        for running in self._revisions.values():
            lost = dict(running.revision.adapters.lost)
            if not lost:
                continue
            for adapter in [n for n, c in running.contents.items() if c.digest in lost]:
                running.drop(adapter)
            running.revision.adapters.lost.clear()
            self._broken |= {digest: lost[digest] for digest in lost if digest in self._mended}
            mend |= lost.keys() - self._mended
            self._mended |= lost.keys()
        return mend

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
            base=described,
            allows_inline=running.limits.allow_inline_adapters,
            target=target,
            lease=target.base,
            content=running.contents[adapter] if found else None,
            flow=feeder.Flow(adapter, found.held.output.weight if found else 1.0),
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
                    device=spec.offload.device,
                    folded=self._shared.folded,
                    choices=self._shared.choices,
                ),
                _limits(limits),
                devices=self._shared.devices,
                metrics=self._shared.metrics,
                on_state=self._on_state,
                on_loaded=self._on_loaded,
                spawn=self._shared.spawn,
            ),
            base=base,
            key=state.reload_key(picture),
            inputs=state.reload_inputs(spec, picture.base),
            limits=limits,
            tokenizer=await _tokenizer(base, limits),
        )
        running.revision.set_limits(_limits(limits), _adapter_bytes(limits))
        await running.revision.start()
        self._mended.clear()
        self._broken.clear()
        self._revisions[operation.revision] = running

    async def _switch(self, name: str) -> None:
        """Routes to a revision; one that replaces another first gets its adapters into memory."""
        running = self._revisions[name]
        if self.is_replacing(name):
            await running.revision.adapters.fill()
        if not running.revision.serving:
            raise errors.Temporary("its worker is being replaced", reason="WorkerRestarting")
        self.serving = running
        facts = running.revision.facts
        if facts.get("kernels") == EAGER:
            reason = facts.get("kernelsReason")
            log.warning("no native kernels: torch computes", model=self.name, reason=reason)
        self._shared.metrics.revision(
            model=self.name,
            revision=name,
            precision=str(facts.get("precision", "")),
            kernels=str(facts.get("kernels", "")),
            digest=running.base.description.digest,
        )

    async def _retire(self, name: str) -> None:
        running = self._revisions[name]
        running.routes.clear()  # a revision closes when nobody holds a route to it any more
        await running.revision.close()
        del self._revisions[name]

    def _load(
        self, operation: plan.LoadAdapter | plan.ReplaceAdapter, desired: desire.Desired
    ) -> None:
        found = desired.adapters.get(operation.adapter)
        if not isinstance(found, desire.Found):
            found = self._held(operation, found)
        if error := self._broken.get(operation.digest):
            raise error
        running = self._revisions[operation.revision]
        running.hold(operation.adapter, found, self._shared.blob(found.file.digest))

    def _held(
        self, operation: plan.LoadAdapter | plan.ReplaceAdapter, error: errors.Error | None
    ) -> desire.Found:
        """What serves now under this name and digest: its source may be gone, its blob is not."""
        held = self.serving.adapters.get(operation.adapter) if self.serving else None
        if held is None or held.file.digest != operation.digest:
            raise error or errors.Bug(f"nothing is known of adapter '{operation.adapter}'")
        return held

    def _unload(self, operation: plan.UnloadAdapter) -> None:
        self._revisions[operation.revision].drop(operation.adapter)
        self._shared.metrics.forget_adapter(self.name, operation.adapter)

    def _update_output(self, operation: plan.UpdateOutput, desired: desire.Desired) -> None:
        found = desired.adapters[operation.adapter]
        if isinstance(found, errors.Error):
            raise found
        running = self._revisions[operation.revision]
        running.hold(operation.adapter, found, self._shared.blob(found.file.digest))

    async def _update_limits(self, operation: plan.UpdateLimits) -> None:
        running = self._revisions[operation.revision]
        running.tokenizer = await _tokenizer(running.base, operation.limits)
        running.limits = operation.limits
        running.revision.set_limits(_limits(operation.limits), _adapter_bytes(operation.limits))
        running.routes.clear()


def _adapter_bytes(limits: state.Limits) -> int:
    return limits.adapter_memory_bytes or memory.default_adapter_bytes()


def _limits(limits: state.Limits) -> gate.Limits:
    return gate.Limits(
        batch=policy.Limits(
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
