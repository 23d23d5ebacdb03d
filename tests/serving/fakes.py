"""A Router whose models are functions, a Control that is a dictionary, and a daemon of both."""

import asyncio
import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent import futures

import grpc
import grpc.aio
import numpy as np
import prometheus_client

from bertd import errors, frames, metrics
from bertd.checkpoint import files
from bertd.manifest import views
from bertd.runtime import calls, inline, router, slots
from bertd.serving import admin, guard, health, inference, server, sockets, stream
from bertd.tokenization import tokenizer as tokenization

LABELS = ("short", "long", "endless")
DIMENSIONS = 4
MAX_LENGTH = 16


class WordTokenizer:
    """One token for each word: its length; a special token 0 before and after."""

    def __init__(self, on_encode: Callable[[], None] = lambda: None) -> None:
        self.on_encode = on_encode

    def encode(self, texts, *, truncate, offsets=False, indices=None):
        self.on_encode()
        names = range(len(texts)) if indices is None else indices
        return [self._row(t, i, truncate, offsets) for i, t in zip(names, texts, strict=True)]

    def _row(self, text, index, truncate, offsets):
        halves = (text,) if isinstance(text, str) else text
        found = [(word, segment) for segment, half in enumerate(halves) for word in half.split()]
        if len(found) + 2 > MAX_LENGTH and not truncate:
            raise errors.InvalidRequest(f"`inputs[{index}]` has {len(found) + 2} tokens")
        found = found[: MAX_LENGTH - 2]
        words = ["[", *(word for word, _ in found), "]"]
        segments = [0, *(segment for _, segment in found), 0]
        starts = [halves[segment].index(word) for word, segment in found]
        ends = [start + len(word) for start, (word, _) in zip(starts, found, strict=True)]
        spans = [(0, 0), *zip(starts, ends, strict=True), (0, 0)]
        ids = np.array([0, *(len(word) for word, _ in found), 0], np.int32)
        types = np.array(segments, np.uint8)
        if not offsets:
            return tokenization.Encoded(ids, types)
        special = tuple(word in "[]" for word in words)
        return tokenization.Encoded(
            ids, types, tuple(spans), special, tuple(words), tuple(segments)
        )

    def check_ids(self, ids, type_ids=(), *, index=0):
        if not ids or max(ids) >= 100:
            raise errors.InvalidRequest(f"`inputs[{index}].token_ids.ids` must be below 100")
        return tokenization.Encoded(np.array(ids, np.int32), np.zeros(len(ids), np.uint8))

    def is_long(self, texts):
        return sum(len(text) for text in texts) > 1024


def lengths(row: tokenization.Encoded, labels: int) -> np.ndarray:
    """Logits that say how long a row is: n, n - 5, n - 10, ..."""
    return np.array([len(row.ids) - 5.0 * at for at in range(labels)], np.float32)


@dataclasses.dataclass(kw_only=True)
class Route:
    """What `Router.find` returns, with a function instead of a worker."""

    model: str = "english"
    adapter: str = "sst2"
    revision: str = "r1"
    digest: str = "d1"
    output: router.Output | None = dataclasses.field(
        default_factory=lambda: router.Output(label_names=LABELS, problem="single_label")
    )
    tokenizer: object = dataclasses.field(default_factory=WordTokenizer)
    truncate: bool = False
    normalize: bool = False
    dimensions: int = DIMENSIONS
    base: files.Base | None = None
    allows_inline: bool = False
    content: slots.Content | None = None
    flow: object = None
    work: Callable[[Sequence[tokenization.Encoded], float], Awaitable[None] | None] = (
        lambda rows, deadline_s: None
    )
    refusal: Exception | None = None
    runs: list[Sequence[tokenization.Encoded]] = dataclasses.field(default_factory=list)

    def check_open(self, rows, *, priority=1.0) -> None:
        """Refuses what `refusal` says, before anything is encoded."""
        if self.refusal is not None:
            raise self.refusal

    async def run(self, rows, task, deadline_s, *, priority=1.0) -> calls.Ran:
        self.runs.append(rows)
        waits = self.work(rows, deadline_s)
        if waits is not None:
            await waits
        return calls.Ran(
            vectors=[self._vector(row, task) for row in rows], queue_s=0.25, inference_s=0.5
        )

    def _vector(self, row, task):
        if task is frames.Task.EMBED:
            return np.arange(1, DIMENSIONS + 1, dtype=np.float32) * len(row.ids)
        labels = len(self.output.label_names)
        if task is frames.Task.CLASSIFY:
            return lengths(row, labels)
        return np.stack([np.eye(labels, dtype=np.float32)[i % labels] for i in row.ids]) * 3


class Router:
    """Routes and errors by (model, adapter)."""

    def __init__(self, routes: dict[tuple[str, str], Route | Exception]) -> None:
        self.routes = routes

    async def search(self, model: str, adapter: str) -> Route:
        found = self.routes.get((model, adapter))
        if found is None:
            raise errors.NotFound(f"no model '{model}/{adapter}'")
        if isinstance(found, Exception):
            raise found
        return found


