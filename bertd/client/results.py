"""What replies become: small frozen values and numpy arrays. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from bertd.v1 import inference_pb2 as pb

Floats = npt.NDArray[np.float32]
Result_co = TypeVar("Result_co", covariant=True)

PROBLEMS: Mapping[pb.ProblemType, str] = MappingProxyType(
    {
        pb.PROBLEM_TYPE_SINGLE_LABEL: "single_label",
        pb.PROBLEM_TYPE_MULTI_LABEL: "multi_label",
        pb.PROBLEM_TYPE_REGRESSION: "regression",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which revision computed a reply, and where its time went."""

    model: str
    adapter: str
    adapter_digest: str
    revision: str
    tokens: int
    tokenize_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """One input's answer.

    `labels` are the decided ones; `label` is the first of them, or None when none was decided (a
    best label below its threshold, or a regression). `score` is that label's, else the highest.
    `logits` are empty unless asked for, and in the order of `scores`.
    """

    label: str | None
    score: float
    labels: tuple[str, ...]
    scores: dict[str, float]
    logits: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One token's label; None when the best one stays below its threshold.

    Its characters are [start, end) in the text, or in the pair's text number `segment`.
    """

    token: str
    start: int
    end: int
    segment: int
    label: str | None
    score: float
    logits: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Sequence[Result_co], Generic[Result_co]):
    """The results of one call, in input order, and who served it."""

    results: tuple[Result_co, ...]
    served: Served

    @overload
    def __getitem__(self, at: int) -> Result_co: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Result_co, ...]: ...
    def __getitem__(self, at: int | slice) -> Result_co | tuple[Result_co, ...]:
        return self.results[at]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result_co]:
        return iter(self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified(Reply[Classification]):
    """A sequence of `Classification`; `problem` is single_label, multi_label or regression."""

    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged(Reply[tuple[Tag, ...]]):
    """A sequence with the tags of each input; `label_names` is the order of `Tag.logits`."""

    label_names: tuple[str, ...]


def classified(reply: pb.ClassifyResponse) -> Classified:
    """The values of a Classify reply."""
    return Classified(
        results=tuple(_classification(each) for each in reply.results),
        problem=PROBLEMS.get(reply.problem_type, ""),
        served=_served(reply.served),
    )


def embedded(reply: pb.EmbedResponse) -> Floats:
    """The vectors of an Embed reply: [inputs, dimensions], writable."""
    packed = b"".join(each.packed for each in reply.embeddings)
    values = np.frombuffer(packed, dtype="<f4").astype(np.float32)
    return values.reshape(len(reply.embeddings), reply.dimensions)


def tagged(reply: pb.TagResponse) -> Tagged:
    """The values of a Tag reply."""
    return Tagged(
        results=tuple(tuple(_tag(tag) for tag in each.tokens) for each in reply.results),
        label_names=tuple(reply.label_names),
        served=_served(reply.served),
    )


def _classification(message: pb.Classification) -> Classification:
    scores = {each.label: each.score for each in message.scores}
    label = message.labels[0] if message.labels else None
    best = max(scores.values(), default=float("nan"))
    return Classification(
        label=label,
        score=best if label is None else scores.get(label, best),
        labels=tuple(message.labels),
        scores=scores,
        logits=tuple(message.logits),
    )


def _tag(message: pb.TokenTag) -> Tag:
    return Tag(
        token=message.token,
        start=message.start,
        end=message.end,
        segment=message.segment,
        label=message.label or None,
        score=message.score,
        logits=tuple(message.logits),
    )


def _served(message: pb.Served) -> Served:
    return Served(
        model=message.model,
        adapter=message.adapter,
        adapter_digest=message.adapter_digest,
        revision=message.revision,
        tokens=message.tokens,
        tokenize_s=message.timings.tokenize_seconds,
        queue_s=message.timings.queue_seconds,
        inference_s=message.timings.inference_seconds,
    )
