"""What a base is, read from its files alone: shape, names, pooling, head, length, digest.

Everything is proved from JSON and safetensors headers before any weight is touched: every encoder
tensor that the config promises is there with its shape and a float dtype, and none that it does not
promise. Buffers and the heads of other tasks are ignored by name.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bertd import errors, families
from bertd.checkpoint import beneath, declared, digest, json_text, safetensors, sources

_BUFFERS: Final = ("embeddings.position_ids", "embeddings.token_type_ids")
_HEADS: Final = (
    "classifier.",
    "cls.",
    "discriminator_predictions.",
    "generator_lm_head.",
    "generator_predictions.",
    "lm_head.",
    "pre_classifier.",
    "qa_outputs.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "vocab_transform.",
)
_SHOWN_NAMES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base as its files describe it.

    `names` maps canonical names (the head's with the prefix `head.`) to the names in the weight
    files. `problem` is one of `declared.PROBLEMS`, and empty without a head. Digests are hex
    sha256; `tokenizer_digest` is that of `tokenizer.json`.
    """

    shape: families.EncoderShape
    family: str
    architecture: str
    config: Mapping[str, object]
    pooling: declared.Pooling
    max_length: int
    head: families.HeadLayout | None
    label_names: tuple[str, ...]
    problem: str
    weights: tuple[Path, ...]
    tokenizer: Path
    names: Mapping[str, str]
    has_pooler: bool
    digest: str
    tokenizer_digest: str


def describe(files: Mapping[str, Path]) -> Base:
    """Describe the base in these files: name relative to the checkpoint -> path in the store.

    Reads all weights once, for the digest, in chunks; maps nothing.

    Raises:
        errors.BadArtifact: naming the file and the key or tensor; reason `MissingFile`, `BadJson`,
            `BadConfig`, `BadLabels`, `UnsupportedArchitecture`, `UnsupportedModule`, `RemoteCode`,
            `PickleRefused`, `BadSafetensors`, `MissingTensor`, `UnexpectedTensor`, `WrongShape`,
            `UnsupportedDtype`, `MissingHead` or `BadIndex`.
        errors.Temporary: the disk failed.
    """
    texts = {name: _read(files, name) for name in files if name.endswith(".json")}
    for name in (sources.CONFIG, sources.TOKENIZER):
        if name not in texts:
            raise _missing_file(name)
    config = json_text.parse_object(texts[sources.CONFIG], sources.CONFIG)
    shape = families.shape(config)
    weights = {name: files[name] for name in sorted(files) if name.endswith(".safetensors")}
    located = _by_bare_name(_locate(weights, texts.get(sources.INDEX)), shape.family)
    encoder = _check_encoder(shape, located)
    architecture = declared.architecture(config)
    head = families.head_layout(architecture)
    labels = 0 if head is None else _check_head(head, shape, located, "pooler.weight" in encoder)
    names = encoder | ({f"head.{ours}": name for ours, name in head.names.items()} if head else {})
    return Base(
        shape=shape,
        family=shape.family,
        architecture=architecture,
        config=config,
        pooling=declared.pooling(texts),
        max_length=declared.max_length(texts, shape),
        head=head,
        label_names=declared.label_names(config, labels) if head else (),
        problem=declared.problem(config, head, labels) if head else "",
        weights=tuple(weights.values()),
        tokenizer=files[sources.TOKENIZER],
        names={ours: located[name].info.name for ours, name in names.items()},
        has_pooler="pooler.weight" in encoder,
        digest=digest.base_digest(shape, {name: located[name] for name in encoder.values()}),
        tokenizer_digest=hashlib.sha256(texts[sources.TOKENIZER]).hexdigest(),
    )


def _locate(weights: Mapping[str, Path], index: bytes | None) -> dict[str, safetensors.Located]:
    if not weights:
        raise _missing_file(sources.WEIGHTS)
    located = safetensors.locate(weights)
    if index is not None:
        _check_index(index, weights, located)
    return located


def _check_index(
    index: bytes, weights: Mapping[str, Path], located: Mapping[str, safetensors.Located]
) -> None:
    shards = sources.shard_map(index)
    for name, shard in shards.items():
        if name not in located or located[name].path != weights.get(shard):
            raise errors.BadArtifact(
                f"{sources.INDEX} says that {families.quote(name)} lies in "
                f"{families.quote(shard)}, but it does not",
                reason="BadIndex",
            )


