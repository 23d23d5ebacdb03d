"""What a caller passes, as request messages. Pure."""

import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bertd import errors
from bertd.v1 import inference_pb2 as pb

Ids = Sequence[int] | npt.NDArray[np.integer]
Input = str | tuple[str, str] | Ids
"""A text, a pair of texts, or token ids with their special tokens."""
Priority = Literal["high", "normal", "low"]
PRIORITIES: Mapping[str, pb.Priority] = MappingProxyType(
    {
        "high": pb.PRIORITY_HIGH,
        "normal": pb.PRIORITY_UNSPECIFIED,  # which means the same, and is not sent
        "low": pb.PRIORITY_LOW,
    }
)


def classify(
    inputs: Sequence[Input],
    *,
    model: str,
    adapter: str,
    adapter_bytes: bytes | None,
    labels: Sequence[str],
    truncate: bool | None,
    priority: Priority,
    raw_logits: bool,
) -> pb.ClassifyRequest:
    """A Classify request."""
    return pb.ClassifyRequest(
        model=model,
        adapter=adapter,
        adapter_bytes=_brought(adapter_bytes, adapter),
        inputs=_inputs(inputs),
        options=_options(truncate, priority),
        labels=labels,
        raw_logits=raw_logits,
    )


def embed(
    inputs: Sequence[Input],
    *,
    model: str,
    adapter: str,
    adapter_bytes: bytes | None,
    normalize: bool | None,
    truncate: bool | None,
    priority: Priority,
) -> pb.EmbedRequest:
    """An Embed request."""
    request = pb.EmbedRequest(
        model=model,
        adapter=adapter,
        adapter_bytes=_brought(adapter_bytes, adapter),
        inputs=_inputs(inputs),
        options=_options(truncate, priority),
    )
    if normalize is not None:
        request.normalize = normalize
    return request


def tag(
    inputs: Sequence[Input],
    *,
    model: str,
    adapter: str,
    adapter_bytes: bytes | None,
    truncate: bool | None,
    priority: Priority,
    raw_logits: bool,
) -> pb.TagRequest:
    """A Tag request."""
    return pb.TagRequest(
        model=model,
        adapter=adapter,
        adapter_bytes=_brought(adapter_bytes, adapter),
        inputs=_inputs(inputs),
        options=_options(truncate, priority),
        raw_logits=raw_logits,
    )


def _brought(adapter_bytes: bytes | None, adapter: str) -> bytes | None:
    """An adapter file to send along, which excludes the name of a declared one."""
    if adapter_bytes is None:
        return None
    if adapter:
        raise errors.InvalidRequest(
            "only one of `adapter` and `adapter_bytes` must be given",
            hint="name a declared adapter, or bring one",
        )
    if not isinstance(adapter_bytes, bytes):
        raise errors.InvalidRequest(
            "`adapter_bytes` must be bytes: the content of an adapter file",
            hint="bertd.interchange.bitinfer.convert makes them of BitInfer's text",
        )
    return adapter_bytes


def _options(truncate: bool | None, priority: Priority) -> pb.Options:
    if priority not in PRIORITIES:
        raise errors.InvalidRequest(
            f"`priority` must be 'high', 'normal' or 'low', and is {priority!r}"
        )
    options = pb.Options(priority=PRIORITIES[priority])
    if truncate is not None:
        options.truncate = truncate
    return options


def _inputs(inputs: Sequence[Input]) -> list[pb.Input]:
    if isinstance(inputs, str):
        raise errors.InvalidRequest("inputs must be a list of texts", hint="pass [text]")
    return [_input(each, index) for index, each in enumerate(inputs)]


def _input(value: Input, index: int) -> pb.Input:
    if isinstance(value, str):
        return pb.Input(text=_text(value, index))
    if isinstance(value, tuple) and len(value) == 2:
        first, second = value
        if isinstance(first, str) and isinstance(second, str):
            pair = pb.TextPair(first=_text(first, index), second=_text(second, index))
            return pb.Input(pair=pair)
    try:
        return pb.Input(token_ids=pb.TokenIds(ids=_ids(value)))
    except (TypeError, ValueError):
        raise errors.InvalidRequest(
            f"`inputs[{index}]` must be a text, a pair of texts, or 32-bit token ids"
        ) from None


def _ids(value: Any) -> list[int]:
    """Whole numbers alone: `int` reads texts too, and bytes are a sequence of numbers."""
    if isinstance(value, bytes | bytearray):
        raise TypeError
    return [operator.index(each) for each in value]


def _text(text: str, index: int) -> str:
    """The text itself; protobuf would call a lone surrogate a bare ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidRequest(
            f"`inputs[{index}]` must be valid Unicode; character {error.start} is a surrogate"
        ) from None
    return text
