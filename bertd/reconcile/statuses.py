"""What operators are shown: the status of every object, kept in memory and observed anew.

Thousands of adapters have one record each, of references to what they share with others; what is
shown is made of it when somebody asks.
"""

import asyncio
import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bertd import errors
from bertd.manifest import views
from bertd.reconcile import desire, live, resolving, status, watching
from bertd.store import history, objects

BETWEEN_TURNS = 256  # adapters: thousands of them must not keep callers waiting
NOT_YET = views.StatusView(observed_generation=0, conditions=())
SERVED = status.ready("served")
NOT_SERVED = status.failed(
    status.READY, errors.Temporary("its model does not serve it yet", reason="ModelNotReady")
)
PENDING = status.pending("Reconciling", "the daemon is making this generation true")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a Model was resolved to, and further facts."""

    digest: str
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was last observed of one object, and how it is shown since then.

    `facts` are what was found of it, None while nothing was. `source` is known of what a Model
    declares inside itself.
    """

    observations: status.Observations
    conditions: tuple[views.Condition, ...]
    generation: int
    revision: str = ""
    facts: ModelFacts | desire.Found | None = None
    source: str = ""

    @property
    def view(self) -> views.StatusView:
        """As it is shown."""
        digest, details = _facts(self.facts)
        return views.StatusView(
            observed_generation=self.generation,
            conditions=self.conditions,
            revision=self.revision,
            digest=digest,
            details=details,
        )


@dataclass(slots=True)
class Adapters:
    """The adapters of one Model: objects of their own, and those that it declares inside itself."""

    own: dict[str, Record] = field(default_factory=dict)
    inline: dict[str, Record] = field(default_factory=dict)
    names: list[str] | None = None
    """Of `inline`, sorted; None: they changed since somebody asked."""

    def after(self, name: str) -> Iterator[str]:
        """The names inside the Model that follow this one, in order."""
        names = self.names = sorted(self.inline) if self.names is None else self.names
        return (names[at] for at in range(bisect.bisect_right(names, name), len(names)))

    def __len__(self) -> int:
        return len(self.own) + len(self.inline)


class Statuses:
    """The latest status per object; only the controller writes here.

    `watchers` hear of every change.

    Args:
        history: where it is remembered which file an adapter serves since when; None: nowhere.
    """

    def __init__(self, history: history.History | None = None) -> None:
        self.watchers = watching.Watchers()
        self._history = history
        self._models: dict[str, Record] = {}
        self._adapters: dict[str, Adapters] = {}  # by Model

    # What is shown.

    def view(self, stored: objects.Stored) -> views.ObjectView:
        """A stored object with its status."""
        if stored.kind == "Model":
            record = self._models.get(stored.name)
        else:
            record = self._of(str(stored.spec["model"])).own.get(stored.name)
        return views.ObjectView(
            kind=stored.kind,
            name=stored.name,
            labels=stored.labels,
            generation=stored.generation,
            spec=stored.spec,
            status=record.view if record else NOT_YET,
        )

    def inline(self, name: str) -> views.ObjectView | None:
        """An adapter that a Model declares inside itself, by its name MODEL/ADAPTER."""
        model, _, adapter = name.partition("/")
        record = self._of(model).inline.get(adapter)
        if record is None:
            return None
        return views.ObjectView(
            kind="Adapter",
            name=name,
            labels={},
            generation=record.generation,
            spec={"model": model, "source": record.source},
            status=record.view,
        )

    def inline_after(self, name: str, model: str = "") -> Iterator[str]:
        """The names MODEL/ADAPTER that follow `name`, in order; of one Model, or of all.

        Changes made while this is read may or may not show.
        """
        models = [model] if model else self._adapters
        for prefix in sorted(f"{each}/" for each in models):
            if name < prefix or name.startswith(prefix):
                last = name.removeprefix(prefix) if name.startswith(prefix) else ""
                yield from (f"{prefix}{each}" for each in self._of(prefix[:-1]).after(last))

    def versions(self, model: str, adapter: str) -> tuple[views.Version, ...]:
        """What an adapter served, newest first."""
        found = self._history.of(model, adapter) if self._history else ()
        return tuple(
            views.Version(digest=f"sha256:{each.digest}", since=each.since) for each in found
        )

    # What is observed.

    def begin(self, declared: desire.Declared, now: str) -> None:
        """Shows every condition as soon as an object appears or changes."""
        if declared.name not in self._models:
            self._models[declared.name] = _news(None, now, observations=PENDING, generation=0)
            self.watchers.tell("Model", declared.name)
        own = self._adapters.setdefault(declared.name, Adapters()).own
        for name in declared.adapters.keys() - own.keys():
            own[name] = _news(None, now, observations=PENDING, generation=0)
            self.watchers.tell("Adapter", name)

    async def settle(self, desired: desire.Desired, model: live.LiveModel, now: str) -> None:
        """Writes what one reconcile led to, except for objects that were deleted meanwhile.

        With `desired.only`, nothing is said of other adapters. The Model comes last: once it is
        Ready, so are its adapters, or they say why not.
        """
        declared = desired.declared
        adapters = self._adapters.setdefault(declared.name, Adapters())
        revision = model.serving.revision.build.name if model.serving else ""
        served: list[history.Served] = []
        for number, (name, found) in enumerate(desired.adapters.items()):
            if number % BETWEEN_TURNS == BETWEEN_TURNS - 1:
                await asyncio.sleep(0)
            is_own = name in declared.adapters
            before = (adapters.own if is_own else adapters.inline).get(name)
            record = _news(
                before,
                now,
                observations=_of_adapter(name, found, model),
                generation=declared.generations[name] if is_own else declared.generation,
                revision=revision,
                facts=found if isinstance(found, desire.Found) else None,
                source="" if is_own else desired.sources[name],
            )
            if record is before or (is_own and before is None):
                continue
            self._keep(adapters, declared.name, name, record, is_own=is_own)
            digest = _digest_served(record)
            if digest and digest != _digest_served(before):
                served.append(
                    history.Served(model=declared.name, adapter=name, digest=digest, since=now)
                )
        self._drop(desired)
        if declared.name in self._models:
            self._settle_model(desired, model, revision, now)
        if served and self._history:
            await asyncio.to_thread(self._history.record, served)

    def remove(self, model: str, orphans: Iterable[objects.Stored], now: str) -> None:
        """A Model is gone; Adapter objects that name it wait for it."""
        self._models.pop(model, None)
        before = self._adapters.pop(model, Adapters())
        for name in before.inline:
            self.watchers.tell("Adapter", f"{model}/{name}")
        error = errors.BadArtifact(
            f"there is no model '{model}'",
            reason="ModelNotFound",
            hint=f"apply a Model named '{model}', or change `spec.model`",
        )
        observations = status.failed(status.RESOLVED, error)
        after = Adapters()
        for each in orphans:
            old = before.own.get(each.name)
            after.own[each.name] = _news(
                old, now, observations=observations, generation=each.generation
            )
            if after.own[each.name] is not old:
                self.watchers.tell("Adapter", each.name)
        if after.own:
            self._adapters[model] = after

    def forget(self, kind: str, name: str) -> None:
        """An object was deleted."""
        if kind == "Model":
            self._models.pop(name, None)
        else:
            for adapters in self._adapters.values():
                adapters.own.pop(name, None)
        self.watchers.tell(kind, name)

    def _of(self, model: str) -> Adapters:
        found = self._adapters.get(model)
        return Adapters() if found is None else found

    def _keep(
        self, adapters: Adapters, model: str, name: str, record: Record, *, is_own: bool
    ) -> None:
        if is_own:
            adapters.own[name] = record
            self.watchers.tell("Adapter", name)
            return
        existed = name in adapters.inline
        adapters.inline[name] = record
        if not existed:
            adapters.names = None
        self.watchers.tell("Adapter", f"{model}/{name}", existed=existed)

    def _drop(self, desired: desire.Desired) -> None:
        """Forgets adapters that the Model no longer has, of those that were looked at."""
        declared = desired.declared
        adapters = self._adapters[declared.name]
        inline = desired.adapters.keys() - declared.adapters.keys()
        only = desired.only
        for name in (adapters.inline.keys() if only is None else only) - inline:
            if adapters.inline.pop(name, None):
                adapters.names = None
                self.watchers.tell("Adapter", f"{declared.name}/{name}")
        for name in (adapters.own.keys() if only is None else only) - declared.adapters.keys():
            adapters.own.pop(name, None)  # it names another Model by now, which tells of it

    def _settle_model(
        self, desired: desire.Desired, model: live.LiveModel, revision: str, now: str
    ) -> None:
        name = desired.declared.name
        before = self._models[name]
        record = _news(
            before,
            now,
            observations=_of_model(desired, model, len(self._adapters[name])),
            generation=desired.declared.generation,
            revision=revision,
            facts=ModelFacts(digest=_base_digest(desired.base), details=model.details()),
        )
        if record is not before:
            self._models[name] = record
            self.watchers.tell("Model", name)


