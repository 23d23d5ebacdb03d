"""Bytes of requests made before they are needed, and what replies tell.

A serialised message is the sum of its fields: who is asked and what is asked are made apart and
joined for each call, so a mix of ten thousand adapters needs no more than their names.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bertd import errors
from bertd.v1 import inference_pb2 as pb

MAX_CALL_BYTES = 4 * 1024 * 1024  # the daemon's bound of one message
MAX_POOL_BYTES = 16 * 1024 * 1024

_REPLIES: dict[str, Callable[[bytes], pb.ClassifyResponse | pb.EmbedResponse | pb.TagResponse]] = {
    "Classify": pb.ClassifyResponse.FromString,
    "Embed": pb.EmbedResponse.FromString,
    "Tag": pb.TagResponse.FromString,
}
METHODS = tuple(_REPLIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a reply says of itself."""

    tokens: int
    tokenize_s: float
    queue_s: float
    inference_s: float
    revision: str


Read = Callable[[bytes], Told]


class Requests:
    """Requests to draw from: any of these adapters, any of these groups of texts.

    The fields are the same in all three methods, so one pool serves each of them.
    """

    def __init__(
        self,
        model: str,
        adapters: Sequence[str],
        groups: Iterable[Sequence[str]],
        source: random.Random,
    ) -> None:
        self.heads = [
            pb.ClassifyRequest(model=model, adapter=each).SerializeToString() for each in adapters
        ]
        self._bodies = _bodies(groups)
        self._source = source

    def draw(self) -> bytes:
        """The next request."""
        heads, bodies, number = self.heads, self._bodies, self._source.random
        return heads[int(number() * len(heads))] + bodies[int(number() * len(bodies))]

    def first(self, head: bytes) -> bytes:
        """A request of one of `heads`, always the same."""
        return head + self._bodies[0]


def reader(method: str) -> Read:
    """Reads the replies of a method: 1 us for one text, 2 us for 16, a hundredth of a call."""
    parse = _REPLIES[method]

    def read(reply: bytes) -> Told:
        served = parse(reply).served
        timings = served.timings
        return Told(
            tokens=served.tokens,
            tokenize_s=timings.tokenize_seconds,
            queue_s=timings.queue_seconds,
            inference_s=timings.inference_seconds,
            revision=served.revision,
        )

    return read


def _bodies(groups: Iterable[Sequence[str]]) -> list[bytes]:
    """One for each group, as many as memory is meant for."""
    made: list[bytes] = []
    size_bytes = 0
    for group in groups:
        inputs = [pb.Input(text=text) for text in group]
        body = pb.ClassifyRequest(inputs=inputs).SerializeToString()
        if len(body) > MAX_CALL_BYTES:
            raise errors.InvalidRequest(
                f"a call of {len(group)} inputs would have {len(body)} bytes; "
                f"at most {MAX_CALL_BYTES} are taken",
                hint="put fewer or shorter texts into one call",
            )
        size_bytes += len(body)
        if made and size_bytes > MAX_POOL_BYTES:
            break
        made.append(body)
    return made