class Control:
    """Objects in a dictionary; `apply` declares one Model per line of the manifest."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], views.ObjectView] = {}
        self.asked: list[tuple[object, ...]] = []

    def apply(self, manifest, file_name, base_dir, dry_run):
        self.asked.append(("apply", manifest, file_name, base_dir, dry_run))
        if "broken" in manifest:
            raise errors.InvalidManifest(f"{file_name}:1:1: spec: must be whole")
        applied = []
        for name in manifest.split():
            known = ("Model", name) in self.objects
            action = "unchanged" if known else "created"
            applied.append(views.Applied(kind="Model", name=name, action=action, generation=1))
            if not dry_run:
                self.objects["Model", name] = model_view(name)
        return views.ApplyOutcome(objects=tuple(applied), warnings=("careful",))

    async def diff(self, manifest, file_name, base_dir):
        self.asked.append(("diff", manifest, file_name, base_dir))
        each = views.ObjectDiff(
            kind="Model", name=manifest, action="created", unified="+a\n", plan=("start",)
        )
        return views.DiffOutcome(objects=(each,), warnings=())

    async def get(self, kind, name):
        if (kind, name) not in self.objects:
            raise errors.NotFound(f"no {kind.lower()} '{name}'")
        return self.objects[kind, name]

    def list(self, kind, limit, after):
        self.asked.append(("list", kind, limit, after))
        names = sorted(name for k, name in self.objects if k == kind and name > after)
        page = tuple(self.objects[kind, name] for name in names[:limit])
        return views.Page(objects=page, next_after=names[limit - 1] if len(names) > limit else "")

    def delete(self, kind, name):
        if self.objects.pop((kind, name), None) is None:
            raise errors.NotFound(f"no {kind.lower()} '{name}'")


def model_view(name: str) -> views.ObjectView:
    """A Model that is ready."""
    ready = views.Condition(
        type="Ready",
        status="True",
        reason="Serving",
        message="serves",
        last_transition_time="2026-01-01T00:00:00Z",
        observed_generation=1,
    )
    status = views.StatusView(
        observed_generation=1, conditions=(ready,), revision="r1", digest="d", details={"lanes": 2}
    )
    return views.ObjectView(
        kind="Model",
        name=name,
        labels={"team": "search"},
        generation=1,
        spec={"base": {"source": "/m"}, "maxLength": None},
        status=status,
    )


@dataclasses.dataclass(kw_only=True)
class Daemon:
    """A running pair of servers and everything they were made of."""

    routes: dict[tuple[str, str], Route | Exception]
    control: Control
    health: health.Health
    registry: prometheus_client.CollectorRegistry
    adapters: pathlib.Path
    data: str
    admin: str

    @property
    def stored(self) -> list[str]:
        """The digests of the adapters that calls brought and that still lie there."""
        return sorted(path.name.partition(".")[0] for path in self.adapters.iterdir())

    def count(self, **labels: str) -> float:
        """How many finished calls were counted under these labels."""
        return self.series("requests_total", **labels)

    def series(self, name: str, **labels: str) -> float:
        """The value of a series, 0 where it does not exist."""
        return self.registry.get_sample_value(f"bertd_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def running(
    routes: dict[tuple[str, str], Route | Exception],
    socket: str,
    *,
    is_reflecting: bool = False,
    streams: stream.Streams | None = None,
    **guarding: object,
) -> AsyncIterator[Daemon]:
    """Serves these routes on a free port and on a Unix socket."""
    registry = prometheus_client.CollectorRegistry()
    control, checks = Control(), health.Health()
    counted = metrics.Metrics(registry)
    watch = guard.Guard(metrics=counted, **guarding)
    with (
        futures.ThreadPoolExecutor(1) as executor,
        tempfile.TemporaryDirectory(prefix="bertd-") as directory,
    ):
        clock = guarding.get("clock")
        timed = {"clock": clock} if clock else {}
        brought = pathlib.Path(directory, "inline")
        adapters = inline.Inline(brought, metrics=counted, **timed)
        infer = inference.Inference(
            Router(routes), adapters=adapters, executor=executor, streams=streams, **timed
        )
        data = server.data_server(
            watch, inference=infer, health=checks, is_reflecting=is_reflecting
        )
        private = server.admin_server(
            watch, inference=infer, health=checks, admin=admin.Admin(control)
        )
        with sockets.bind(data, "127.0.0.1:0") as port, sockets.bind(private, socket) as path:
            await data.start()
            await private.start()
            yield Daemon(
                routes=routes,
                control=control,
                health=checks,
                registry=registry,
                adapters=brought,
                data=port.address,
                admin=path.address,
            )
            await asyncio.gather(data.stop(0), private.stop(0))


async def refusal(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call must be refused")
