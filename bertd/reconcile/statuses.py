"""What operators are shown: the status of every object, kept in memory and observed anew."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bertd import errors
from bertd.manifest import views
from bertd.reconcile import desire, live, resolving, status
from bertd.store import objects

Key = tuple[str, str]  # kind, name; inline adapters are named MODEL/ADAPTER
BETWEEN_TURNS = 256  # adapters: thousands of them must not keep callers waiting
NOT_YET = views.StatusView(observed_generation=0, conditions=())


class Statuses:
    """The latest status per object; only the controller writes here."""

    def __init__(self) -> None:
        self._statuses: dict[Key, views.StatusView] = {}
        self._inline: dict[str, dict[str, views.ObjectView]] = {}

    def view(self, stored: objects.Stored) -> views.ObjectView:
        """A stored object with its status."""
        return views.ObjectView(
            kind=stored.kind,
            name=stored.name,
            labels=stored.labels,
            generation=stored.generation,
            spec=stored.spec,
            status=self._statuses.get((stored.kind, stored.name), NOT_YET),
        )

    def inline(self) -> list[views.ObjectView]:
        """Every adapter that a Model declares inside itself."""
        return [view for adapters in self._inline.values() for view in adapters.values()]

    def begin(self, declared: desire.Declared, now: str) -> None:
        """Shows every condition as soon as an object appears or changes."""
        message = "the daemon is making this generation true"
        observations = status.pending("Reconciling", message)
        known = self._statuses.get(("Model", declared.name))
        if known is None:
            self._set("Model", declared.name, 0, observations, now)
        for name in declared.adapters:
            if ("Adapter", name) not in self._statuses:
                self._set("Adapter", name, 0, observations, now)

    async def settle(self, desired: desire.Desired, model: live.LiveModel, now: str) -> None:
        """Writes what one reconcile led to, except for objects that were deleted meanwhile."""
        declared = desired.declared
        revision = model.serving.revision.build.name if model.serving else ""
        self._update(
            "Model",
            declared.name,
            declared.generation,
            _of_model(desired, model),
            now,
            digest=_digest(desired.base),
            revision=revision,
            details=model.details(),
        )
        before = self._inline.get(declared.name, {})
        inline: dict[str, views.ObjectView] = {}
        for number, (name, found) in enumerate(desired.adapters.items()):
            if number % BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
            observations, facts = _of_adapter(name, found, model), _adapter_facts(found)
            if name in declared.adapters:
                generation = declared.generations[name]
                self._update("Adapter", name, generation, observations, now, revision, **facts)
            else:
                full = f"{declared.name}/{name}"
                old = before[full].status.conditions if full in before else ()
                generation = declared.generation
                inline[full] = views.ObjectView(
                    kind="Adapter",
                    name=full,
                    labels={},
                    generation=generation,
                    spec={"model": declared.name, "source": desired.sources[name]},
                    status=_status(old, generation, observations, now, revision, **facts),
                )
        self._inline[declared.name] = inline

    def remove(self, model: str, orphans: Iterable[objects.Stored], now: str) -> None:
        """A Model is gone; Adapter objects that name it wait for it."""
        self._statuses.pop(("Model", model), None)
        self._inline.pop(model, None)
        error = errors.BadArtifact(
            f"there is no model '{model}'",
            reason="ModelNotFound",
            hint=f"apply a Model named '{model}', or change `spec.model`",
        )
        for each in orphans:
            observations = status.failed(status.RESOLVED, error)
            self._set("Adapter", each.name, each.generation, observations, now)

    def forget(self, kind: str, name: str) -> None:
        """An object was deleted."""
        self._statuses.pop((kind, name), None)

    def _update(self, kind: str, name: str, *rest: Any, **facts: Any) -> None:
        if (kind, name) in self._statuses:
            self._set(kind, name, *rest, **facts)

    def _set(self, kind: str, name: str, *rest: Any, **facts: Any) -> None:
        old = self._statuses.get((kind, name), NOT_YET).conditions
        self._statuses[kind, name] = _status(old, *rest, **facts)


def _status(
    old: Iterable[views.Condition],
    generation: int,
    observations: Sequence[status.Observation],
    now: str,
    revision: str = "",
    digest: str = "",
    details: Mapping[str, object] | None = None,
) -> views.StatusView:
    return views.StatusView(
        observed_generation=generation,
        conditions=status.observe(old, observations, generation=generation, time=now),
        revision=revision,
        digest=digest,
        details=details or {},
    )


def _of_model(desired: desire.Desired, model: live.LiveModel) -> tuple[status.Observation, ...]:
    if isinstance(desired.base, errors.Error):
        return status.failed(status.RESOLVED, desired.base)
    if "" in model.failures:
        return status.failed(status.LOADED, model.failures[""])
    if not model.is_up:
        error = errors.Temporary("its worker is being replaced", reason="WorkerRestarting")
        return status.failed(status.READY, error)
    served = len(model.serving.adapters) if model.serving else 0
    return status.ready(f"serves, with {served} of {len(desired.adapters)} adapters")


def _of_adapter(
    name: str, found: desire.Found | errors.Error, model: live.LiveModel
) -> tuple[status.Observation, ...]:
    if isinstance(found, errors.Error):
        return status.failed(status.RESOLVED, found)
    if name in model.failures:
        return status.failed(status.LOADED, model.failures[name])
    held = model.serving.adapters.get(name) if model.serving else None
    is_current = held is not None and (
        (held.file.digest, held.settings) == (found.file.digest, found.settings)
    )
    if not model.is_up or not is_current:
        error = errors.Temporary("its model does not serve it yet", reason="ModelNotReady")
        return status.failed(status.READY, error)
    return status.ready("served")


def _digest(base: resolving.Base | errors.Error) -> str:
    return f"sha256:{base.description.digest}" if isinstance(base, resolving.Base) else ""


def _adapter_facts(found: desire.Found | errors.Error) -> dict[str, Any]:
    if isinstance(found, errors.Error):
        return {}
    info = found.file.info
    facts: dict[str, object] = {
        "labelNames": list(found.output.label_names),
        "problem": found.output.problem,
        "fileBytes": info.file_bytes,
    }
    return {"digest": f"sha256:{found.file.digest}", "details": facts}
