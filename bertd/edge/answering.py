"""The Inference service of an edge: the front's own, which starts again when a route was stale."""

from collections.abc import Awaitable, Callable
from concurrent import futures
from typing import TypeVar, cast

from bertd import errors
from bertd.edge import owner as owners
from bertd.edge import routes as remote
from bertd.runtime import inline
from bertd.runtime import router as routing
from bertd.serving import guard as guards
from bertd.serving import inference, stream
from bertd.v1 import inference_pb2 as pb

# Between finding a route and its use lies the encoding alone: names that change so often in a row
# are being changed all the time.
TRIES = 4
RETRY_S = 0.1

Request = TypeVar("Request", pb.ClassifyRequest, pb.EmbedRequest, pb.TagRequest)


class Inference(inference.Inference):
    """Answers Classify, Embed and Tag, with rows that the front computes."""

    def __init__(
        self,
        routes: remote.Routes,
        *,
        adapters: remote.Brought,
        executor: futures.Executor,
        streams: stream.Streams,
    ) -> None:
        # They have what serving uses of the front's own.
        super().__init__(
            cast(routing.Router, routes),
            adapters=cast(inline.Inline, adapters),
            executor=executor,
            streams=streams,
        )
        self._remote = routes

    async def classify(self, request: pb.ClassifyRequest, call: guards.Call) -> bytes:
        """Scores and decided labels of each input."""
        return await self._again(super().classify, request, call)

    async def embed(self, request: pb.EmbedRequest, call: guards.Call) -> bytes:
        """One pooled vector for each input."""
        return await self._again(super().embed, request, call)

    async def tag(self, request: pb.TagRequest, call: guards.Call) -> bytes:
        """One label for each token."""
        return await self._again(super().tag, request, call)

    async def _again(
        self,
        handle: Callable[[Request, guards.Call], Awaitable[bytes]],
        request: Request,
        call: guards.Call,
    ) -> bytes:
        for _ in range(TRIES):
            try:
                return await handle(request, call)
            except owners.Stale as stale:
                self._remote.forget(request.model, request.adapter, stale.number)
        raise errors.NotReady(
            f"model '{request.model}' changes faster than calls begin", retry_after_s=RETRY_S
        )
