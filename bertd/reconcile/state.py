"""The two pictures that a plan compares: what is wanted, and what runs.

Both are snapshots that make no choice. What could not be resolved (a file that is gone, a digest
that does not match its pin) is None here: the plan then leaves alone what runs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from bertd.manifest import spec as specs
from bertd.manifest import writing
from bertd.reconcile import diff

RELOAD_KEY_CHARACTERS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBase:
    """The files that a base's source stood for when it was last looked at."""

    digest: str
    """Of the encoder: normalised tensors and the config keys that change results."""
    blobs: tuple[tuple[str, str], ...]
    """(file name, sha256) of every stored file, sorted by name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """How an adapter's logits become an answer; None leaves it to the adapter's file.

    And its share of the lanes, which is nothing of a file's.
    """

    label_names: tuple[str, ...] | None = None
    temperature: float | None = None
    thresholds: tuple[tuple[str, float], ...] | None = None
    """(label, lowest score), sorted by label."""
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DesiredAdapter:
    """One adapter of a Model: inline, from a glob, or an object of its own."""

    name: str
    digest: str | None
    """sha256 of the file; None: it could not be resolved, what runs stays."""
    output: OutputSettings = OutputSettings()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DesiredModel:
    """A stored Model with everything that its sources stand for."""

    name: str
    generation: int
    spec: specs.ModelSpec
    base: ResolvedBase | None
    """None: it could not be resolved, what runs stays."""
    adapters: tuple[DesiredAdapter, ...] = ()
    are_all_named: bool = True
    """False: a glob could not be read, so that others may be declared; what runs stays."""
    only: frozenset[str] | None = None
    """The adapters that this picture is about; of others it says nothing. None: all of them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the front applies to a Model's requests; changes at once, reloads nothing."""

    max_tokens: int
    max_rows: int
    max_delay_s: float
    max_queue_delay_s: float
    max_length: int | None
    on_too_long: str
    normalize: bool | None
    adapter_memory_bytes: int | None = None
    allow_inline_adapters: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObservedAdapter:
    """An adapter that a revision holds."""

    digest: str
    output: OutputSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObservedModel:
    """One revision that exists: serving, being built, or left over.

    A Model has several of them only during a swap; at most one of these serves.
    """

    name: str
    """The Model's name."""
    revision: str
    reload_key: str
    limits: Limits
    serving: bool = True
    """Whether requests are routed to it."""
    adapters: Mapping[str, ObservedAdapter] = dataclasses.field(default_factory=dict)
    reload_inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What `reload_inputs` gave when it was started: names the cause of a reload."""


def output_settings(adapter: specs.InlineAdapter | specs.AdapterSpec) -> OutputSettings:
    """The part of an adapter's declaration that reloads nothing."""
    thresholds = adapter.thresholds
    return OutputSettings(
        label_names=adapter.label_names,
        temperature=adapter.temperature,
        thresholds=None if thresholds is None else tuple(sorted(thresholds.items())),
        weight=adapter.weight,
    )


def limits(model: specs.ModelSpec) -> Limits:
    """The part of a Model's declaration that the front applies."""
    return Limits(
        max_tokens=model.batching.max_tokens,
        max_rows=model.batching.max_rows,
        max_delay_s=model.batching.max_delay_s,
        max_queue_delay_s=model.batching.max_queue_delay_s,
        max_length=model.max_length,
        on_too_long=model.on_too_long,
        normalize=model.pooling.normalize,
        adapter_memory_bytes=model.adapter_memory_bytes,
        allow_inline_adapters=model.allow_inline_adapters,
    )


def reload_inputs(model: specs.ModelSpec, base: ResolvedBase) -> dict[str, str]:
    """Everything whose change needs a new revision, by name.

    The base counts by what it resolved to, not by how its source is written: files that move
    without changing reload nothing. The blobs count beside the digest because the digest leaves
    out what still answers requests: the tokenizer, and a head that the base brings along.
    """
    declared = diff.flat(writing.spec_to_dict(model))
    inputs = {
        path: json.dumps(field.value, sort_keys=True)
        for path, field in declared.items()
        if diff.effect(field.kind) is diff.Effect.RELOAD and not path.startswith("base.")
    }
    inputs |= {f"base file '{name}'": digest for name, digest in base.blobs}
    return inputs | {"base": base.digest}


def reload_key(model: DesiredModel) -> str:
    """Short sha256 over `reload_inputs`, the suffix of the revision's name."""
    if model.base is None:
        raise ValueError(f"the base of '{model.name}' is not resolved. This is a bug.")
    inputs = json.dumps(reload_inputs(model.spec, model.base), sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:RELOAD_KEY_CHARACTERS]


def revision_name(model: DesiredModel) -> str:
    """Such as `english-3f2a9c1b`."""
    return f"{model.name}-{reload_key(model)}"
