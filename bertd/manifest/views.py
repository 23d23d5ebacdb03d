"""What an operator is shown: objects with their status, and what an apply did.

Plain values that both the gRPC edge and the reconciler may hold; neither knows the other.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Kind = Literal["Model", "Adapter"]
Action = Literal["created", "configured", "unchanged"]
ConditionStatus = Literal["True", "False", "Unknown"]
ChangeType = Literal["added", "modified", "deleted", "synced", "restarted"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One statement about an object, Kubernetes style."""

    type: str
    """Such as `Ready`."""
    status: ConditionStatus
    reason: str
    """CamelCase, for machines; never empty."""
    message: str
    """A sentence, for people."""
    last_transition_time: str
    """RFC 3339, UTC; moves only when `status` changes."""
    observed_generation: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A file that an adapter serves or served."""

    digest: str
    """sha256 of the file, written like `StatusView.digest`."""
    since: str
    """RFC 3339, UTC: when it went live."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """Observation only; writers of specs never write it."""

    observed_generation: int
    conditions: tuple[Condition, ...]
    revision: str = ""
    """The revision that answers now; empty while none does."""
    digest: str = ""
    """What the declared sources were resolved to."""
    details: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Further facts (bytes, precision, lanes, adapters); JSON values."""
    versions: tuple[Version, ...] = ()
    """What an adapter served, newest first; known where one object is asked for, not in lists."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectView:
    """An object as `bertd get` shows it."""

    kind: Kind
    name: str
    """An adapter that a Model declares inline is named MODEL/ADAPTER."""
    labels: Mapping[str, str]
    generation: int
    spec: Mapping[str, object]
    """YAML names, every default written out."""
    status: StatusView


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an apply did to one object."""

    kind: Kind
    name: str
    action: Action
    generation: int

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name} {self.action}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOutcome:
    """Everything an apply did, in the manifest's order; also what a dry run would do."""

    objects: tuple[Applied, ...]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDiff:
    """What an apply would change in one object."""

    kind: Kind
    name: str
    action: Action
    unified: str
    """Unified diff of the two specs as YAML; empty when unchanged."""
    plan: tuple[str, ...]
    """The planned operations, one line each."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiffOutcome:
    """Everything an apply would change."""

    objects: tuple[ObjectDiff, ...]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a listing, in order of names."""

    objects: tuple[ObjectView, ...]
    next_after: str = ""
    """The name to continue after; empty on the last page."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a watcher is told: first every object there is, then what becomes of them.

    `added` objects are there, also such as a listing named already; of those that are `deleted`
    only kind and name are known. `synced` ends the listing. `restarted` says that too much was
    missed: what was told is void, and a new listing follows.
    """

    type: ChangeType
    objects: tuple[ObjectView, ...] = ()
