"""A front whose models are functions, an edge beside it, and the socket between them."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import prometheus_client

from bertd import errors, frames, metrics
from bertd.edge import owner as owners
from bertd.edge import routes as remote
from bertd.runtime import calls, desk, feeder, pipe, router, slots
from bertd.tokenization import tokenizer as tokenization

MAX_LENGTH = 16
VOCAB = 99
BINARY = router.Output(label_names=("no", "yes"), problem="single_label")


@dataclasses.dataclass(eq=False, kw_only=True, slots=True, weakref_slot=True)
class Route:
    """What a Router of the front finds, with a function instead of a worker."""

    path: Path
    model: str = "english"
    adapter: str = ""
    revision: str = "r1"
    digest: str = ""
    output: router.Output | None = BINARY
    truncate: bool = True
    normalize: bool = True
    dimensions: int = 4
    content: slots.Content | None = None
    flow: feeder.Flow = feeder.BASE_FLOW
    work: Callable[["Route", Sequence[tokenization.Encoded]], Awaitable[None] | None] = (
        lambda route, rows: None
    )
    asked: list[tuple[frames.Task, float, float]] = dataclasses.field(default_factory=list)

    @property
    def base(self) -> SimpleNamespace:
        shape = SimpleNamespace(vocab=VOCAB, token_types=2)
        return SimpleNamespace(tokenizer=self.path, shape=shape)

    @property
    def tokenizer(self) -> SimpleNamespace:
        return SimpleNamespace(max_length=MAX_LENGTH)

    async def run(
        self,
        rows: Sequence[tokenization.Encoded],
        task: frames.Task,
        deadline_s: float,
        *,
        priority: float = 1.0,
    ) -> calls.Ran:
        """Each row gets [its length, the sum of its ids]."""
        self.asked.append((task, deadline_s, priority))
        waits = self.work(self, rows)
        if waits is not None:
            await waits
        vectors = [np.array([[len(row.ids), row.ids.sum()]], np.float32) for row in rows]
        return calls.Ran(vectors=vectors, queue_s=0.25, inference_s=0.5)


class Router:
    """Routes and errors by name."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Route | errors.Error] = {}
        self.searches = 0

    def find(self, model: str, adapter: str) -> Route:
        found = self.routes.get((model, adapter))
        if found is None:
            raise errors.NotFound(f"no '{model}/{adapter}'", hint="did you mean 'english'?")
        if isinstance(found, errors.Error):
            raise found
        return found

    async def search(self, model: str, adapter: str) -> Route:
        self.searches += 1
        await asyncio.sleep(0)
        return self.find(model, adapter)


class Inline:
    """Takes any bytes for an adapter, except `bad`."""

    def __init__(self) -> None:
        self.brought: list[tuple[bytes, str]] = []

    async def route(self, base: Route, data: bytes, caller: str) -> Route:
        self.brought.append((data, caller))
        if data == b"bad":
            raise errors.InvalidRequest("not an adapter", reason="WrongBase", hint="train it")
        content = slots.Content(data.decode(), Path(), inline=True)
        output = router.Output(label_names=("a", "b"), problem="single_label")
        return dataclasses.replace(
            base, adapter="", digest=content.digest, content=content, output=output
        )


@dataclasses.dataclass(kw_only=True)
class Pair:
    """Both ends of the socket, in one loop."""

    router: Router
    inline: Inline
    desk: desk.Desk
    owner: owners.Owner
    routes: remote.Routes
    brought: remote.Brought
    path: Path
    registry: prometheus_client.CollectorRegistry
    ends: list[pipe.Pipe]
    told: list[Mapping[str, Any]]
    lost: list[str]

    def publish(self, adapter: str = "", **changes: Any) -> Route:
        """Serves a route of one's own under a name from now on."""
        route = Route(**{"path": self.path, "adapter": adapter, **changes})
        self.router.routes[route.model, adapter] = route
        return route

    async def run(self, adapter: str = "", text: str = "w1 w2") -> calls.Ran:
        """One call, as `serving` makes it."""
        route = await self.routes.search("english", adapter)
        rows = route.tokenizer.encode([text], truncate=True)
        return await route.run(rows, frames.Task.CLASSIFY, 1e9)

    def counted(self, name: str, **labels: str) -> float:
        """The value of a series, 0 where it does not exist."""
        return self.registry.get_sample_value(f"bertd_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def paired(path: Path) -> AsyncIterator[Pair]:
    """A front and an edge that talk; `path` is the tokenizer of whatever is published."""
    registry = prometheus_client.CollectorRegistry()
    routes, adapters = Router(), Inline()
    told: list[Mapping[str, Any]] = []
    lost: list[str] = []
    loop = asyncio.get_running_loop()
    ours: list[pipe.Pipe] = []

    def send(frame: bytes) -> None:
        ours[0].send(frame)

    answers = desk.Desk(
        desk.Published(routes),
        send,
        told.append,
        adapters=adapters,
        metrics=metrics.Metrics(registry),
    )
    front = pipe.Pipe(answers.on_frame, lambda: lost.append("edge"))
    ours.append(front)
    owner = owners.Owner(told.append, lambda: lost.append("front"))
    ends = socket.socketpair()
    for end, protocol in zip(ends, (front, owner.pipe), strict=True):
        await loop.create_unix_connection(lambda protocol=protocol: protocol, sock=end)
    found = remote.Routes(owner, None)
    try:
        yield Pair(
            router=routes,
            inline=adapters,
            desk=answers,
            owner=owner,
            routes=found,
            brought=remote.Brought(owner, found),
            path=path,
            registry=registry,
            ends=[front, owner.pipe],
            told=told,
            lost=lost,
        )
    finally:
        answers.close()
        for each in (front, owner.pipe):
            each.close()
        await until(lambda: len(lost) == 2)


async def until(condition: Callable[[], bool]) -> None:
    """Turns the loop until something is true; the test's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.001)
