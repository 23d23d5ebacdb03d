"""The blocking client: what an application calls a daemon with."""

from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import grpc
from google.protobuf import message

from bertd.client import channel, failure, messages, results, stream, stream_sync
from bertd.v1 import inference_pb2_grpc

Reply = TypeVar("Reply")


class Client:
    """Asks models and adapters of one daemon; close it, or use it in `with`.

        with Client() as client:
            for answer in client.classify(["Loved it!"], model="english", adapter="sst2"):
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
        self._channel = grpc.insecure_channel(self.address, options=channel.options())
        stub = inference_pb2_grpc.InferenceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._stub = stub

    def classify(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        labels: Sequence[str] = (),
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
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
            priority: How much of a busy daemon's time the call gets: shares of 16 ("high") to 1
                ("normal") to 1/16 ("low", for bulk work).
            raw_logits: Return the logits as well.
        """
        request = messages.classify(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            labels=labels,
            truncate=truncate,
            priority=priority,
            raw_logits=raw_logits,
        )
        return results.classified(self._call(self._stub.Classify, request))

    def embed(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        normalize: bool | None = None,
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
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
            priority=priority,
        )
        return results.embedded(self._call(self._stub.Embed, request))

    def tag(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
        raw_logits: bool = False,
    ) -> results.Tagged:
        """One label for each token of each input; for the arguments see `classify`."""
        request = messages.tag(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            truncate=truncate,
            priority=priority,
            raw_logits=raw_logits,
        )
        return results.tagged(self._call(self._stub.Tag, request))

    def stream(self, *, most_items: int = stream.MOST_ITEMS) -> stream_sync.Stream:
        """Many calls over one stream, for much less of both sides' time than each alone.

        Args:
            most_items: Calls that are on their way at once; a further one waits for its turn.
        """
        return stream_sync.Stream(self.address, timeout_s=self._timeout_s, most_items=most_items)

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Reply], request: message.Message) -> Reply:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise failure.from_rpc_error(error, address=self.address) from error
