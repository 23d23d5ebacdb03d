"""Who answers for a (model, adapter) name right now, or why nobody does."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bertd import errors, frames
from bertd.runtime import calls, slots
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A servable name: immutable, so a call keeps the one it found even while routes change."""

    model: str
    adapter: str
    revision: str
    digest: str
    output: Output | None
    tokenizer: tokenization.Tokenizer
    truncate: bool
    normalize: bool
    dimensions: int
    target: revisions.Revision
    entry: slots.Entry

    async def run(
        self, rows: Sequence[tokenization.Encoded], task: frames.Task, deadline_s: float
    ) -> calls.Ran:
        """Computes all rows of one call; see `Revision.run`."""
        return await self.target.run(rows, self.entry, task, deadline_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Everything declared under one model, by adapter name ("" is the base): routes or reasons."""

    routes: Mapping[str, Route] = field(default_factory=dict)
    refusals: Mapping[str, errors.Error] = field(default_factory=dict)


class Router:
    """One immutable `Names` per model, replaced as a whole."""

    def __init__(self) -> None:
        self._models: dict[str, Names] = {}

    def publish(self, model: str, names: Names) -> None:
        """What `find` answers for `model` from now on."""
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
        if (route := names.routes.get(adapter)) is not None:
            return route
        if error := names.refusals.get(adapter) or names.refusals.get(""):
            raise _fresh(error)
        known = (*names.routes, *names.refusals)
        raise errors.NotFound(
            f"model '{model}' has no adapter '{adapter}'", hint=_near(adapter, known)
        )


def _fresh(error: errors.Error) -> errors.Error:
    """The same error as a new object: a shared one would grow a traceback with every raise."""
    match error:
        case errors.NotServable():
            return errors.NotServable(error.message, reason=error.reason, hint=error.hint)
        case errors.NotReady():
            return errors.NotReady(
                error.message, retry_after_s=error.retry_after_s, hint=error.hint
            )
        case _:
            return errors.Bug(f"not a routing error: {error.message}")


def _near(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """A suggestion; among thousands of names it would cost a caller's typo too much."""
    if len(known) > SUGGEST_AMONG_MAX:
        return ""
    near = difflib.get_close_matches(name, [k for k in known if k], n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""
