"""The controller: keeps what runs equal to what the store declares, and answers operators.

Level-based: a reconcile carries only a Model's name and reads everything else anew. One task per
Model at most; changes that arrive meanwhile make it run once more. Failures that may heal are
retried with backoff, others wait for a change, which every resync would notice.
"""

import asyncio
import contextlib
import datetime
import random
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from bertd import errors, metrics
from bertd.manifest import parsing, spec, views, writing
from bertd.reconcile import desire, diff, live, plan, resolving, statuses
from bertd.runtime import dispatcher, router
from bertd.store import objects

log = structlog.get_logger()

RESYNC_S = 60.0
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 300.0
RETRY_JITTER = 0.2

OnHealth = Callable[[str, bool | None], None]


def retry_delay_s(failures: int, jitter: float) -> float:
    """Backoff after the `failures`-th failure in a row; `jitter` in [-1, 1] spreads it by 20 %."""
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** (failures - 1)) * (1 + RETRY_JITTER * jitter)


class Controller:
    """Owns every `LiveModel`, and implements what the Admin service asks for.

    Args:
        objects: the truth about what is declared.
        resolver: declared sources to content.
        device: whose lanes the workers use.
        router: where routes are published.
        metrics: where revisions are recorded.
        on_health: told of health names (`model/NAME`, `ready`, `startup`) and whether they serve;
            None when a Model is gone.
        jitter: uniform in [-1, 1].
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
    ) -> None:
        self._objects = objects
        self._resolver = resolver
        self._device = device
        self._router = router
        self._metrics = metrics
        self._on_health = on_health
        self._jitter = jitter
        self._live: dict[str, live.LiveModel] = {}
        self._statuses = statuses.Statuses()
        self._dirty: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._settled: set[str] = set()  # Models that were reconciled at least once
        self._comparing = 0
        self._sweep_wanted = False

    # Life.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reconciles everything that is stored, and whatever changes, until the block ends."""
        resync = asyncio.create_task(self._resync())
        try:
            yield
        finally:
            tasks = [resync, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(model.remove() for model in self._live.values()))

    async def _resync(self) -> None:
        while True:
            self._poke(*self._declared_models(), *self._live)
            self._tell_readiness()
            await asyncio.sleep(RESYNC_S)

    def _declared_models(self) -> set[str]:
        models = {stored.name for stored in self._objects.every("Model")}
        return models | {str(stored.spec["model"]) for stored in self._objects.every("Adapter")}

    def _poke(self, *models: str) -> None:
        for model in set(models):
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
        if self._sweep_wanted and not self._tasks and not self._comparing:
            self._sweep_wanted = False
            in_use = {digest for model in self._live.values() for digest in model.blobs()}
            log.info("swept", blobs=self._resolver.sweep(in_use))

    async def _step(self, model: str) -> None:
        """One reconcile of one Model; whatever goes wrong stays its own."""
        try:
            heals = await self._reconcile(model)
        except Exception:
            log.exception("reconcile failed", model=model)
            heals = True
        self._settled.add(model)
        self._tell_health(model)
        if not heals:
            self._failures.pop(model, None)
            return
        self._failures[model] = self._failures.get(model, 0) + 1
        delay_s = retry_delay_s(self._failures[model], self._jitter())
        asyncio.get_running_loop().call_later(delay_s, self._poke, model)

    # One Model.

    async def _reconcile(self, name: str) -> bool:
        """Makes one Model as declared; True if another try may do better."""
        declared = self._read(name)
        if declared is None:
            await self._remove(name)
            return False
        model = self._live.get(name)
        if model is None:
            model = self._live[name] = live.LiveModel(
                name,
                device=self._device,
                router=self._router,
                metrics=self._metrics,
                on_state=lambda: self._poke(name),
            )
        self._statuses.begin(declared, _now())
        serving = model.serving.base if model.serving else None
        desired = await asyncio.to_thread(desire.resolve, declared, self._resolver, serving)
        failures = await self._execute(model, desired)
        model.publish(failures)
        self._statuses.settle(desired, model, failures, _now())
        return any(isinstance(error, errors.Temporary) for error in failures.values())

    async def _execute(
        self, model: live.LiveModel, desired: desire.Desired
    ) -> dict[str, errors.Error]:
        """Runs the plan; returns why names do not serve ("" is the Model itself)."""
        failures = {
            name: found
            for name, found in desired.adapters.items()
            if isinstance(found, errors.Error)
        }
        if isinstance(desired.base, errors.Error):
            failures[""] = desired.base
        for operation in plan.plan_model(desired.picture(), model.observed()):
            try:
                await model.execute(operation, desired)
            except errors.Error as error:
                log.warning("operation failed", operation=str(operation), error=str(error))
                failures[getattr(operation, "adapter", "")] = error
                if "" in failures:
                    break
        return failures

    async def _remove(self, name: str) -> None:
        """Drains and forgets a Model that is no longer declared; its Adapter objects stay."""
        model = self._live.pop(name, None)
        if model is not None:
            await model.remove()
        orphans = [a for a in self._objects.every("Adapter") if a.spec["model"] == name]
        self._statuses.remove(name, orphans, _now())
        self._sweep_wanted = True

    def _read(self, name: str) -> desire.Declared | None:
        try:
            stored = self._objects.get("Model", name)
        except errors.NotFound:
            return None
        adapters = {
            each.name: each for each in self._objects.every("Adapter") if each.spec["model"] == name
        }
        return desire.Declared(
            name=name,
            generation=stored.generation,
            spec=_model_spec(stored),
            adapters={each: _adapter_spec(adapter) for each, adapter in adapters.items()},
            generations={each: adapter.generation for each, adapter in adapters.items()},
        )

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

    # What operators ask (serving.admin.Control).

    async def apply(
        self, manifest: str, file_name: str, base_dir: str, dry_run: bool
    ) -> views.ApplyOutcome:
        """Stores every object of a manifest, or none, and starts to make them true.

        Raises:
            InvalidManifest: every error of every document.
        """
        parsed = self._parse(manifest, file_name, base_dir)
        wanted = [_wanted(declared) for declared in parsed.objects]
        applied = self._objects.apply_many(wanted, dry_run=dry_run)
        if not dry_run:
            self._metrics.manifest_load(success=True)
            self._poke(*(_model_of(declared) for declared in parsed.objects))
        return views.ApplyOutcome(objects=applied, warnings=parsed.warnings)

    async def diff(self, manifest: str, file_name: str, base_dir: str) -> views.DiffOutcome:
        """What `apply` would change, and the operations that would follow."""
        parsed = self._parse(manifest, file_name, base_dir)
        self._comparing += 1
        try:
            found = [await self._difference(each, parsed) for each in parsed.objects]
        finally:
            self._comparing -= 1
        return views.DiffOutcome(objects=tuple(found), warnings=parsed.warnings)

    def get(self, kind: views.Kind, name: str) -> views.ObjectView:
        """One object with its status.

        Raises:
            NotFound: nothing of that kind and name is declared.
        """
        inline = {view.name: view for view in self._statuses.inline()}
        if kind == "Adapter" and name in inline:
            return inline[name]
        return self._statuses.view(self._objects.get(kind, name))

    def list(self, kind: views.Kind, limit: int, after: str) -> views.Page:
        """At most `limit` objects whose names follow `after`, in order of names."""
        found = [view for view in self._views(kind) if view.name > after][: limit + 1]
        more = len(found) > limit
        return views.Page(
            objects=tuple(found[:limit]), next_after=found[limit - 1].name if more else ""
        )

    async def delete(self, kind: views.Kind, name: str) -> None:
        """Forgets an object; a Model is drained first.

        Raises:
            NotFound: nothing of that kind and name is declared.
            Conflict: an adapter that its Model declares inline.
        """
        if kind == "Adapter" and "/" in name:
            model = name.partition("/")[0]
            raise errors.Conflict(
                f"adapter '{name}' is declared inside model '{model}'",
                hint=f"remove it from `spec.adapters` of model '{model}' and apply that",
            )
        stored = self._objects.get(kind, name)
        self._objects.delete(kind, name)
        self._statuses.forget(kind, name)
        self._poke(name if kind == "Model" else str(stored.spec["model"]))

    def _parse(self, manifest: str, file_name: str, base_dir: str) -> parsing.Manifest:
        try:
            parsed = parsing.parse(manifest, file=file_name, base_dir=base_dir or None)
            self._check_unique(parsed)
        except errors.InvalidManifest:
            self._metrics.manifest_load(success=False)
            raise
        return parsed

    def _check_unique(self, parsed: parsing.Manifest) -> None:
        """(model, adapter) is unique across what is applied and what is stored already."""
        inline: dict[tuple[str, str], str] = {}
        separate: dict[tuple[str, str], str] = {}
        replaced = {(each.kind, each.name) for each in parsed.objects}
        kept = [
            parsing.Declared(
                kind=kind, name=s.name, labels={}, spec=writing.spec_from_dict(kind, s.spec)
            )
            for kind in ("Model", "Adapter")
            for s in self._objects.every(kind)
            if (kind, s.name) not in replaced
        ]
        for each in (*kept, *parsed.objects):
            if isinstance(each.spec, spec.ModelSpec):
                inline |= {(each.name, a.name): each.where for a in each.spec.adapters if a.name}
            else:
                separate[each.spec.model, each.name] = each.where
        for model, adapter in sorted(inline.keys() & separate.keys()):
            where = inline[model, adapter] or separate[model, adapter]
            raise errors.InvalidManifest(
                f"{where}: adapter '{adapter}' of model '{model}' must be declared once: either "
                "inside the Model or as an object of its own"
            )

    async def _difference(
        self, declared: parsing.Declared, parsed: parsing.Manifest
    ) -> views.ObjectDiff:
        (result,) = self._objects.apply_many([_wanted(declared)], dry_run=True)
        before, after = None, writing.spec_to_dict(declared.spec)
        with contextlib.suppress(errors.NotFound):
            before = self._objects.get(declared.kind, declared.name).spec
        return views.ObjectDiff(
            kind=declared.kind,
            name=declared.name,
            action=result.action,
            unified=diff.unified(before, after, declared.name),
            plan=await self._planned(declared, parsed)
            if declared.kind == "Model"
            else tuple(str(each) for each in diff.changes(before or {}, after)),
        )

    async def _planned(
        self, declared: parsing.Declared, parsed: parsing.Manifest
    ) -> tuple[str, ...]:
        """The operations that applying this Model, with the manifest's Adapters, would cause."""
        assert isinstance(declared.spec, spec.ModelSpec)  # by its kind
        stored = self._read(declared.name)
        adapters = dict(stored.adapters) if stored else {}
        adapters |= {
            each.name: each.spec
            for each in parsed.objects
            if isinstance(each.spec, spec.AdapterSpec) and each.spec.model == declared.name
        }
        wanted = desire.Declared(
            name=declared.name, generation=0, spec=declared.spec, adapters=adapters
        )
        model = self._live.get(declared.name)
        serving = model.serving.base if model and model.serving else None
        desired = await asyncio.to_thread(desire.resolve, wanted, self._resolver, serving)
        revisions = model.observed() if model else []
        return tuple(str(each) for each in plan.plan_model(desired.picture(), revisions))

    def _views(self, kind: views.Kind) -> Sequence[views.ObjectView]:
        stored = [self._statuses.view(each) for each in self._objects.every(kind)]
        inline = self._statuses.inline() if kind == "Adapter" else []
        return sorted((*stored, *inline), key=lambda view: view.name)


def _model_of(declared: parsing.Declared) -> str:
    return declared.spec.model if isinstance(declared.spec, spec.AdapterSpec) else declared.name


def _wanted(declared: parsing.Declared) -> objects.Wanted:
    return objects.Wanted(
        kind=declared.kind,
        name=declared.name,
        labels=declared.labels,
        spec=writing.spec_to_dict(declared.spec),
    )


def _model_spec(stored: objects.Stored) -> spec.ModelSpec:
    read = writing.spec_from_dict("Model", stored.spec)
    assert isinstance(read, spec.ModelSpec)  # by its kind
    return read


def _adapter_spec(stored: objects.Stored) -> spec.AdapterSpec:
    read = writing.spec_from_dict("Adapter", stored.spec)
    assert isinstance(read, spec.AdapterSpec)  # by its kind
    return read


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
