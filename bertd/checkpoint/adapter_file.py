"""The adapter format: bias offsets and a head in one safetensors file, with their record.

Tensors are `offset.` + a bias's name in the bare checkpoint (tuned minus base) and `head.` + a
tensor of the head (absolute). The header's metadata says which base and tokenizer they belong to,
how the head computes, what its outputs are called, and how it was trained. The head's tensors are

    linear kind   head.classifier.weight|bias
    dense kinds   head.classifier.dense.weight|bias, head.classifier.out_proj.weight|bias
    pooler input  head.pooler.dense.weight|bias too, where the base has no pooler

`read_info` costs one pass over the file and holds no tensor; `read` proves and loads everything.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import adapter_metadata, beneath, files, safetensors, sources
from bertd.checkpoint.adapter_metadata import AdapterInfo, Head

__all__ = ["Adapter", "AdapterInfo", "Head", "check_base", "read", "read_info", "write"]

OFFSET: Final = "offset."
HEAD: Final = "head."

# canonical part of a head -> its module in the file
_LINEAR: Final[Mapping[str, str]] = MappingProxyType(
    {"out": "classifier", "pooler": "pooler.dense"}
)
_DENSE: Final[Mapping[str, str]] = MappingProxyType(
    {"dense": "classifier.dense", "out": "classifier.out_proj", "pooler": "pooler.dense"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A whole adapter: float32 arrays, finite, of the shapes that the base asks for.

    `offsets` has canonical bias names, those that the file leaves out being zero; `head` has
    `out.weight` [labels, hidden], `out.bias`, `dense.*` for dense kinds, and `pooler.*` where the
    head reads a pooler that the base lacks.
    """

    info: AdapterInfo
    offsets: Mapping[str, NDArray[np.float32]]
    head: Mapping[str, NDArray[np.float32]]


def read_info(path: Path, *, what: str = "") -> AdapterInfo:
    """Read and prove an adapter's header. `what` names the file in messages.

    Raises:
        errors.BadArtifact: reason `PickleRefused`, `BadSafetensors`, `BadMetadata`, `BadJson`,
            `BadLabels` or `TooLarge`.
        errors.Temporary: the disk failed.
    """
    what = what or path.name
    data = beneath.read_file(path, sources.MAX_ADAPTER_BYTES, what)
    return adapter_metadata.parse(_header(data, what).metadata, data, what)


def read(
    path: Path, base_shape: families.EncoderShape, has_pooler: bool, *, what: str = ""
) -> Adapter:
    """Read an adapter for a base of this shape, proving every name, shape and value.

    Raises:
        errors.BadArtifact: as `read_info`, or reason `UnknownTensor`, `WrongShape`,
            `UnsupportedDtype`, `NotFinite` or `MissingHead`, naming the tensor.
        errors.Temporary: the disk failed.
    """
    what = what or path.name
    data = beneath.read_file(path, sources.MAX_ADAPTER_BYTES, what)
    header = _header(data, what)
    info = adapter_metadata.parse(header.metadata, data, what)
    slots = _slots(info, base_shape, has_pooler)
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, tensor in header.tensors.items():
        section, dot, rest = name.partition(".")
        slot = slots.get(section + dot + families.normalise(rest, base_shape.family))
        if slot is None:
            raise _unknown(name, slots, what)
        if slot.key in arrays:
            raise _bad(what, f"holds {families.quote(name)} under two names", "UnknownTensor")
        arrays[slot.key] = _array(data, tensor, slot.shape, what)
    _refuse_missing(slots, arrays, what)
    return Adapter(
        info=info,
        offsets={key[len(OFFSET) :]: a for key, a in arrays.items() if key.startswith(OFFSET)},
        head={key[len(HEAD) :]: a for key, a in arrays.items() if key.startswith(HEAD)},
    )


def read_for(path: Path, base: files.Base, *, what: str = "") -> Adapter:
    """Read an adapter that must belong to this base, which is proved before its tensors are.

    Raises:
        errors.BadArtifact: as `check_base` and `read`.
        errors.Temporary: the disk failed.
    """
    check_base(read_info(path, what=what), base.digest, base.tokenizer_digest, what=what)
    return read(path, base.shape, base.has_pooler, what=what)


def check_base(
    info: AdapterInfo, base_digest: str, tokenizer_digest: str, *, what: str = ""
) -> None:
    """Prove that an adapter was made for this base and this tokenizer. `what` names the file.

    Raises:
        errors.BadArtifact: reason `WrongBase` or `WrongTokenizer`, with both digests.
    """
    for wanted, found, word, reason in (
        (info.base_digest, base_digest, "base", "WrongBase"),
        (info.tokenizer_digest, tokenizer_digest, "tokenizer", "WrongTokenizer"),
    ):
        if wanted != found:
            raise errors.BadArtifact(
                f"{what or 'the adapter'} belongs to the {word} sha256:{wanted}, "
                f"but the model's {word} is sha256:{found}",
                reason=reason,
                hint=f"train it on this {word}, or declare a model on that one",
            )


