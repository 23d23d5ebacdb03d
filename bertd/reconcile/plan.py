"""The decision: which operations make what runs equal to what is declared.

`plan` is a pure function from two pictures to an ordered tuple of operations. Each operation is one
thing that the executor does, names its cause, and prints as one line; the printed plan is the test
oracle, the output of `bertd diff` and the log. The plan for a state that is already right is empty.

The order keeps every Model available: a new revision gets its adapters before it is switched to,
and the old one is retired after that. Models that are no longer declared go first, because they
free memory.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set

from bertd.manifest import quantities
from bertd.manifest import spec as specs
from bertd.reconcile import diff, state

DIGEST_SHOWN_CHARACTERS = 12
# The fields of `state.Limits` and `state.OutputSettings` as manifests name them.
FIELD_NAMES = {
    "max_tokens": "batching.maxTokens",
    "max_rows": "batching.maxRows",
    "max_delay_s": "batching.maxDelay",
    "max_queue_delay_s": "batching.maxQueueDelay",
    "max_length": "maxLength",
    "on_too_long": "onTooLong",
    "normalize": "pooling.normalize",
    "adapter_memory_bytes": "adapterMemory",
    "allow_inline_adapters": "allowInlineAdapters",
    "label_names": "labelNames",
    "temperature": "temperature",
    "thresholds": "thresholds",
    "weight": "weight",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RemoveModel:
    """Stop routing to a Model, drain and retire all its revisions, forget it."""

    model: str
    cause: str

    def __str__(self) -> str:
        return f"remove model {self.model} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StartRevision:
    """Build and warm a revision beside what serves; it gets no requests yet."""

    model: str
    revision: str
    cause: str

    def __str__(self) -> str:
        return f"start revision {self.revision} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRevision:
    """Route a Model's requests to a revision, in one step."""

    model: str
    revision: str
    cause: str

    def __str__(self) -> str:
        return f"switch model {self.model} to {self.revision} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetireRevision:
    """Drain a revision that gets no new requests, then end its worker."""

    model: str
    revision: str
    cause: str

    def __str__(self) -> str:
        return f"retire revision {self.revision} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadAdapter:
    """Put an adapter into a revision's table."""

    model: str
    revision: str
    adapter: str
    digest: str
    cause: str

    def __str__(self) -> str:
        what = f"{self.model}/{self.adapter} {_short(self.digest)}"
        return f"load adapter {what} into {self.revision} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceAdapter:
    """Load an adapter's new content into a new slot, then route its name there."""

    model: str
    revision: str
    adapter: str
    digest: str
    cause: str

    def __str__(self) -> str:
        what = f"{self.model}/{self.adapter} by {_short(self.digest)}"
        return f"replace adapter {what} in {self.revision} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnloadAdapter:
    """Stop routing to an adapter and free its slot after its last reader."""

    model: str
    revision: str
    adapter: str
    cause: str

    def __str__(self) -> str:
        return f"unload adapter {self.model}/{self.adapter} from {self.revision} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOutput:
    """Answer with other labels, temperature or thresholds; nothing is loaded."""

    model: str
    revision: str
    adapter: str
    output: state.OutputSettings
    cause: str

    def __str__(self) -> str:
        return f"update output {self.model}/{self.adapter} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLimits:
    """Apply other limits to a Model's requests; nothing is loaded."""

    model: str
    revision: str
    limits: state.Limits
    cause: str

    def __str__(self) -> str:
        return f"update limits {self.model} ({self.cause})"


Operation = (
    RemoveModel
    | StartRevision
    | SwitchRevision
    | RetireRevision
    | LoadAdapter
    | ReplaceAdapter
    | UnloadAdapter
    | UpdateOutput
    | UpdateLimits
)


def plan(
    desired: Sequence[state.DesiredModel], observed: Sequence[state.ObservedModel]
) -> tuple[Operation, ...]:
    """The operations, in the order in which they run. Names in `desired` are unique."""
    wanted = {model.name for model in desired}
    gone = sorted({revision.name for revision in observed} - wanted)
    operations: list[Operation] = [
        RemoveModel(model=name, cause="no longer declared") for name in gone
    ]
    for model in sorted(desired, key=lambda model: model.name):
        revisions = [revision for revision in observed if revision.name == model.name]
        operations.extend(plan_model(model, revisions))
    return tuple(operations)


def plan_model(
    model: state.DesiredModel, revisions: Sequence[state.ObservedModel]
) -> Iterator[Operation]:
    """The operations for one Model, given all revisions of it that exist."""
    # A revision that serves comes first, so that it is preferred wherever several would do.
    revisions = sorted(revisions, key=lambda revision: (not revision.serving, revision.revision))
    serving = revisions[0] if revisions and revisions[0].serving else None
    if model.base is None:
        if serving is not None:
            yield from _settle(model, serving)
        return
    key = state.reload_key(model)
    target = next((revision for revision in revisions if revision.reload_key == key), None)
    cause = _reload_cause(model.spec, model.base, serving)
    if target is None:
        name = state.revision_name(model)
        yield StartRevision(model=model.name, revision=name, cause=cause)
        yield from _adapters(_keeping(model, model.base, serving), name, {})
    else:
        name = target.revision
        yield from _settle(model, target)
    if target is None or not target.serving:
        yield SwitchRevision(model=model.name, revision=name, cause=cause)
    for old in revisions:
        if old is not target:
            superseded = f"superseded by {name}"
            yield RetireRevision(model=model.name, revision=old.revision, cause=superseded)


