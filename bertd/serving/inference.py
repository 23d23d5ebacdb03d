"""The Inference service: find the route, encode, run, answer."""

import asyncio
import functools
import time
from collections.abc import Callable, Collection
from concurrent import futures
from typing import TypeVar

import grpc

from bertd import errors, frames, metrics
from bertd.runtime import calls, inline
from bertd.runtime import router as routing
from bertd.serving import answers, replies, requests
from bertd.serving import guard as guards
from bertd.serving import stream as streaming
from bertd.tokenization import tokenizer as tokenization
from bertd.v1 import inference_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name
# A reply with more numbers is made in the thread: this many take a few milliseconds.
INLINE_VALUES = 4096
CLASSIFIES = ("single_label", "multi_label", "regression")
TAGS = ("token",)
Made = TypeVar("Made")


class Inference:
    """Answers Classify, Embed and Tag with serialised replies, and `streams` of them.

    Short work is done on the event loop; long texts and large replies go to `executor`, which has
    one thread, so that a probe never waits for them.
    """

    def __init__(
        self,
        router: routing.Router,
        *,
        adapters: inline.Inline,
        executor: futures.Executor,
        streams: streaming.Streams | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.streams = streams or streaming.Streams(clock=clock)
        self._router = router
        self._adapters = adapters
        self._executor = executor
        self._clock = clock

    async def classify(self, request: pb.ClassifyRequest, call: guards.Call) -> bytes:
        """Scores and decided labels of each input."""
        route = await self._find(request, call)
        output = _output(route, CLASSIFIES, method="Classify")
        columns = answers.columns(output.label_names, request.labels)
        each = functools.partial(replies.each_class, output, columns, raw_logits=request.raw_logits)
        rows, ran = await self._run(request, route, frames.Task.CLASSIFY, call, each)
        labels = len(output.label_names)
        logits_NL = answers.matrix(ran.vectors, columns=labels, counts=[1] * len(rows))
        make = functools.partial(
            replies.classified,
            logits_NL,
            output,
            columns=columns,
            raw_logits=request.raw_logits,
            served=_served(route, rows, call),
        )
        return await self._make(make, values=logits_NL.size)

    async def embed(self, request: pb.EmbedRequest, call: guards.Call) -> bytes:
        """One pooled vector for each input."""
        route = await self._find(request, call)
        each = functools.partial(replies.each_vector, route.dimensions)
        rows, ran = await self._run(request, route, frames.Task.EMBED, call, each)
        vectors_ND = answers.matrix(ran.vectors, columns=route.dimensions, counts=[1] * len(rows))
        if request.normalize if request.HasField("normalize") else route.normalize:
            vectors_ND = answers.unit(vectors_ND)
        make = functools.partial(
            replies.embedded,
            vectors_ND,
            as_floats=request.as_floats,
            served=_served(route, rows, call),
        )
        return await self._make(make, values=vectors_ND.size if request.as_floats else 0)

    async def tag(self, request: pb.TagRequest, call: guards.Call) -> bytes:
        """One label for each token."""
        route = await self._find(request, call)
        output = _output(route, TAGS, method="Tag")
        each = functools.partial(replies.each_tag, output, raw_logits=request.raw_logits)
        rows, ran = await self._run(request, route, frames.Task.TAG, call, each)
        logits_TL = answers.matrix(
            ran.vectors, columns=len(output.label_names), counts=[len(row.ids) for row in rows]
        )
        make = functools.partial(
            replies.tagged,
            logits_TL,
            rows,
            output,
            raw_logits=request.raw_logits,
            served=_served(route, rows, call),
        )
        return await self._make(make, values=logits_TL.size)

    def handlers(self, guard: guards.Guard) -> guards.Service:
        """The service, for a server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Classify": guard.bounded("Classify", pb.ClassifyRequest, self.classify),
                "Embed": guard.bounded("Embed", pb.EmbedRequest, self.embed),
                "Tag": guard.bounded("Tag", pb.TagRequest, self.tag),
                "Stream": self.streams.method(
                    guard,
                    {
                        "classify": streaming.Kind("Classify", self.classify),
                        "embed": streaming.Kind("Embed", self.embed),
                        "tag": streaming.Kind("Tag", self.tag),
                    },
                ),
            },
        )

    async def _find(self, request: requests.AnyRequest, call: guards.Call) -> routing.Route:
        requests.check_names(request)
        try:
            route = await self._router.search(request.model, request.adapter)
        except errors.NotFound:
            raise
        except errors.Error:
            call.model = request.model  # it exists, so that its name may become a metric's label
            raise
        call.model, call.adapter = route.model, route.adapter
        if not request.HasField("adapter_bytes"):
            return route
        call.adapter = metrics.INLINE
        return await self._adapters.route(route, request.adapter_bytes, call.caller)

    async def _run(
        self,
        request: requests.AnyRequest,
        route: routing.Route,
        task: frames.Task,
        call: guards.Call,
        each: Callable[[], replies.Each],
    ) -> tuple[list[tokenization.Encoded], calls.Ran]:
        began_s = self._clock()
        priority = requests.priority(request.options)
        items = requests.read(request.inputs)
        route.check_open(len(items), priority=priority)
        encode = functools.partial(
            requests.encode,
            items,
            route.tokenizer,
            truncate=requests.truncates(request.options, route.truncate),
            offsets=task is frames.Task.TAG,
        )
        is_long = requests.are_long(items, route.tokenizer)
        rows = await self._in_thread(encode) if is_long else encode()
        encoded_s = self._clock()
        if encoded_s >= call.deadline_s:
            raise errors.Expired("the deadline passed before anything was computed")
        is_tag = task is frames.Task.TAG
        replies.check_size(sum(len(row.ids) for row in rows) if is_tag else len(rows), each)
        ran = await route.run(rows, task, call.deadline_s, priority=priority)
        call.parts = guards.Parts(
            tokenize_s=encoded_s - began_s, queue_s=ran.queue_s, inference_s=ran.inference_s
        )
        return rows, ran

    async def _make(self, make: Callable[[], bytes], *, values: int) -> bytes:
        return make() if values <= INLINE_VALUES else await self._in_thread(make)

    async def _in_thread(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _output(route: routing.Route, problems: Collection[str], *, method: str) -> routing.Output:
    """What the route's head means.

    Raises:
        errors.InvalidRequest: It has no head, or one for another method.
    """
    output = route.output
    if output is None:
        raise errors.InvalidRequest(
            f"model '{route.model}' has no head of its own, so {method} must name an `adapter`"
        )
    if output.problem not in problems:
        right = "Tag" if output.problem in TAGS else "Classify"
        raise errors.InvalidRequest(
            f"{_name(route)} is for {right}, not for {method}", hint=f"call {right} instead"
        )
    return output


def _name(route: routing.Route) -> str:
    if route.content is not None and route.content.inline:
        return inline.FIELD
    return f"'{route.model}/{route.adapter}'" if route.adapter else f"'{route.model}'"


def _served(route: routing.Route, rows: list[tokenization.Encoded], call: guards.Call) -> pb.Served:
    assert call.parts is not None  # only what has run is served
    return pb.Served(
        model=route.model,
        adapter=route.adapter,
        revision=route.revision,
        adapter_digest=route.digest,
        tokens=sum(len(row.ids) for row in rows),
        timings=pb.Timings(
            tokenize_seconds=call.parts.tokenize_s,
            queue_seconds=call.parts.queue_s,
            inference_seconds=call.parts.inference_s,
        ),
    )
