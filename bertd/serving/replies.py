"""Numbers to serialised replies. Pure: nothing here waits, so a large one may be made in a thread.

A reply is made in parts that are serialised one by one and put end to end, which in protobuf is the
same as one message: no step holds the interpreter for long, and no part outlives its bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bertd import errors
from bertd.runtime import router as routing
from bertd.serving import answers
from bertd.tokenization import tokenizer as tokenization
from bertd.v1 import inference_pb2 as pb

PART_ROWS = 64
# As much as our own client takes, and more than any worker's logits are kept for one call.
LONGEST_REPLY_BYTES = 64 * 1024 * 1024
MOST_LOGITS = 64 * 1024 * 1024
# Framing and numbers, besides a label's text and its logit.
SCORE_BYTES = 16
TAG_BYTES = 48
EMBEDDING_DTYPE = "float32"
PROBLEM_TYPES: Mapping[str, pb.ProblemType] = MappingProxyType(
    {
        "single_label": pb.PROBLEM_TYPE_SINGLE_LABEL,
        "multi_label": pb.PROBLEM_TYPE_MULTI_LABEL,
        "regression": pb.PROBLEM_TYPE_REGRESSION,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Each:
    """What one result of a call costs: logits from the worker, bytes of the reply at most."""

    logits: int
    reply_bytes: int


def each_class(output: routing.Output, columns: Sequence[int], *, raw_logits: bool) -> Each:
    """The cost of one input of Classify: the wanted scores, and whatever may be decided."""
    sizes = [len(name.encode()) for name in output.label_names]
    score_bytes = SCORE_BYTES + 4 * raw_logits
    decided = sum(sizes) + 4 * len(sizes) if output.problem == "multi_label" else max(sizes)
    return Each(
        logits=len(sizes),
        reply_bytes=sum(sizes[at] + score_bytes for at in columns) + decided + TAG_BYTES,
    )


def each_vector(dimensions: int) -> Each:
    """The cost of one input of Embed."""
    return Each(logits=dimensions, reply_bytes=4 * dimensions + SCORE_BYTES)


def each_tag(output: routing.Output, *, raw_logits: bool) -> Each:
    """The cost of one token of Tag."""
    longest = max(len(name.encode()) for name in output.label_names)
    labels = len(output.label_names)
    return Each(logits=labels, reply_bytes=longest + TAG_BYTES + 4 * raw_logits * labels)


def check_size(results: int, price: Callable[[], Each]) -> None:
    """Refuses, before anything is computed, a call whose reply nobody would take.

    One result fits, whatever it is: no file may hold names of so many labels.

    Raises:
        errors.TooLarge: It has too many results for so many labels.
    """
    if results == 1:
        return
    each = price()
    reply_bytes = results * each.reply_bytes
    if reply_bytes > LONGEST_REPLY_BYTES or results * each.logits > MOST_LOGITS:
        raise errors.TooLarge(
            f"the reply would have {results} results of up to {each.reply_bytes} bytes for "
            f"{each.logits} labels; {LONGEST_REPLY_BYTES} bytes and {MOST_LOGITS} logits are the "
            "most",
            hint="send fewer inputs in one call, or ask for fewer `labels`",
        )


def classified(
    logits_NL: answers.Floats,
    output: routing.Output,
    *,
    columns: Sequence[int],
    raw_logits: bool,
    served: pb.Served,
) -> bytes:
    """The reply of Classify: scores of these columns, decisions over all of them."""
    names = [(at, output.label_names[at]) for at in columns]
    parts = []
    reply = pb.ClassifyResponse(problem_type=PROBLEM_TYPES[output.problem], served=served)
    for part_NL in _parts(logits_NL):
        for scores_L, labels in _decided(part_NL, output):
            result = reply.results.add(labels=labels)
            for at, name in names:
                result.scores.add(label=name, score=scores_L[at])
        if raw_logits:
            for result, row_L in zip(reply.results, part_NL[:, columns].tolist(), strict=True):
                result.logits.extend(row_L)
        parts.append(reply.SerializeToString())
        reply = pb.ClassifyResponse()
    return b"".join(parts)


def embedded(vectors_ND: answers.Floats, *, as_floats: bool, served: pb.Served) -> bytes:
    """The reply of Embed: packed little-endian values, or floats where asked for."""
    parts = []
    reply = pb.EmbedResponse(dtype=EMBEDDING_DTYPE, dimensions=vectors_ND.shape[1], served=served)
    for part_ND in _parts(vectors_ND.astype("<f4", copy=False)):
        if as_floats:
            for row_D in part_ND.tolist():
                reply.embeddings.add(values=row_D)
        else:
            for row_D in part_ND:
                reply.embeddings.add(packed=row_D.tobytes())
        parts.append(reply.SerializeToString())
        reply = pb.EmbedResponse()
    return b"".join(parts)


def tagged(
    logits_TL: answers.Floats,
    rows: Sequence[tokenization.Encoded],
    output: routing.Output,
    *,
    raw_logits: bool,
    served: pb.Served,
) -> bytes:
    """The reply of Tag; T counts the tokens of all rows, special ones included."""
    parts = []
    reply = pb.TagResponse(label_names=output.label_names, served=served)
    end = 0
    for row in rows:
        start, end = end, end + len(row.ids)
        tags = _tags(logits_TL[start:end], output, raw_logits=raw_logits)
        reply.results.add(tokens=_placed(tags, row))
        parts.append(reply.SerializeToString())
        reply = pb.TagResponse()
    return b"".join(parts)


def _tags(
    logits_TL: answers.Floats, output: routing.Output, *, raw_logits: bool
) -> list[pb.TokenTag]:
    tags = [
        pb.TokenTag(label=labels[0] if labels else "", score=max(row_L))
        for row_L, labels in _decided(logits_TL, output)
    ]
    if raw_logits:
        for tag, row_L in zip(tags, logits_TL.tolist(), strict=True):
            tag.logits.extend(row_L)
    return tags


def _placed(tags: list[pb.TokenTag], row: tokenization.Encoded) -> list[pb.TokenTag]:
    """The tags with their place in the text, special tokens left out.

    A row that came as token ids has no text, and nothing tells which of its tokens are special.
    """
    if not (row.tokens and row.offsets and row.segments and row.special):
        return tags
    for tag, token, (start, end), segment in zip(
        tags, row.tokens, row.offsets, row.segments, strict=True
    ):
        tag.token, tag.start, tag.end, tag.segment = token, start, end, segment
    return [tag for tag, special in zip(tags, row.special, strict=True) if not special]


def _decided(
    logits_NL: answers.Floats, output: routing.Output
) -> Iterator[tuple[list[float], list[str]]]:
    """The scores and the decided labels of each row."""
    scores_NL = answers.scores(logits_NL, problem=output.problem, temperature=output.temperature)
    decided = answers.decide(
        scores_NL,
        problem=output.problem,
        label_names=output.label_names,
        thresholds=output.thresholds,
    )
    return zip(scores_NL, decided, strict=True)


def _parts(values_ND: answers.Floats) -> Iterator[answers.Floats]:
    return (values_ND[at : at + PART_ROWS] for at in range(0, len(values_ND), PART_ROWS))
