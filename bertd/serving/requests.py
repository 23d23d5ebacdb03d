"""Request messages to checked inputs to encoded rows. Pure: nothing here waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

AnyRequest = pb.ClassifyRequest | pb.EmbedRequest | pb.TagRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a call wants computed: texts and pairs at some positions, token ids at the others."""

    texts: tuple[tokenization.Text, ...]
    text_indices: tuple[int, ...]
    ids: tuple[pb.TokenIds, ...]
    ids_indices: tuple[int, ...]

    def are_long(self, tokenizer: tokenization.Tokenizer) -> bool:
        """Whether encoding them belongs off the event loop."""
        return sum(len(each.ids) for each in self.ids) > INLINE_IDS or tokenizer.is_long(self.texts)


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


def read(inputs: Sequence[pb.Input]) -> Inputs:
    """Checks a call's inputs.

    Raises:
        errors.InvalidRequest: None at all, or one that holds nothing.
        errors.TooLarge: More than `MOST_INPUTS`.
    """
    if not inputs:
        raise errors.InvalidRequest("`inputs` must hold at least 1 input")
    if len(inputs) > MOST_INPUTS:
        raise errors.TooLarge(
            f"`inputs` must hold at most {MOST_INPUTS} inputs, and holds {len(inputs)}",
            hint="send them in several calls",
        )
    texts: list[tuple[int, tokenization.Text]] = []
    ids: list[tuple[int, pb.TokenIds]] = []
    for index, each in enumerate(inputs):
        match each.WhichOneof("kind"):
            case "text":
                texts.append((index, each.text))
            case "pair":
                texts.append((index, (each.pair.first, each.pair.second)))
            case "token_ids":
                ids.append((index, each.token_ids))
            case _:
                raise errors.InvalidRequest(
                    f"`inputs[{index}]` must hold `text`, `pair` or `token_ids`, and holds none"
                )
    return Inputs(
        texts=tuple(text for _, text in texts),
        text_indices=tuple(index for index, _ in texts),
        ids=tuple(each for _, each in ids),
        ids_indices=tuple(index for index, _ in ids),
    )


def encode(
    inputs: Inputs, tokenizer: tokenization.Tokenizer, *, truncate: bool, offsets: bool
) -> list[tokenization.Encoded]:
    """One row for each input, in input order.

    Raises:
        errors.InvalidRequest: An input does not fit the tokenizer or the model, named by its index.
    """
    rows: dict[int, tokenization.Encoded] = {}
    if inputs.texts:
        encoded = tokenizer.encode(
            inputs.texts, truncate=truncate, offsets=offsets, indices=inputs.text_indices
        )
        rows.update(zip(inputs.text_indices, encoded, strict=True))
    for index, each in zip(inputs.ids_indices, inputs.ids, strict=True):
        rows[index] = tokenizer.check_ids(each.ids, each.type_ids, index=index)
    return [rows[index] for index in range(len(rows))]


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