def write(  # noqa: PLR0913  (the whole record of a file; all but the path by keyword)
    path: Path,
    *,
    shape: families.EncoderShape,
    base_digest: str,
    tokenizer_digest: str,
    head: Head,
    label_names: tuple[str, ...],
    offsets: Mapping[str, NDArray[np.float32]],
    head_tensors: Mapping[str, NDArray[np.float32]],
    temperature: float = 1.0,
    thresholds: Mapping[str, float] | None = None,
    training: Mapping[str, object] | None = None,
    dtype: str = "F32",
) -> str:
    """Write an adapter (atomically) and return the hex digest of the file.

    `offsets` and `head_tensors` have canonical names, as in `Adapter`; `dtype` is F32 or F16. The
    same input gives the same bytes. The file is read back before it takes its name.

    Raises:
        errors.BadArtifact: what was given makes no valid adapter, such as a value that float16
            cannot hold.
        errors.Temporary: the disk failed.
    """
    info = AdapterInfo(
        base_digest=base_digest,
        tokenizer_digest=tokenizer_digest,
        head=head,
        label_names=label_names,
        temperature=temperature,
        thresholds=thresholds or {},
        training=training or {},
        digest="",
        file_bytes=0,
    )
    biases = families.bias_names(shape)
    heads = _head_names(head.kind)
    named = {OFFSET + biases[ours]: array for ours, array in offsets.items()}
    named |= {HEAD + heads[ours]: array for ours, array in head_tensors.items()}
    with np.errstate(over="ignore"):  # what float16 cannot hold is refused below, by name
        stored = {name: _stored(array, dtype) for name, array in named.items()}
    data = safetensors.encode(stored, adapter_metadata.build(info))
    _write_checked(path, data, shape, has_pooler="pooler.weight" not in head_tensors)
    return hashlib.sha256(data).hexdigest()


def _stored(array: NDArray[np.float32], dtype: str) -> safetensors.Floats:
    return array.astype(np.float16) if dtype == "F16" else array.astype(np.float32)


def _write_checked(
    path: Path, data: bytes, shape: families.EncoderShape, *, has_pooler: bool
) -> None:
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        read(Path(temporary), shape, has_pooler, what=path.name)
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise errors.Temporary(
            f"{path.name} could not be written: {error.strerror}", reason="DiskError"
        ) from error
    finally:
        if temporary:
            os.unlink(temporary)


def _header(data: bytes, what: str) -> safetensors.Header:
    prefix = data[: safetensors.LENGTH_BYTES + safetensors.MAX_HEADER_BYTES]
    return safetensors.parse_header(prefix, len(data), what)


def _head_names(kind: str) -> dict[str, str]:
    """Canonical head tensor -> its name in the file, for every tensor a head may bring."""
    stems = _LINEAR if kind == "linear" else _DENSE
    return {
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in stems.items()
        for part in ("weight", "bias")
    }


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor that a file may hold: its canonical name with its section, and its shape."""

    key: str
    shape: tuple[int, ...]


def _slots(info: AdapterInfo, shape: families.EncoderShape, has_pooler: bool) -> dict[str, _Slot]:
    """Every tensor that an adapter with this record may hold, by its name in the file."""
    shapes = families.tensor_shapes(shape)
    slots = {
        OFFSET + theirs: _Slot(OFFSET + ours, shapes[ours])
        for ours, theirs in families.bias_names(shape).items()
        if has_pooler or ours not in families.POOLER
    }
    head = files.head_shapes(info.head.kind, shape.hidden, len(info.label_names))
    if info.head.input == "pooler" and not has_pooler:
        head |= {"pooler.weight": (shape.hidden, shape.hidden), "pooler.bias": (shape.hidden,)}
    names = _head_names(info.head.kind)
    return slots | {HEAD + names[ours]: _Slot(HEAD + ours, head[ours]) for ours in head}


def _array(
    data: bytes, tensor: safetensors.TensorInfo, shape: tuple[int, ...], what: str
) -> NDArray[np.float32]:
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
    # A copy: a view would keep the whole file's bytes alive.
    array = safetensors.to_float32(data[tensor.start : tensor.end], tensor)
    if not np.isfinite(array).all():
        raise _bad(what, f"has NaN or infinity in {quoted}", "NotFinite")
    return array


def _refuse_missing(
    slots: Mapping[str, _Slot], arrays: Mapping[str, NDArray[np.float32]], what: str
) -> None:
    for name, slot in slots.items():
        if slot.key.startswith(HEAD) and slot.key not in arrays:
            raise _bad(what, f"lacks '{name}', which its `bertd.head` needs", "MissingHead")


def _unknown(name: str, slots: Mapping[str, _Slot], what: str) -> errors.BadArtifact:
    hint = families.did_you_mean(name, list(slots))
    if name.startswith(OFFSET) and not name.endswith(".bias"):
        hint = "an adapter offsets biases only; weights belong to the base"
    return _bad(
        what, f"holds the unknown tensor {families.quote(name)}", "UnknownTensor", hint=hint
    )


def _bad(what: str, why: str, reason: str, *, hint: str = "") -> errors.BadArtifact:
    return errors.BadArtifact(f"{what} {why}", reason=reason, hint=hint)
