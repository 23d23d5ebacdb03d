"""The asyncio client: what an application calls a daemon with."""

from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import message

from bertd.client import asking, channel, failure, stream
from bertd.v1 import inference_pb2_grpc


class AsyncClient(asking.Asking):
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
        self._methods = {"classify": stub.Classify, "embed": stub.Embed, "tag": stub.Tag}

    def stream(self, *, most_items: int = stream.MOST_ITEMS) -> stream.AsyncStream:
        """Many calls over one stream, for much less of both sides' time than each alone.

        Args:
            most_items: Calls that are on their way at once; further ones wait for their turn.
        """
        return stream.AsyncStream(
            self._stub.Stream,
            address=self.address,
            timeout_s=self._timeout_s,
            most_items=most_items,
        )

    async def close(self) -> None:
        """Drop the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, kind: str, request: message.Message) -> Any:
        try:
            return await self._methods[kind](request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise failure.from_rpc_error(error, address=self.address) from error
