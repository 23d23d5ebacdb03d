"""The asyncio client: what an application calls a daemon with."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf import message

from bertd.client import channel, failure, messages, results
from bertd.v1 import inference_pb2_grpc

Reply = TypeVar("Reply")


class AsyncClient:
    """Asks models and adapters of one daemon; close it, or use it in `async with`.

        async with AsyncClient() as client:
            for answer in await client.classify(["Loved it!"], model="english", adapter="sst2"):
                print(answer.label, answer.score)

    A call that the daemon refuses for now (overloaded, loading, restarting) is sent again, up to
    four times, as late as the daemon asks. Every method raises `failure.CallError` when the daemon
    refuses for good or cannot be reached, and `errors.InvalidRequest` for inputs of a wrong type.

    Args:
        address: `HOST:PORT` or the path of a socket; by default BERTD_SERVER, else the admin
            socket of this user's daemon, else its data port.
        timeout_s: The deadline of a call, retries included.
    """

    def __init__(
        self, address: str | None = None, *, timeout_s: float = channel.DEFAULT_TIMEOUT_S
    ) -> None:
        self.address = channel.data_target(address)
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(self.address, options=channel.options())
        stub = inference_pb2_grpc.InferenceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._stub = stub

    async def classify(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        labels: Sequence[str] = (),
        truncate: bool | None = None,
        raw_logits: bool = False,
    ) -> results.Classified:
        """Scores and decided labels of each input.

        Args:
            inputs: At most 1,024 texts, pairs of texts, or lists of token ids.
            model: The Model's name.
            adapter: One of its adapters; empty for the checkpoint's own head.
            adapter_bytes: Instead of `adapter`, a whole adapter file of at most 2 MiB, where the
                Model allows it; labels and their order are the file's.
            labels: Return only these labels' scores; the decision still sees all.
            truncate: Cut over-long inputs, or refuse them; None means as the Model declares.
            raw_logits: Return the logits as well.
        """
        request = messages.classify(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            labels=labels,
            truncate=truncate,
            raw_logits=raw_logits,
        )
        return results.classified(await self._call(self._stub.Classify, request))

    async def embed(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        normalize: bool | None = None,
        truncate: bool | None = None,
    ) -> results.Floats:
        """One pooled vector for each input: float32 [inputs, dimensions].

        `normalize` scales them to length 1 or not; None means as the Model declares. For the other
        arguments see `classify`.
        """
        request = messages.embed(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            normalize=normalize,
            truncate=truncate,
        )
        return results.embedded(await self._call(self._stub.Embed, request))

    async def tag(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        truncate: bool | None = None,
        raw_logits: bool = False,
    ) -> results.Tagged:
        """One label for each token of each input; for the arguments see `classify`."""
        request = messages.tag(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            truncate=truncate,
            raw_logits=raw_logits,
        )
        return results.tagged(await self._call(self._stub.Tag, request))

    async def close(self) -> None:
        """Drop the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(
        self, method: Callable[..., Awaitable[Reply]], request: message.Message
    ) -> Reply:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise failure.from_rpc_error(error, address=self.address) from error
