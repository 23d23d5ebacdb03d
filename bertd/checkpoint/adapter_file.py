"""The adapter format: bias offsets and a head in one safetensors file, with their record.

Tensors are `offset.` + a bias's name in the bare checkpoint (tuned minus base) and `head.` + a
tensor of the head (absolute). The header's metadata says which base and tokenizer they belong to,
how the head computes, what its outputs are called, and how it was trained. The head's tensors are

    linear kind   head.classifier.weight|bias
    dense kinds   head.classifier.dense.weight|bias, head.classifier.out_proj.weight|bias
    pooler input  head.pooler.dense.weight|bias too, where the base has no pooler

`read_info` proves the record alone, `prove` every name, shape and value without converting any;
`parse` and the `read` functions also give the arrays. All take one pass over the file.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import (
    adapter_layout,
    adapter_metadata,
    beneath,
    files,
    safetensors,
    sources,
)
from bertd.checkpoint.adapter_metadata import AdapterInfo, Head

__all__ = [
    "Adapter",
    "AdapterInfo",
    "Head",
    "check_base",
    "encode",
    "parse",
    "prove",
    "read",
    "read_for",
    "read_info",
    "write",
    "write_bytes",
]


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


class Record(TypedDict, total=False):
    """What `encode` and `write` put into a file; arrays have canonical names, as in `Adapter`."""

    shape: Required[families.EncoderShape]
    base_digest: Required[str]
    tokenizer_digest: Required[str]
    head: Required[Head]
    label_names: Required[tuple[str, ...]]
    offsets: Required[Mapping[str, NDArray[np.float32]]]
    head_tensors: Required[Mapping[str, NDArray[np.float32]]]
    temperature: float
    thresholds: Mapping[str, float] | None
    training: Mapping[str, object] | None
    dtype: str


def read_info(path: Path, *, what: str = "") -> AdapterInfo:
    """Read and prove an adapter's header. `what` names the file in messages.

    Raises:
        errors.BadArtifact: reason `PickleRefused`, `BadSafetensors`, `BadMetadata`, `BadJson`,
            `BadLabels` or `TooLarge`.
        errors.Temporary: the disk failed.
    """
    what = what or path.name
    data = beneath.read_file(path, sources.MAX_ADAPTER_BYTES, what)
    split = safetensors.split_header(_prefix(data), what)
    safetensors.parse_table(split.table, len(data) - split.data_start, what)
    return _info(data, split, what)


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
    split = safetensors.split_header(_prefix(data), what)
    info = _info(data, split, what)
    return _adapter(data, split, info, _kind(info, base_shape, has_pooler), what)


def read_for(path: Path, base: files.Base, *, what: str = "") -> Adapter:
    """Read an adapter that must belong to this base, which is proved before its tensors are.

    Raises:
        errors.BadArtifact: as `check_base` and `read`.
        errors.Temporary: the disk failed.
    """
    what = what or path.name
    data = beneath.read_file(path, sources.MAX_ADAPTER_BYTES, what)
    return parse(data, base, what=what)


def parse(data: bytes, base: files.Base, *, what: str = "the adapter") -> Adapter:
    """The adapter in the bytes of a file, which must belong to this base. As `read_for`.

    Raises:
        errors.BadArtifact: as `check_base` and `read`.
    """
    split = safetensors.split_header(_prefix(data), what)
    info = _info(data, split, what)
    check_base(info, base.digest, base.tokenizer_digest, what=what)
    return _adapter(data, split, info, _kind(info, base.shape, base.has_pooler), what)


def prove(data: bytes, base: files.Base, *, what: str = "the adapter") -> AdapterInfo:
    """Prove all that `parse` proves, and convert nothing.

    Raises:
        errors.BadArtifact: as `check_base` and `read`.
    """
    split = safetensors.split_header(_prefix(data), what)
    info = _info(data, split, what)
    check_base(info, base.digest, base.tokenizer_digest, what=what)
    kind = _kind(info, base.shape, base.has_pooler)
    adapter_layout.prove(split.table, memoryview(data)[split.data_start :], kind, what)
    return info


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


def encode(  # noqa: PLR0913  (the whole record of a file)
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
    what: str = "the adapter",
) -> bytes:
    """The bytes of an adapter file, proved; the same input gives the same bytes.

    `offsets` and `head_tensors` have canonical names, as in `Adapter`; `dtype` is F32 or F16.

    Raises:
        errors.BadArtifact: what was given makes no valid adapter, such as a value that float16
            cannot hold.
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
    heads = adapter_layout.head_names(head.kind)
    named = {adapter_layout.OFFSET + biases[ours]: array for ours, array in offsets.items()}
    named |= {adapter_layout.HEAD + heads[ours]: array for ours, array in head_tensors.items()}
    with np.errstate(over="ignore"):  # what float16 cannot hold is refused below, by name
        stored = {name: _stored(array, dtype) for name, array in named.items()}
    data = safetensors.encode(stored, adapter_metadata.build(info))
    if len(data) > sources.MAX_ADAPTER_BYTES:
        raise _bad(what, f"is over the limit of {sources.MAX_ADAPTER_BYTES} bytes", "TooLarge")
    split = safetensors.split_header(_prefix(data), what)
    kind = _kind(_info(data, split, what), shape, "pooler.weight" not in head_tensors)
    adapter_layout.prove(split.table, memoryview(data)[split.data_start :], kind, what)
    return data