def _news(before: Record | None, now: str, **observed: Any) -> Record:
    """The record of what was observed now: `before` itself where that is nothing new."""
    if before is not None and all(getattr(before, key) == observed[key] for key in observed):
        return before
    conditions = status.observe(
        before.conditions if before else (),
        observed["observations"],
        generation=observed["generation"],
        time=now,
    )
    return Record(conditions=conditions, **observed)


def _digest_served(record: Record | None) -> str:
    if record is None or record.observations is not SERVED:
        return ""
    return record.facts.file.digest if isinstance(record.facts, desire.Found) else ""


def _of_model(desired: desire.Desired, model: live.LiveModel, adapters: int) -> status.Observations:
    if isinstance(desired.base, errors.Error):
        return status.failed(status.RESOLVED, desired.base)
    if "" in model.failures:
        return status.failed(status.LOADED, model.failures[""])
    if not model.is_up:
        error = errors.Temporary("its worker is being replaced", reason="WorkerRestarting")
        return status.failed(status.READY, error)
    served = len(model.serving.adapters) if model.serving else 0
    return status.ready(f"serves, with {served} of {adapters} adapters")


def _of_adapter(
    name: str, found: desire.Found | errors.Error, model: live.LiveModel
) -> status.Observations:
    if isinstance(found, errors.Error):
        return status.failed(status.RESOLVED, found)
    if name in model.failures:
        return status.failed(status.LOADED, model.failures[name])
    held = model.serving.adapters.get(name) if model.serving else None
    is_current = held is found or (held is not None and held.held == found.held)
    return SERVED if model.is_up and is_current else NOT_SERVED


def _base_digest(base: resolving.Base | errors.Error) -> str:
    return f"sha256:{base.description.digest}" if isinstance(base, resolving.Base) else ""


def _facts(facts: ModelFacts | desire.Found | None) -> tuple[str, Mapping[str, object]]:
    """Digest and details, as they are shown."""
    if facts is None:
        return "", {}
    if isinstance(facts, ModelFacts):
        return facts.digest, facts.details
    details: dict[str, object] = {
        "labelNames": list(facts.output.label_names),
        "problem": facts.output.problem,
        "fileBytes": facts.file.file_bytes,
    }
    return f"sha256:{facts.file.digest}", details
