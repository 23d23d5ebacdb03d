"""Request messages to checked inputs to encoded rows. Pure: nothing here waits."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from bertd import errors
from bertd.tokenization import tokenizer as tokenization
from bertd.v1 import inference_pb2 as pb

MOST_INPUTS = 1024
LONGEST_NAME = 253
# Caller-made ids above this are checked in the thread: 8,192 take about a millisecond.
INLINE_IDS = 8192

# How many times the share of a call that says nothing.
PRIORITIES: Mapping[pb.Priority, float] = MappingProxyType(
    {
        pb.PRIORITY_UNSPECIFIED: 1.0,
        pb.PRIORITY_HIGH: 16.0,
        pb.PRIORITY_NORMAL: 1.0,
        pb.PRIORITY_LOW: 1 / 16,
    }
)

# A text, a pair of texts, or token ids that the caller made.
Item = tokenization.Text | pb.TokenIds
AnyRequest = pb.ClassifyRequest | pb.EmbedRequest | pb.TagRequest


def check_names(request: AnyRequest) -> None:
    """Checks how a call names whom it asks.

    Raises:
        errors.InvalidRequest: No model, a name that nothing can have, or two adapters at once.
    """
    if not request.model:
        raise errors.InvalidRequest("`model` must name a Model")
    if max(len(request.model), len(request.adapter)) > LONGEST_NAME:
        raise errors.InvalidRequest(
            f"`model` and `adapter` must have at most {LONGEST_NAME} characters each"
        )
    if request.adapter and request.HasField("adapter_bytes"):
        raise errors.InvalidRequest(
            "only one of `adapter` and `adapter_bytes` must be set, and both are",
            hint="name a declared adapter, or bring one",
        )


def read(inputs: Sequence[pb.Input]) -> list[Item]:
    """What a call wants computed.

    Raises:
        errors.InvalidRequest: Nothing at all, or an input that holds nothing.
        errors.TooLarge: More than `MOST_INPUTS`.
    """
    if not inputs:
        raise errors.InvalidRequest("`inputs` must hold at least 1 input")
    if len(inputs) > MOST_INPUTS:
        raise errors.TooLarge(
            f"`inputs` must hold at most {MOST_INPUTS} inputs, and holds {len(inputs)}",
            hint="send them in several calls",
        )
    return [_item(each, index) for index, each in enumerate(inputs)]


def _item(each: pb.Input, index: int) -> Item:
    kind = each.WhichOneof("kind")
    if kind == "text":
        return each.text
    if kind == "pair":
        return each.pair.first, each.pair.second
    if kind == "token_ids":
        return each.token_ids
    raise errors.InvalidRequest(
        f"`inputs[{index}]` must hold `text`, `pair` or `token_ids`, and holds none"
    )


def are_long(items: Sequence[Item], tokenizer: tokenization.Tokenizer) -> bool:
    """Whether encoding them belongs off the event loop."""
    ids = [len(item.ids) for item in items if isinstance(item, pb.TokenIds)]
    return sum(ids) > INLINE_IDS or tokenizer.is_long(_texts(items))


def encode(
    items: Sequence[Item], tokenizer: tokenization.Tokenizer, *, truncate: bool, offsets: bool
) -> list[tokenization.Encoded]:
    """One row for each item, in their order.

    Raises:
        errors.InvalidRequest: An input does not fit the tokenizer or the model, named by its index.
    """
    texts = _texts(items)
    indices = [at for at, item in enumerate(items) if not isinstance(item, pb.TokenIds)]
    rows = tokenizer.encode(texts, truncate=truncate, offsets=offsets, indices=indices)
    for at, item in enumerate(items):
        if isinstance(item, pb.TokenIds):
            rows.insert(at, tokenizer.check_ids(item.ids, item.type_ids, index=at))
    return rows


def _texts(items: Sequence[Item]) -> list[tokenization.Text]:
    return [item for item in items if not isinstance(item, pb.TokenIds)]


def truncates(options: pb.Options, declared: bool) -> bool:
    """Whether over-long texts are cut: the call's choice, else the Model's."""
    return options.truncate if options.HasField("truncate") else declared


def priority(options: pb.Options) -> float:
    """The factor on the share of a call's rows: above 1 is more than usual.

    Raises:
        errors.InvalidRequest: A number that means nothing here.
    """
    factor = PRIORITIES.get(options.priority)
    if factor is None:
        raise errors.InvalidRequest(
            "`options.priority` must be PRIORITY_HIGH, PRIORITY_NORMAL or PRIORITY_LOW, and is "
            f"{int(options.priority)}"
        )
    return factor
