"""What the front answers to one edge: who serves a name, and the rows of its calls.

Nothing is pushed when a route changes. An edge keeps what it found, and each call that it sends
names its route by number: if that is not what is published any more, the answer is `stale`, and the
edge finds and encodes again. So an edge holds no revision open, and none is closed under a call
that was taken.
"""

import asyncio
import dataclasses
import itertools
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import structlog

from bertd import errors, frames, metrics
from bertd.runtime import described, inline, router
from bertd.tokenization import tokenizer

log = structlog.get_logger()

# Adapters of calls that are being encoded; an edge that comes back too late brings its own again.
BROUGHT_MAX = 1024
LONGEST_ANSWER_BYTES = frames.BODY_MAX_BYTES - (1 << 20)  # shapes and times come besides
# What an edge may report, by method of `Metrics`, and the order of its values.
REPORTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "request": ("model", "adapter", "method", "code", "seconds"),
        "request_parts": ("model", "method", "tokenize_s", "queue_s", "inference_s"),
        "call_without_deadline": ("method",),
        "shed": ("model", "reason", "rows"),
    }
)


class Published:
    """Numbers for routes, by which edges name them. Holds none of them, so a revision may close."""

    def __init__(self, routes: router.Router) -> None:
        self._router = routes
        self._routes: weakref.WeakValueDictionary[int, router.Route] = weakref.WeakValueDictionary()
        self._numbers: dict[int, int] = {}  # by the identity of a route that lives
        self._next = itertools.count(1)

    async def search(self, model: str, adapter: str) -> tuple[int, router.Route]:
        """A route and its number; see `Router.search`."""
        route = await self._router.search(model, adapter)
        return self._number(route), route

    def at(self, number: int) -> router.Route | None:
        """The route of a number, if it is still what is published under its name."""
        route = self._routes.get(number)
        if route is None:
            return None
        try:
            published = self._router.find(route.model, route.adapter)
        except errors.Error:
            return None
        return route if published is route else None

    def next_number(self) -> int:
        """A number for what is not published, and is nobody else's."""
        return next(self._next)

    def _number(self, route: router.Route) -> int:
        number = self._numbers.get(id(route))
        if number is not None and self._routes.get(number) is route:
            return number
        if len(self._numbers) > 2 * len(self._routes):  # most of them have gone
            self._numbers = {id(each): n for n, each in self._routes.items()}
        number = self._numbers[id(route)] = next(self._next)
        self._routes[number] = route
        return number


class Desk:
    """Answers the frames of one edge. All calls on the event loop's thread.

    Args:
        published: the numbers of routes, shared by all edges.
        send: gives a frame to the edge.
        on_told: called with what an edge says of itself.
        adapters: proves what calls bring.
        metrics: where the edge's reports are recorded.
    """

    def __init__(
        self,
        published: Published,
        send: Callable[[bytes], None],
        on_told: Callable[[Mapping[str, Any]], None] = lambda message: None,
        *,
        adapters: inline.Inline,
        metrics: metrics.Metrics,
    ) -> None:
        self._published = published
        self._adapters = adapters
        self._metrics = metrics
        self._send = send
        self._on_told = on_told
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._brought: OrderedDict[int, tuple[int, Mapping[str, Any]]] = OrderedDict()

    @property
    def calls(self) -> int:
        """How many calls of the edge are being answered."""
        return len(self._tasks)

    def on_frame(self, header: frames.Header, body: memoryview) -> None:
        """Begins to answer a frame; `body` is valid only during the call."""
        match header.kind:
            case frames.Kind.RUN:
                self._start(header.id, self._run, frames.decode_run(header, body))
            case frames.Kind.CANCEL:
                if (task := self._tasks.pop(header.id, None)) is not None:
                    task.cancel()
            case frames.Kind.BRING:
                self._start(header.id, self._bring, frames.decode_brought(header, body))
            case frames.Kind.CONTROL:
                self._on_message(header.id, frames.decode_control(body))
            case _:
                raise errors.Bug(f"an edge sends no {header.kind.name}")

    def close(self) -> None:
        """The edge has gone: nobody waits for its calls."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def _on_message(self, id_: int, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "find":
                self._start(id_, self._find, (message["model"], message["adapter"]))
            case "report":
                for name, values in message["events"]:
                    fields = zip(REPORTED[name], values, strict=True)
                    getattr(self._metrics, name)(**dict(fields))
            case _:
                self._on_told(message)

    def _start(self, id_: int, work: Callable[[int, Any], Awaitable[bytes]], asked: object) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(id_, work, asked))
        self._tasks[id_] = task

    async def _answer(
        self, id_: int, work: Callable[[int, Any], Awaitable[bytes]], asked: object
    ) -> None:
        try:
            frame = await work(id_, asked)
        except BaseException as error:
            if id_ not in self._tasks and isinstance(error, Exception | asyncio.CancelledError):
                return  # cancelled by the edge, or for it: nobody waits
            frame = _refusal(id_, error)
        self._tasks.pop(id_, None)
        self._send(frame)

    async def _run(self, id_: int, run: frames.Run) -> bytes:
        route = self._published.at(run.route) or self._with_brought(run.route)
        if route is None:
            return frames.encode_control(id_, {"stale": run.route})
        rows = [tokenizer.Encoded(ids, types) for ids, types in run.rows]
        ran = await route.run(rows, run.task, run.deadline_s, priority=run.priority)
        size_bytes = sum(vector.nbytes for vector in ran.vectors)
        if size_bytes > LONGEST_ANSWER_BYTES:
            raise errors.TooLarge(
                f"the answer has {size_bytes} bytes, and {LONGEST_ANSWER_BYTES} are the most",
                hint="send fewer inputs in one call",
            )
        return frames.encode_ran(
            id_,
            frames.Ran(queue_s=ran.queue_s, inference_s=ran.inference_s, vectors=ran.vectors),
        )

    async def _find(self, id_: int, name: tuple[str, str]) -> bytes:
        number, route = await self._published.search(*name)
        return frames.encode_control(id_, {"route": described.route(number, route)})

    async def _bring(self, id_: int, brought: frames.Brought) -> bytes:
        base = self._published.at(brought.route)
        if base is None:
            return frames.encode_control(id_, {"stale": brought.route})
        route = await self._adapters.route(base, brought.data, brought.caller)
        number = self._published.next_number()
        # Not the route itself: it would hold the revision open.
        self._brought[number] = (brought.route, _brought(route))
        if len(self._brought) > BROUGHT_MAX:
            self._brought.popitem(last=False)
        return frames.encode_control(id_, {"route": described.route(number, route)})

    def _with_brought(self, number: int) -> router.Route | None:
        """The route of an adapter that a call brought; each is asked for once."""
        base_number, changes = self._brought.pop(number, (0, {}))
        base = self._published.at(base_number)
        return dataclasses.replace(base, **changes) if base is not None else None


def _brought(route: router.Route) -> Mapping[str, Any]:
    """What differs between a route with an adapter that a call brought and that of its base."""
    names = ("adapter", "digest", "content", "output", "flow")
    return {name: getattr(route, name) for name in names}


def _refusal(id_: int, error: BaseException) -> bytes:
    """What an edge is told of an error: of one that nobody foresaw, where to look."""
    if isinstance(error, errors.Error):
        return frames.encode_control(id_, {"error": described.error(error)})
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    error_id = secrets.token_hex(8)
    log.error("call failed", error_id=error_id, exc_info=error)
    bug = errors.Bug(f"the front failed; its log has the details under {error_id}")
    return frames.encode_control(id_, {"error": described.error(bug)})
