"""Outcomes of reconciles, made up: what `Statuses` is told."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from bertd import errors
from bertd.manifest import spec, writing
from bertd.reconcile import desire, resolving, state, statuses
from bertd.runtime import router

MODEL_SPEC = writing.spec_from_dict("Model", {"base": {"source": "/base"}})
OUTPUT = router.Output(label_names=("no", "yes"), problem="single_label")


@dataclasses.dataclass(kw_only=True)
class Live:
    """What `Statuses` looks at of a `live.LiveModel`."""

    serving: SimpleNamespace | None = None
    failures: dict[str, errors.Error] = dataclasses.field(default_factory=dict)
    is_up: bool = True

    def details(self) -> dict[str, object]:
        return {"adapters": len(self.serving.adapters) if self.serving else 0}


def found(name: str, digest: str) -> desire.Found:
    """An adapter that could be resolved."""
    settings = state.OutputSettings()
    return desire.Found(
        file=resolving.Adapter(digest=digest, output=OUTPUT, file_bytes=7),
        output=OUTPUT,
        declaration=spec.InlineAdapter(source=f"/{name}"),
        wanted=state.DesiredAdapter(name=name, digest=digest, output=settings),
        held=state.ObservedAdapter(digest=digest, output=settings),
    )


def desired(
    adapters: Mapping[str, desire.Found | errors.Error],
    *,
    own: Iterable[str] = (),
    only: Iterable[str] | None = None,
    model: str = "m",
    generation: int = 1,
    base: errors.Error | None = None,
) -> desire.Desired:
    """A Model with these adapters, of which `own` are objects of their own."""
    names = frozenset(only) if only is not None else None
    declared = desire.Declared(
        name=model,
        generation=generation,
        spec=MODEL_SPEC,
        adapters={each: spec.AdapterSpec(model=model, source=f"/{each}") for each in own},
        generations=dict.fromkeys(own, 5),
        only=names,
    )
    return desire.Desired(
        declared=declared,
        base=base or errors.Temporary("not looked at"),
        adapters=adapters,
        sources={name: f"/{name}" for name in adapters},
        only=names,
    )


def serving(adapters: Mapping[str, desire.Found], revision: str = "m-1") -> Live:
    """A Model that serves these adapters."""
    build = SimpleNamespace(name=revision)
    running = SimpleNamespace(revision=SimpleNamespace(build=build), adapters=adapters)
    return Live(serving=running)


async def settle(
    shown: statuses.Statuses,
    adapters: Mapping[str, desire.Found | errors.Error],
    now: str = "t1",
    *,
    live: Live | None = None,
    **declared: Any,
) -> None:
    """A Model with these adapters, all of which serve unless `live` says otherwise."""
    served = {name: each for name, each in adapters.items() if isinstance(each, desire.Found)}
    outcome = desired(adapters, **declared)
    shown.begin(outcome.declared, now)
    await shown.settle(outcome, live or serving(served), now)
