"""Whom calls ask: routes as the front described them, kept until it says that one is stale.

`Routes` stands where a `Router` stands in the front, `Brought` where its `Inline` stands, and
`Route` has what `serving` uses of a route there.
"""

import asyncio
import weakref
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

from bertd import errors, frames
from bertd.edge import owner as owners
from bertd.runtime import calls, described, router, slots
from bertd.tokenization import tokenizer as tokenization

ROUTES_MAX = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A servable name, whose calls the front runs."""

    told: described.Described
    tokenizer: tokenization.Tokenizer
    content: slots.Content | None
    owner: owners.Owner

    @property
    def model(self) -> str:
        """The Model's name."""
        return self.told.model

    @property
    def adapter(self) -> str:
        """The adapter's name; "" is the base."""
        return self.told.adapter

    @property
    def revision(self) -> str:
        """What the calls run on."""
        return self.told.revision

    @property
    def digest(self) -> str:
        """The adapter's file."""
        return self.told.digest

    @property
    def output(self) -> router.Output | None:
        """How logits become an answer."""
        return self.told.output

    @property
    def truncate(self) -> bool:
        """Whether texts that are too long are cut."""
        return self.told.truncate

    @property
    def normalize(self) -> bool:
        """Whether embeddings have length 1."""
        return self.told.normalize

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return self.told.dimensions

    def check_open(self, rows: int, *, priority: float = 1.0) -> None:
        """Refuses nothing: only the front knows."""

    async def run(
        self,
        rows: Sequence[tokenization.Encoded],
        task: frames.Task,
        deadline_s: float,
        *,
        priority: float = 1.0,
    ) -> calls.Ran:
        """Has the front compute all rows of one call.

        Raises:
            Stale: it serves something else under this name by now.
            errors.Error: as in the front.
        """
        ran = await self.owner.run(
            frames.Run(
                route=self.told.number,
                task=task,
                deadline_s=deadline_s,
                priority=priority,
                rows=[(row.ids, row.type_ids) for row in rows],
            )
        )
        return calls.Ran(vectors=ran.vectors, queue_s=ran.queue_s, inference_s=ran.inference_s)


class Routes:
    """Finds routes: asks the front once for each name, and again after `forget`."""

    def __init__(self, owner: owners.Owner, executor: futures.Executor) -> None:
        self._owner = owner
        self._executor = executor
        self._routes: dict[tuple[str, str], Route] = {}
        self._finding: dict[tuple[str, str], asyncio.Task[Route | errors.Error]] = {}
        self._tokenizers: weakref.WeakValueDictionary[
            described.TokenizerFile, tokenization.Tokenizer
        ] = weakref.WeakValueDictionary()

    async def search(self, model: str, adapter: str) -> Route:
        """The route of a name.

        Raises:
            errors.Error: as `Router.search`.
        """
        name = (model, adapter)
        route = self._routes.get(name)
        if route is not None:
            return route
        if name not in self._finding:
            finding = self._finding[name] = asyncio.create_task(self._find(name))
            finding.add_done_callback(lambda _: self._finding.pop(name))
        found = await asyncio.shield(self._finding[name])
        if isinstance(found, errors.Error):
            raise described.raised(described.error(found))  # each who waits gets one of its own
        return found

    def forget(self, model: str, adapter: str, number: int) -> None:
        """Asks the front again at the next search, unless somebody has done so meanwhile."""
        route = self._routes.get((model, adapter))
        if route is not None and route.told.number == number:
            del self._routes[model, adapter]

    async def use(self, told: described.Described) -> Route:
        """The route that the front described.

        Raises:
            BadArtifact, Temporary: its tokenizer file cannot be used.
        """
        tokenizer = self._tokenizers.get(told.tokenizer)
        if tokenizer is None:
            tokenizer = await self._load(told.tokenizer)
        content = slots.Content(told.digest, Path(), inline=True) if told.is_inline else None
        return Route(told, tokenizer, content, self._owner)

    async def _find(self, name: tuple[str, str]) -> Route | errors.Error:
        try:
            route = await self.use(await self._owner.find(*name))
        except errors.Error as error:
            return error.with_traceback(None)
        if len(self._routes) >= ROUTES_MAX:
            self._routes.pop(next(iter(self._routes)))
        self._routes[name] = route
        return route

    async def _load(self, file: described.TokenizerFile) -> tokenization.Tokenizer:
        try:
            made = await asyncio.get_running_loop().run_in_executor(
                self._executor, _tokenizer, file
            )
        except OSError as error:
            raise errors.Temporary(
                f"the tokenizer's file cannot be read: {error.strerror}", reason="DiskError"
            ) from None
        return self._tokenizers.setdefault(file, made)


class Brought:
    """Makes a route of a base's route and the bytes of an adapter: the front proves them."""

    def __init__(self, owner: owners.Owner, routes: Routes) -> None:
        self._owner = owner
        self._routes = routes

    async def route(self, base_route: Route, data: bytes, caller: str) -> Route:
        """The route of these bytes on this base; see `Inline.route`.

        Raises:
            Stale: the front serves something else under the base's name by now.
            errors.Error: as in the front.
        """
        number = base_route.told.number
        brought = frames.Brought(route=number, caller=caller, data=data)
        return await self._routes.use(await self._owner.bring(brought))


def _tokenizer(file: described.TokenizerFile) -> tokenization.Tokenizer:
    return tokenization.Tokenizer.load(
        file.path, max_length=file.max_length, vocab=file.vocab, token_types=file.token_types
    )
