"""Names and shapes of the encoder families that bertd serves, read from `config.json`.

All families here are post-LN encoders with learned absolute positions; they differ in the names of
their tensors, in a few numbers, and in which of four optional parts they have (token types, an
embedding projection, a relative attention bias, a pooler). One table of canonical names lets the
rest of bertd forget the differences.

May import `bertd.errors` and the standard library; holds no arrays, reads no file.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bertd import errors

MAX_HIDDEN: Final = 16_384
MAX_LAYERS: Final = 128
MAX_HEADS: Final = 256
MAX_FFN: Final = 65_536
MAX_VOCAB: Final = 2_000_000
MAX_POSITIONS: Final = 65_536
MAX_TOKEN_TYPES: Final = 64
MAX_QUOTED_CHARACTERS: Final = 300
SUGGEST_AMONG_MAX: Final = 512

# transformers fixes both numbers in its code, whatever the config says
MPNET_BUCKETS: Final = 32
MPNET_PADDING_ID: Final = 1
POOLER: Final = ("pooler.weight", "pooler.bias")

HEAD_KINDS: Final = ("linear", "dense-tanh", "dense-gelu", "dense-relu")
HEAD_INPUTS: Final = ("cls", "pooler", "mean", "token")

_FAMILY_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bert": "bert",
        "roberta": "roberta",
        "xlm-roberta": "roberta",
        "camembert": "roberta",
        "distilbert": "distilbert",
        "electra": "electra",
        "mpnet": "mpnet",
    }
)
_ACTIVATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
    }
)
_HAS_POOLER: Final = frozenset({"bert", "roberta", "mpnet"})
_PRE_LN: Final = ("roberta-prelayernorm", "modernbert", "xlm-roberta-xl", "megatron-bert")

# canonical part -> the module that holds it, per family
_BERT_LAYER: Final = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
_MPNET_LAYER: Final = _BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
_DISTILBERT_LAYER: Final = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "ffn_norm": "output_layer_norm",
}
_LAYER_STEMS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = MappingProxyType(
    {
        "bert": ("encoder.layer", _BERT_LAYER),
        "roberta": ("encoder.layer", _BERT_LAYER),
        "electra": ("encoder.layer", _BERT_LAYER),
        "mpnet": ("encoder.layer", _MPNET_LAYER),
        "distilbert": ("transformer.layer", _DISTILBERT_LAYER),
    }
)
_WRAPPERS: Final = ("0.auto_model.", "model.")
_OLD_NORM_NAMES: Final = (
    (".LayerNorm.gamma", ".LayerNorm.weight"),
    (".LayerNorm.beta", ".LayerNorm.bias"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """Everything about an encoder that decides names, sizes and arithmetic.

    `positions` counts the rows of the position table; `position_offset` is the id of the first
    token's position. `token_types` and `relative_buckets` are 0 where the family has no such table.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocab: int
    positions: int
    position_offset: int
    token_types: int
    embedding: int
    norm_eps: float
    activation: str
    relative_buckets: int

    @property
    def max_tokens(self) -> int:
        """The longest sequence that the position table can number, special tokens included."""
        return self.positions - self.position_offset

    @property
    def projects(self) -> bool:
        """Whether embeddings are narrower than the encoder and a projection widens them."""
        return self.embedding != self.hidden

    @property
    def may_have_pooler(self) -> bool:
        """Whether checkpoints of this family may carry a pooler."""
        return self.family in _HAS_POOLER


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLayout:
    """How a checkpoint's own head computes, and under which names its tensors lie.

    `names` maps `dense.weight`, `dense.bias` (dense kinds only), `out.weight` and `out.bias` to the
    checkpoint's names.
    """

    kind: str
    input: str
    names: Mapping[str, str]


def shape(config: Mapping[str, object]) -> EncoderShape:
    """Read an encoder's shape from the keys of its `config.json`.

    Raises:
        errors.BadArtifact: naming the key; reason `RemoteCode`, `UnsupportedArchitecture` or
            `BadConfig`.
    """
    _refuse_remote_code(config)
    family = _family(config)
    _refuse_other_arithmetic(config)
    distil = family == "distilbert"
    hidden = _integer(config, "dim" if distil else "hidden_size", 1, MAX_HIDDEN)
    heads = _integer(config, "n_heads" if distil else "num_attention_heads", 1, MAX_HEADS)
    if hidden % heads:
        raise _bad(f"the hidden size {hidden} must be a multiple of the {heads} attention heads")
    positions = _integer(config, "max_position_embeddings", 1, MAX_POSITIONS)
    offset = _position_offset(config, family)
    if positions <= offset:
        raise _bad(f"`max_position_embeddings` must be over {offset}, but it is {positions}")
    embedding = _integer(config, "embedding_size", 1, MAX_HIDDEN) if family == "electra" else hidden
    return EncoderShape(
        family=family,
        hidden=hidden,
        layers=_integer(config, "n_layers" if distil else "num_hidden_layers", 1, MAX_LAYERS),
        heads=heads,
        ffn=_integer(config, "hidden_dim" if distil else "intermediate_size", 1, MAX_FFN),
        vocab=_integer(config, "vocab_size", 1, MAX_VOCAB),
        positions=positions,
        position_offset=offset,
        token_types=_token_types(config, family),
        embedding=embedding,
        norm_eps=1e-12 if distil else _norm_eps(config),
        activation=_activation(config, "activation" if distil else "hidden_act"),
        relative_buckets=_relative_buckets(config) if family == "mpnet" else 0,
    )


