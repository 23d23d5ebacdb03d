"""How each contender is asked and how it answers: bytes made before the load begins. Pure.

Every wire carries the same texts. Answers are read only to be compared, never under load.
"""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertd.v1 import inference_pb2

Floats = NDArray[np.float32]
MODEL, ADAPTER = "texts", "cola"
VARINT, LENGTH_DELIMITED = 0, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A protocol and what it carries."""

    protocol: str  # "grpc" or "http"
    target: str  # the method, or the path
    body: Callable[[Sequence[str], float], bytes]  # of texts, and a timeout in seconds
    read: Callable[[bytes], Floats]  # probabilities [N], or embeddings [N, D]
    answers: str = "probabilities"  # or "embeddings"

    def request(self, texts: Sequence[str], timeout_s: float) -> bytes:
        """All that a client sends for a call, except what gRPC itself says of the timeout."""
        body = self.body(texts, timeout_s)
        if self.protocol == "grpc":
            return body
        head = (
            f"POST {self.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _bertd(texts: Sequence[str], _: float) -> bytes:
    inputs = [inference_pb2.Input(text=text) for text in texts]
    made = inference_pb2.ClassifyRequest(model=MODEL, adapter=ADAPTER, inputs=inputs)
    return made.SerializeToString()


def _read_bertd(reply: bytes) -> Floats:
    results = inference_pb2.ClassifyResponse.FromString(reply).results
    return np.array([each.scores[1].score for each in results], np.float32)


def _kserve(texts: Sequence[str], timeout_s: float) -> bytes:
    """`inference.ModelInferRequest` of the Open Inference Protocol: one column of BYTES.

    Triton drops late work only by its own parameter: it does not heed gRPC's deadline.
    """
    shape = _field(3, _varint(len(texts)) + _varint(1))
    tensor = _field(1, b"TEXT") + _field(2, b"BYTES") + shape
    encoded = [text.encode() for text in texts]
    content = b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
    microseconds = _varint(2 << 3 | VARINT) + _varint(round(timeout_s * 1e6))
    timeout = _field(1, b"timeout") + _field(2, microseconds)
    named = _field(1, MODEL.encode()) + _field(4, timeout)
    return named + _field(5, tensor) + _field(7, content)


def _read_kserve(reply: bytes) -> Floats:
    """The raw content of the only output of `inference.ModelInferResponse`."""
    (content,) = (value for number, value in _fields(reply) if number == 6)
    return np.frombuffer(content, np.float32)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of a message's fields; numbers' own values are passed over."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        key = varint()
        size = varint()
        if key & 7 == LENGTH_DELIMITED:
            yield key >> 3, message[place : place + size]
            place += size
        elif key & 7 != VARINT:
            raise ValueError(f"field {key >> 3} is of a kind that no answer has")


def _json(
    make: Callable[[Sequence[str]], dict[str, Any]],
) -> Callable[[Sequence[str], float], bytes]:
    return lambda texts, _: json.dumps(make(texts), separators=(",", ":")).encode()


def _read_classes(reply: bytes) -> Floats:
    found = [
        {each["label"]: each["score"] for each in classes} for classes in json.loads(reply)["data"]
    ]
    return np.array([each["acceptable"] for each in found], np.float32)


def _read_embeddings(reply: bytes) -> Floats:
    packed = (base64.b64decode(each["embedding"]) for each in json.loads(reply)["data"])
    return np.stack([np.frombuffer(each, np.float32) for each in packed])


BERTD = Wire(protocol="grpc", target="/bertd.v1.Inference/Classify", body=_bertd, read=_read_bertd)
KSERVE = Wire(
    protocol="grpc",
    target="/inference.GRPCInferenceService/ModelInfer",
    body=_kserve,
    read=_read_kserve,
)
PASSAGE = Wire(
    protocol="http",
    target="/generate",
    body=_json(lambda texts: {"passage": texts[0]}),
    read=lambda reply: np.array([json.loads(reply)["prob"]], np.float32),
)
PASSAGES = Wire(
    protocol="http",
    target="/generate",
    body=_json(lambda texts: {"passages": list(texts)}),
    read=lambda reply: np.array(json.loads(reply)["probs"], np.float32),
)
INFINITY_CLASSIFY = Wire(
    protocol="http",
    target="/classify",
    body=_json(lambda texts: {"model": MODEL, "input": list(texts)}),
    read=_read_classes,
)
INFINITY_EMBED = Wire(
    protocol="http",
    target="/embeddings",
    body=_json(lambda texts: {"model": MODEL, "input": list(texts), "encoding_format": "base64"}),
    read=_read_embeddings,
    answers="embeddings",
)
