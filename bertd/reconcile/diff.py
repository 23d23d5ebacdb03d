"""What a change of a declaration means: the one list of what reloads, and printed differences.

`EFFECTS` names every field of the spec; a test keeps it complete. Everything else that must know
whether base weights are touched (plans, revision names, `bertd diff`) asks this module.
"""

import dataclasses
import difflib
import enum
import json
from collections.abc import Iterator, Mapping

from bertd import errors
from bertd.manifest import writing


class Effect(enum.Enum):
    """What it takes to make a changed field true."""

    IN_PLACE = "in-place"
    """The front applies it; nothing is loaded."""
    ADAPTER_ONLY = "adapter-only"
    """An adapter's offsets and head are loaded; the base stays where it is."""
    RELOAD = "reload"
    """A new revision is built beside the old one."""


# Every field of a Model's and an Adapter's spec, or a mapping that holds it. A base's source
# reloads only when it resolves to other bytes (see `state.reload_inputs`).
EFFECTS = {
    "base.source": Effect.RELOAD,
    "base.digest": Effect.RELOAD,
    "precision": Effect.RELOAD,
    "maxLength": Effect.IN_PLACE,
    "onTooLong": Effect.IN_PLACE,
    "pooling.mode": Effect.RELOAD,
    "pooling.normalize": Effect.IN_PLACE,
    "compression": Effect.RELOAD,
    "offload.device": Effect.RELOAD,
    "offload.budget": Effect.RELOAD,
    "offload.prefetch": Effect.RELOAD,
    "offload.idle": Effect.IN_PLACE,
    "batching": Effect.IN_PLACE,
    "update": Effect.IN_PLACE,
    "adapters": Effect.ADAPTER_ONLY,
    "adapters[].name": Effect.ADAPTER_ONLY,
    "adapters[].source": Effect.ADAPTER_ONLY,
    "adapters[].labelNames": Effect.IN_PLACE,
    "adapters[].temperature": Effect.IN_PLACE,
    "adapters[].thresholds": Effect.IN_PLACE,
    "adapters[].weight": Effect.IN_PLACE,
    "adapterMemory": Effect.IN_PLACE,
    "allowInlineAdapters": Effect.IN_PLACE,
    "model": Effect.ADAPTER_ONLY,
    "source": Effect.ADAPTER_ONLY,
    "labelNames": Effect.IN_PLACE,
    "temperature": Effect.IN_PLACE,
    "thresholds": Effect.IN_PLACE,
    "weight": Effect.IN_PLACE,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs between two specs."""

    path: str
    old: object
    new: object
    effect: Effect

    def __str__(self) -> str:
        return f"{self.effect.value}: {self.path} {shown(self.old)} -> {shown(self.new)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field as one object holds it."""

    kind: str
    """Its general path, as `EFFECTS` names it: `adapters[].temperature`."""
    value: object


def effect(field: str) -> Effect:
    """The effect of a field by its general path: its own, or that of the mapping around it."""
    around = field
    while around not in EFFECTS:
        around = around.rpartition(".")[0]
        if not around:
            raise errors.Bug(f"no effect is listed for the field '{field}'")
    return EFFECTS[around]


def flat(entries: Mapping[str, object]) -> dict[str, Field]:
    """Fields by their own path; adapters by name, globs by source: `adapters[cola].weight`."""
    return dict(_flat(entries, "", ""))


def changes(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[Change, ...]:
    """What differs between two specs as `writing.spec_to_dict` writes them, in path order."""
    before, after = flat(old), flat(new)
    return tuple(
        Change(
            path=path,
            old=before[path].value if path in before else None,
            new=after[path].value if path in after else None,
            effect=effect((after.get(path) or before[path]).kind),
        )
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    )


def unified(old: Mapping[str, object] | None, new: Mapping[str, object] | None, name: str) -> str:
    """Unified diff of two specs as YAML; None stands for an absent object, equal specs give ''."""
    before, after = (_lines(one) for one in (old, new))
    diff = difflib.unified_diff(before, after, f"stored {name}", f"declared {name}")
    return "".join(diff)


def shown(value: object) -> str:
    """A value in one line of a plan."""
    if value is None:
        return "(unset)"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(entries: Mapping[str, object], path: str, kind: str) -> Iterator[tuple[str, Field]]:
    for key, value in entries.items():
        if f"{kind}{key}" == "adapters" and isinstance(value, list):
            for adapter in value:
                name = adapter.get("name", adapter["source"])
                yield from _flat(adapter, f"adapters[{name}].", "adapters[].")
        elif isinstance(value, Mapping) and key != "thresholds":
            yield from _flat(value, f"{path}{key}.", f"{kind}{key}.")
        else:
            yield f"{path}{key}", Field(f"{kind}{key}", value)


def _lines(spec: Mapping[str, object] | None) -> list[str]:
    return [] if spec is None else writing.dump(spec).splitlines(keepends=True)