def text(operations: Sequence[Operation]) -> str:
    """The plan as it is printed: one line per operation."""
    return "\n".join(str(operation) for operation in operations)


def _keeping(
    model: state.DesiredModel, base: state.ResolvedBase, serving: state.ObservedModel | None
) -> state.DesiredModel:
    """The Model with each unresolved adapter standing for what serves under its name now.

    So does each that serves while a glob that may name it cannot be read. Another base makes that
    content worthless, so that it is kept on the same base only.
    """
    if serving is None or serving.reload_inputs.get("base") != base.digest:
        return model
    wanted = {adapter.name: adapter for adapter in model.adapters}
    for name, held in serving.adapters.items():
        unknown = wanted[name].digest is None if name in wanted else not model.are_all_named
        if unknown:
            wanted[name] = state.DesiredAdapter(name=name, digest=held.digest, output=held.output)
    return dataclasses.replace(model, adapters=tuple(wanted.values()))


def _settle(model: state.DesiredModel, target: state.ObservedModel) -> Iterator[Operation]:
    """Everything that an existing revision needs, base weights untouched."""
    limits = state.limits(model.spec)
    if limits != target.limits:
        cause = _differences(target.limits, limits)
        yield UpdateLimits(model=model.name, revision=target.revision, limits=limits, cause=cause)
    yield from _adapters(model, target.revision, target.adapters)


def _adapters(
    model: state.DesiredModel, revision: str, held: Mapping[str, state.ObservedAdapter]
) -> Iterator[Operation]:
    """First what frees memory, then the rest by name."""
    wanted = {adapter.name: adapter for adapter in model.adapters}
    for name in sorted(_gone(model, wanted.keys(), held.keys())):
        cause = "no longer declared"
        yield UnloadAdapter(model=model.name, revision=revision, adapter=name, cause=cause)
    # Sorted at the end: among 100,000 adapters mostly none has changed.
    operations = (
        operation
        for name, adapter in wanted.items()
        if (operation := _adapter(model.name, revision, adapter, held.get(name))) is not None
    )
    yield from sorted(operations, key=lambda operation: operation.adapter)


def _gone(model: state.DesiredModel, wanted: Set[str], held: Set[str]) -> Set[str]:
    if not model.are_all_named:
        return frozenset()
    return (held if model.only is None else held & model.only) - wanted


def _adapter(
    model: str,
    revision: str,
    wanted: state.DesiredAdapter,
    held: state.ObservedAdapter | None,
) -> LoadAdapter | ReplaceAdapter | UpdateOutput | None:
    name, digest = wanted.name, wanted.digest
    if digest is None:
        return None
    if held is None:
        return LoadAdapter(
            model=model, revision=revision, adapter=name, digest=digest, cause="new adapter"
        )
    if digest != held.digest:
        cause = f"content was {_short(held.digest)}"
        return ReplaceAdapter(
            model=model, revision=revision, adapter=name, digest=digest, cause=cause
        )
    if wanted.output == held.output:
        return None
    return UpdateOutput(
        model=model,
        revision=revision,
        adapter=name,
        output=wanted.output,
        cause=_differences(held.output, wanted.output),
    )


def _reload_cause(
    model: specs.ModelSpec, base: state.ResolvedBase, serving: state.ObservedModel | None
) -> str:
    """Why the revision that serves is not enough."""
    if serving is None:
        return "no revision serves"
    before, after = serving.reload_inputs, state.reload_inputs(model, base)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if "base" in changed:
        changed = [name for name in changed if not name.startswith("base file")]
    return f"changed: {', '.join(changed)}"


Settings = state.Limits | state.OutputSettings


def _differences(old: Settings, new: Settings) -> str:
    """`batching.maxRows 256 -> 128, maxLength (unset) -> 64`."""
    pairs = (
        (FIELD_NAMES[field.name], _shown(field.name, old), _shown(field.name, new))
        for field in dataclasses.fields(new)
    )
    return ", ".join(f"{name} {was} -> {now}" for name, was, now in pairs if was != now)


def _shown(field: str, settings: Settings) -> str:
    value = getattr(settings, field)
    if field.endswith("_s"):
        return quantities.print_duration(value)
    if field.endswith("_bytes") and value is not None:
        return quantities.print_size(value)
    return diff.shown(dict(value) if field == "thresholds" and value is not None else value)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:DIGEST_SHOWN_CHARACTERS]
