"""Who answers for a (model, adapter) name right now, or why nobody does."""

import difflib
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bertd import errors, frames
from bertd.checkpoint import adapter_file
from bertd.checkpoint import files as checkpoint_files
from bertd.runtime import calls, feeder, slots
from bertd.runtime import revision as revisions
from bertd.tokenization import tokenizer as tokenization

SUGGEST_AMONG_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How logits become an answer."""

    label_names: tuple[str, ...]
    problem: str  # single_label | multi_label | regression | token
    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, info: adapter_file.AdapterInfo) -> "Output":
        """What an adapter's own file says."""
        return cls(
            label_names=info.label_names,
            problem=info.head.problem,
            temperature=info.temperature,
            thresholds=info.thresholds,
        )


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Route:
    """A servable name: immutable, so a call keeps the one it found even while routes change.

    `lease` is slot 0 of the revision: whoever holds it keeps the revision from closing. `flow` is
    whose share of the lanes its calls use.
    """

    model: str
    adapter: str
    revision: str
    digest: str
    output: Output | None
    tokenizer: tokenization.Tokenizer
    truncate: bool
    normalize: bool
    base: checkpoint_files.Base
    allows_inline: bool
    target: revisions.Revision
    lease: slots.Entry
    content: slots.Content | None
    flow: feeder.Flow = feeder.BASE_FLOW

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return self.base.shape.hidden

    def run(
        self,
        rows: Sequence[tokenization.Encoded],
        task: frames.Task,
        deadline_s: float,
        *,
        priority: float = 1.0,
    ) -> Awaitable[calls.Ran]:
        """Computes all rows of one call, with `priority` times its share; see `Revision.run`."""
        flow = self._flow(priority)
        return self.target.run(rows, self.content or self.lease, task, deadline_s, flow)

    def check_open(self, rows: int, *, priority: float = 1.0) -> None:
        """Refuses a call before it is tokenised, if that is in vain; see `Revision.check_open`."""
        self.target.check_open(rows, self._flow(priority))

    def _flow(self, priority: float) -> feeder.Flow:
        return self.flow if priority == 1.0 else self.flow.at(priority)


class Names(Protocol):
    """Everything that is declared under one model; adapter "" is the base."""

    def route(self, adapter: str) -> Route | None:
        """Who answers for an adapter, if anybody does."""

    def refusal(self, adapter: str) -> errors.Error | None:
        """Why nobody answers for a name that is declared; None where it is not declared."""

    def known(self) -> Collection[str]:
        """Every name, for suggestions."""

    async def look(self, adapter: str) -> bool:
        """Looks whether a name has appeared since; True if it is worth asking again."""


class Router:
    """The names of every model; each model's own are kept by whoever published them."""

    def __init__(self) -> None:
        self._models: dict[str, Names] = {}

    def publish(self, model: str, names: Names) -> None:
        """Whom `find` asks for `model` from now on."""
        self._models[model] = names

    def remove(self, model: str) -> None:
        """Forgets a deleted model."""
        self._models.pop(model, None)

    def find(self, model: str, adapter: str) -> Route:
        """The route of a name.

        Raises:
            NotFound: nothing of this name is declared.
            NotServable: declared, and somebody must change something first.
            NotReady: declared, and on its way.
        """
        names = self._models.get(model)
        if names is None:
            raise errors.NotFound(f"no model '{model}'", hint=_near(model, self._models))
        if (route := names.route(adapter)) is not None:
            return route
        if error := names.refusal(adapter):
            raise error
        raise errors.NotFound(
            f"model '{model}' has no adapter '{adapter}'", hint=_near(adapter, names.known())
        )

    async def search(self, model: str, adapter: str) -> Route:
        """As `find`, and where nothing is found, looks for a file that has just appeared."""
        try:
            return self.find(model, adapter)
        except errors.NotFound:
            names = self._models.get(model)
            if names is None or not await names.look(adapter):
                raise
        return self.find(model, adapter)


def _near(name: str, known: Collection[str]) -> str:
    """A suggestion; among thousands of names it would cost a caller's typo too much."""
    if len(known) > SUGGEST_AMONG_MAX:
        return ""
    near = difflib.get_close_matches(name, [k for k in known if k], n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""