def fold_refusal(config: Mapping[str, object]) -> str | None:
    """Why bias folding does not hold for an encoder with this config, or None where it does.

    Folding needs LayerNorm after the residual sum, and scores in which the key bias adds the same
    constant to every key of a query (it then cancels in the softmax).
    """
    model_type = config.get("model_type")
    if model_type in _PRE_LN:
        return f"{quote(model_type)} normalises before a sublayer, so no bias moves past its sum"
    positions = config.get("position_embedding_type") or "absolute"
    if positions not in ("absolute", "relative_key"):
        return f"with {quote(positions)} positions the key bias does not cancel in the softmax"
    return None


def encoder_names(shape: EncoderShape) -> dict[str, str]:
    """Map canonical names to the names in the bare checkpoint, in the order of execution.

    The pooler's two names come last where the family has one; a checkpoint may lack both.
    """
    names = {
        f"embeddings.{ours}.weight": f"embeddings.{theirs}.weight"
        for ours, theirs in _tables(shape)
    }
    names |= _pair("embeddings.norm", "embeddings.LayerNorm")
    if shape.projects:
        names |= _pair("embeddings.project", "embeddings_project")
    if shape.relative_buckets:
        names["relative.weight"] = "encoder.relative_attention_bias.weight"
    prefix, stems = _LAYER_STEMS[shape.family]
    for layer in range(shape.layers):
        for part, stem in stems.items():
            names |= _pair(f"layers.{layer}.{part}", f"{prefix}.{layer}.{stem}")
    if shape.may_have_pooler:
        names |= _pair("pooler", "pooler.dense")
    return names


def tensor_shapes(shape: EncoderShape) -> dict[str, tuple[int, ...]]:
    """The shape every tensor of `encoder_names` must have; weights are [out, in] as in torch."""
    h, f, e = shape.hidden, shape.ffn, shape.embedding
    linear = {
        "query": (h, h),
        "key": (h, h),
        "value": (h, h),
        "output": (h, h),
        "up": (f, h),
        "down": (h, f),
        "pooler": (h, h),
        "project": (h, e),
    }
    tables = {
        "word": (shape.vocab, e),
        "position": (shape.positions, e),
        "token_type": (shape.token_types, e),
        "relative": (shape.relative_buckets, shape.heads),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name in encoder_names(shape):
        module, _, kind = name.rpartition(".")
        part = module.rpartition(".")[2]
        if part in tables:
            shapes[name] = tables[part]
        elif part in linear:
            shapes[name] = linear[part] if kind == "weight" else linear[part][:1]
        else:
            shapes[name] = (e,) if module == "embeddings.norm" else (h,)
    return shapes


def bias_names(shape: EncoderShape) -> dict[str, str]:
    """The biases that an adapter may offset: canonical name -> checkpoint name."""
    return {ours: theirs for ours, theirs in encoder_names(shape).items() if ours.endswith(".bias")}


def normalise(name: str, family: str) -> str:
    """The name a tensor has in the bare model: wrappers' prefixes and 2018's norm names undone."""
    for prefix in (*_WRAPPERS, f"{family}."):
        name = name.removeprefix(prefix)
    for old, new in _OLD_NORM_NAMES:
        if name.endswith(old):
            return name[: -len(old)] + new
    return name


def head_layout(architecture: str) -> HeadLayout | None:
    """The head that a checkpoint of this transformers class carries; None for every other class."""
    if architecture in _TOKEN_HEADS:
        return HeadLayout(kind="linear", input="token", names=_head_names("", "classifier"))
    return _SEQUENCE_HEADS.get(architecture)


def did_you_mean(name: str, known: Mapping[str, object] | list[str]) -> str:
    """A hint that names the nearest known name, or an empty string; among many none is sought."""
    if len(known) > SUGGEST_AMONG_MAX or len(name) > MAX_QUOTED_CHARACTERS:
        return ""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {quote(near[0])}?" if near else ""


def quote(value: object) -> str:
    """A bounded, always printable literal for a message."""
    text = f"'{value[:MAX_QUOTED_CHARACTERS]}'" if isinstance(value, str) else _bounded_repr(value)
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 3] + "..."


def _head_names(dense: str, out: str) -> Mapping[str, str]:
    return MappingProxyType((_pair("dense", dense) if dense else {}) | _pair("out", out))


