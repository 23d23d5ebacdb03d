"""Which tensors an adapter file may and must hold, and the proof that it holds them.

Thousands of adapters of one recipe have one table of tensors, byte for byte, so the last tables
that were proved are remembered: what is left for the next file is a look at its values.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import files, safetensors

OFFSET: Final = "offset."
HEAD: Final = "head."
MAX_REMEMBERED_TABLES: Final = 256
MAX_REMEMBERED_CHARACTERS: Final = 32 * 1024

# canonical part of a head -> its module in the file
_LINEAR: Final[Mapping[str, str]] = MappingProxyType(
    {"out": "classifier", "pooler": "pooler.dense"}
)
_DENSE: Final[Mapping[str, str]] = MappingProxyType(
    {"dense": "classifier.dense", "out": "classifier.out_proj", "pooler": "pooler.dense"}
)
# Patterns of which all exponent bits are set: infinities and NaNs, and nothing else.
_EXPONENT: Final[Mapping[str, int]] = MappingProxyType(
    {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """All that decides which tensors an adapter has: its head's record and its base."""

    head: str
    input: str
    labels: int
    shape: families.EncoderShape
    has_pooler: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A proved table: canonical name with its section -> tensor; `dtype` if it has but one."""

    tensors: Mapping[str, safetensors.TensorInfo]
    dtype: str


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor that a file may hold: its canonical name with its section, and its shape."""

    key: str
    shape: tuple[int, ...]


def prove(table: str, body: memoryview, kind: Kind, what: str) -> Layout:
    """Prove names, shapes, dtypes and values of the tensors in `body`, the bytes behind a header.

    Raises:
        errors.BadArtifact: reason `BadSafetensors`, `UnknownTensor`, `WrongShape`,
            `UnsupportedDtype`, `NotFinite` or `MissingHead`, naming the tensor.
    """
    layout = _layout(table, len(body), kind, what)
    if not layout.dtype or not _are_finite(body, layout.dtype):
        for tensor in layout.tensors.values():
            if not _are_finite(body[tensor.start : tensor.end], tensor.dtype):
                raise _bad(
                    what, f"has NaN or infinity in {families.quote(tensor.name)}", "NotFinite"
                )
    return layout


def head_names(kind: str) -> dict[str, str]:
    """Canonical head tensor -> its name in the file, for every tensor a head may bring."""
    stems = _LINEAR if kind == "linear" else _DENSE
    return {
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in stems.items()
        for part in ("weight", "bias")
    }


def _layout(table: str, data_bytes: int, kind: Kind, what: str) -> Layout:
    if len(table) > MAX_REMEMBERED_CHARACTERS:
        return _proved(table, data_bytes, kind, what)
    try:
        return _remembered(table, data_bytes, kind)
    except errors.BadArtifact:
        return _proved(table, data_bytes, kind, what)  # once more, to name this file


@functools.lru_cache(maxsize=MAX_REMEMBERED_TABLES)
def _remembered(table: str, data_bytes: int, kind: Kind) -> Layout:
    return _proved(table, data_bytes, kind, "the adapter")


def _proved(table: str, data_bytes: int, kind: Kind, what: str) -> Layout:
    slots = _slots(kind)
    found: dict[str, safetensors.TensorInfo] = {}
    for name, tensor in safetensors.parse_table(table, data_bytes, what).items():
        section, dot, rest = name.partition(".")
        slot = slots.get(section + dot + families.normalise(rest, kind.shape.family))
        if slot is None:
            raise _unknown(name, slots, what)
        if slot.key in found:
            raise _bad(what, f"holds {families.quote(name)} under two names", "UnknownTensor")
        _check(tensor, slot.shape, what)
        found[slot.key] = tensor
    for name, slot in slots.items():
        if slot.key.startswith(HEAD) and slot.key not in found:
            raise _bad(what, f"lacks '{name}', which its `bertd.head` needs", "MissingHead")
    dtypes = {tensor.dtype for tensor in found.values()}
    return Layout(tensors=MappingProxyType(found), dtype=dtypes.pop() if len(dtypes) == 1 else "")


def _slots(kind: Kind) -> dict[str, _Slot]:
    """Every tensor that an adapter of this kind may hold, by its name in the file."""
    shapes = families.tensor_shapes(kind.shape)
    slots = {
        OFFSET + theirs: _Slot(OFFSET + ours, shapes[ours])
        for ours, theirs in families.bias_names(kind.shape).items()
        if kind.has_pooler or ours not in families.POOLER
    }
    hidden = kind.shape.hidden
    head = files.head_shapes(kind.head, hidden, kind.labels)
    if kind.input == "pooler" and not kind.has_pooler:
        head |= {"pooler.weight": (hidden, hidden), "pooler.bias": (hidden,)}
    names = head_names(kind.head)
    return slots | {HEAD + names[ours]: _Slot(HEAD + ours, head[ours]) for ours in head}


def _check(tensor: safetensors.TensorInfo, shape: tuple[int, ...], what: str) -> None:
    quoted = families.quote(tensor.name)
    if tensor.shape != shape:
        raise _bad(
            what,
            f"has {quoted} with shape {list(tensor.shape)}; it must be {list(shape)}",
            "WrongShape",
        )
    if tensor.dtype not in safetensors.FLOATS:
        raise _bad(
            what,
            f"has {quoted} with dtype {tensor.dtype}; it must be one of "
            f"{', '.join(safetensors.FLOATS)}",
            "UnsupportedDtype",
        )


def _are_finite(data: memoryview, dtype: str) -> bool:
    """By bit pattern: converting float16 would cost ten times as much as reading it."""
    bits: NDArray[np.unsignedinteger] = np.frombuffer(data, "<u4" if dtype == "F32" else "<u2")
    exponent = bits.dtype.type(_EXPONENT[dtype])
    return not ((bits & exponent) == exponent).any()


def _unknown(name: str, slots: Mapping[str, _Slot], what: str) -> errors.BadArtifact:
    hint = families.did_you_mean(name, list(slots))
    if name.startswith(OFFSET) and not name.endswith(".bias"):
        hint = "an adapter offsets biases only; weights belong to the base"
    return _bad(
        what, f"holds the unknown tensor {families.quote(name)}", "UnknownTensor", hint=hint
    )


def _bad(what: str, why: str, reason: str, *, hint: str = "") -> errors.BadArtifact:
    return errors.BadArtifact(f"{what} {why}", reason=reason, hint=hint)