def write(path: Path, **record: Unpack[Record]) -> str:
    """Write an adapter (atomically) and return the hex digest of the file. As `encode`.

    Raises:
        errors.BadArtifact: as `encode`; nothing is written then.
        errors.Temporary: the disk failed.
    """
    data = encode(what=path.name, **record)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Put a file into its place at once: whoever opens `path` sees the old bytes or the new.

    Raises:
        errors.Temporary: the disk failed.
    """
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise errors.Temporary(
            f"{path.name} could not be written: {error.strerror}", reason="DiskError"
        ) from error
    finally:
        if temporary:
            os.unlink(temporary)


def _prefix(data: bytes) -> bytes:
    return data[: safetensors.LENGTH_BYTES + safetensors.MAX_HEADER_BYTES]


def _info(data: bytes, split: safetensors.Split, what: str) -> AdapterInfo:
    digest = hashlib.sha256(data).hexdigest()
    return adapter_metadata.parse(split.metadata, what, digest=digest, file_bytes=len(data))


def _kind(info: AdapterInfo, shape: families.EncoderShape, has_pooler: bool) -> adapter_layout.Kind:
    return adapter_layout.Kind(
        head=info.head.kind,
        input=info.head.input,
        labels=len(info.label_names),
        shape=shape,
        has_pooler=has_pooler,
    )


def _adapter(
    data: bytes, split: safetensors.Split, info: AdapterInfo, kind: adapter_layout.Kind, what: str
) -> Adapter:
    body = memoryview(data)[split.data_start :]
    layout = adapter_layout.prove(split.table, body, kind, what)
    arrays = {key: _array(body, tensor) for key, tensor in layout.tensors.items()}
    return Adapter(
        info=info,
        offsets=_section(arrays, adapter_layout.OFFSET),
        head=_section(arrays, adapter_layout.HEAD),
    )


def _array(body: memoryview, tensor: safetensors.TensorInfo) -> NDArray[np.float32]:
    """A copy: a view would keep the whole file's bytes alive."""
    data = body[tensor.start : tensor.end]
    if tensor.dtype == "BF16":
        return safetensors.to_float32(data, tensor)
    flat = np.frombuffer(data, "<f4" if tensor.dtype == "F32" else "<f2").astype(np.float32)
    return flat.reshape(tensor.shape)


def _section(
    arrays: Mapping[str, NDArray[np.float32]], section: str
) -> dict[str, NDArray[np.float32]]:
    return {key[len(section) :]: array for key, array in arrays.items() if key.startswith(section)}


def _stored(array: NDArray[np.float32], dtype: str) -> safetensors.Floats:
    return array.astype(np.float16) if dtype == "F16" else array.astype(np.float32)


def _bad(what: str, why: str, reason: str) -> errors.BadArtifact:
    return errors.BadArtifact(f"{what} {why}", reason=reason)