def _pair(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


def _sequence_head(kind: str, dense: str, out: str) -> HeadLayout:
    source = "pooler" if kind == "linear" else "cls"
    return HeadLayout(kind=kind, input=source, names=_head_names(dense, out))


_TWO_LAYERS: Final = ("classifier.dense", "classifier.out_proj")
_SEQUENCE_HEADS: Final[Mapping[str, HeadLayout]] = MappingProxyType(
    {
        "BertForSequenceClassification": _sequence_head("linear", "", "classifier"),
        "RobertaForSequenceClassification": _sequence_head("dense-tanh", *_TWO_LAYERS),
        "XLMRobertaForSequenceClassification": _sequence_head("dense-tanh", *_TWO_LAYERS),
        "CamembertForSequenceClassification": _sequence_head("dense-tanh", *_TWO_LAYERS),
        "MPNetForSequenceClassification": _sequence_head("dense-tanh", *_TWO_LAYERS),
        "ElectraForSequenceClassification": _sequence_head("dense-gelu", *_TWO_LAYERS),
        "DistilBertForSequenceClassification": _sequence_head(
            "dense-relu", "pre_classifier", "classifier"
        ),
    }
)
_TOKEN_HEADS: Final = frozenset(
    f"{model}ForTokenClassification"
    for model in ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra", "MPNet")
)


def _tables(shape: EncoderShape) -> Iterator[tuple[str, str]]:
    yield "word", "word_embeddings"
    yield "position", "position_embeddings"
    if shape.token_types:
        yield "token_type", "token_type_embeddings"


def _refuse_remote_code(config: Mapping[str, object]) -> None:
    for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if config.get(key):
            raise errors.BadArtifact(
                f"`{key}` in config.json asks for code that comes with the checkpoint",
                reason="RemoteCode",
                hint="bertd runs no code from checkpoints; name one that its own families cover",
            )


def _family(config: Mapping[str, object]) -> str:
    model_type = config.get("model_type")
    if model_type is None:
        raise _bad("`model_type` is missing", hint='add "model_type": "bert" if it is a plain BERT')
    family = _FAMILY_OF.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise _unsupported(_not_one_of("model_type", model_type, _FAMILY_OF))
    return family


def _refuse_other_arithmetic(config: Mapping[str, object]) -> None:
    for key in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if config.get(key):
            raise _unsupported(f"`{key}` must be false: bertd serves encoders")
    if config.get("pruned_heads"):
        raise _unsupported("`pruned_heads` must be empty")
    positions = config.get("position_embedding_type") or "absolute"
    if positions == "absolute":
        return
    why = fold_refusal(config) or "bertd has no relative key positions"
    raise _unsupported(
        f"`position_embedding_type` must be 'absolute', but it is {quote(positions)}: {why}"
    )


def _position_offset(config: Mapping[str, object], family: str) -> int:
    if family == "mpnet":
        return MPNET_PADDING_ID + 1
    if family == "roberta":
        return _integer(config, "pad_token_id", 0, MAX_POSITIONS, default=1) + 1
    return 0


def _token_types(config: Mapping[str, object], family: str) -> int:
    if family in ("distilbert", "mpnet"):
        return 0
    return _integer(config, "type_vocab_size", 1, MAX_TOKEN_TYPES, default=2)


def _relative_buckets(config: Mapping[str, object]) -> int:
    key = "relative_attention_num_buckets"
    return _integer(config, key, MPNET_BUCKETS, MPNET_BUCKETS, default=MPNET_BUCKETS)


def _norm_eps(config: Mapping[str, object]) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(f"`layer_norm_eps` must be a number, but it is {quote(value)}")
    if not 0 < value < 1 or not math.isfinite(value):
        raise _bad(f"`layer_norm_eps` must lie between 0 and 1, but it is {quote(value)}")
    return float(value)


def _activation(config: Mapping[str, object], key: str) -> str:
    value = config.get(key, "gelu")
    known = _ACTIVATIONS.get(value) if isinstance(value, str) else None
    if known is None:
        raise _unsupported(_not_one_of(key, value, _ACTIVATIONS))
    return known


def _integer(
    config: Mapping[str, object], key: str, low: int, high: int, default: int | None = None
) -> int:
    value = config.get(key, default)
    if value is None:
        raise _bad(f"`{key}` is missing")
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(f"`{key}` must be a whole number, but it is {quote(value)}")
    if not low <= value <= high:
        raise _bad(f"`{key}` must lie between {low} and {high}, but it is {quote(value)}")
    return value


def _not_one_of(key: str, value: object, known: Mapping[str, str]) -> str:
    return f"`{key}` must be one of {', '.join(map(quote, known))}, but it is {quote(value)}"


def _bounded_repr(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "a number of more than 128 bits"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)} items"
    return repr(value)


def _bad(message: str, *, hint: str = "") -> errors.BadArtifact:
    return errors.BadArtifact(f"config.json: {message}", reason="BadConfig", hint=hint)


def _unsupported(message: str) -> errors.BadArtifact:
    return errors.BadArtifact(f"config.json: {message}", reason="UnsupportedArchitecture")