def _by_bare_name(
    located: Mapping[str, safetensors.Located], family: str
) -> dict[str, safetensors.Located]:
    found: dict[str, safetensors.Located] = {}
    for name, at in located.items():
        bare = families.normalise(name, family)
        if bare in found:
            raise errors.BadArtifact(
                f"the weights hold both {families.quote(found[bare].info.name)} and "
                f"{families.quote(name)}, which are one tensor",
                reason="UnexpectedTensor",
            )
        found[bare] = at
    return found


def _check_encoder(
    shape: families.EncoderShape, located: Mapping[str, safetensors.Located]
) -> dict[str, str]:
    """Canonical -> bare names of the encoder's tensors, each proved against the config."""
    names = families.encoder_names(shape)
    if not any(names.get(ours) in located for ours in families.POOLER):
        names = {ours: name for ours, name in names.items() if ours not in families.POOLER}
    missing = [name for name in names.values() if name not in located]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:_SHOWN_NAMES])
        more = f" and {len(missing) - _SHOWN_NAMES} more" if len(missing) > _SHOWN_NAMES else ""
        raise errors.BadArtifact(
            f"the weights lack {shown}{more}, which config.json promises", reason="MissingTensor"
        )
    known = set(names.values())
    for name in located:
        if name not in known and name not in _BUFFERS and not name.startswith(_HEADS):
            raise errors.BadArtifact(
                f"the weights hold the unexpected tensor {families.quote(name)}",
                reason="UnexpectedTensor",
                hint=families.did_you_mean(name, list(known)),
            )
    shapes = families.tensor_shapes(shape)
    for ours, name in names.items():
        _check_tensor(located[name].info, shapes[ours])
    return names


def _check_head(
    head: families.HeadLayout,
    shape: families.EncoderShape,
    located: Mapping[str, safetensors.Located],
    has_pooler: bool,
) -> int:
    """Prove the checkpoint's own head and return its number of labels."""
    for name in head.names.values():
        if name not in located:
            raise errors.BadArtifact(
                f"the weights lack '{name}' of the head that config.json's `architectures` names",
                reason="MissingHead",
            )
    if head.input == "pooler" and not has_pooler:
        raise errors.BadArtifact(
            "the weights lack the pooler that the head reads", reason="MissingHead"
        )
    weight = located[head.names["out.weight"]].info
    labels = weight.shape[0] if weight.shape else 0
    if not 1 <= labels <= declared.MAX_LABELS:
        raise errors.BadArtifact(
            f"'{weight.name}' must have 1 to {declared.MAX_LABELS} rows", reason="WrongShape"
        )
    shapes = head_shapes(head.kind, shape.hidden, labels)
    for ours, name in head.names.items():
        _check_tensor(located[name].info, shapes[ours])
    return labels


def head_shapes(kind: str, hidden: int, labels: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a head's tensors by canonical name; weights are [out, in]."""
    out: dict[str, tuple[int, ...]] = {"out.weight": (labels, hidden), "out.bias": (labels,)}
    if kind == "linear":
        return out
    return {"dense.weight": (hidden, hidden), "dense.bias": (hidden,)} | out


def _check_tensor(info: safetensors.TensorInfo, shape: tuple[int, ...]) -> None:
    if info.shape != shape:
        raise errors.BadArtifact(
            f"{families.quote(info.name)} has shape {list(info.shape)}; config.json asks for "
            f"{list(shape)}",
            reason="WrongShape",
        )
    if info.dtype not in safetensors.FLOATS:
        raise errors.BadArtifact(
            f"{families.quote(info.name)} has dtype {info.dtype}; it must be one of "
            f"{', '.join(safetensors.FLOATS)}",
            reason="UnsupportedDtype",
        )


def _read(files: Mapping[str, Path], name: str) -> bytes:
    limit = sources.MAX_TOKENIZER_BYTES if name == sources.TOKENIZER else sources.MAX_JSON_BYTES
    return beneath.read_file(files[name], limit, name)


def _missing_file(name: str) -> errors.BadArtifact:
    return errors.BadArtifact(f"the checkpoint has no '{name}'", reason="MissingFile")
