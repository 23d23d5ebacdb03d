"""The safetensors format, read as hostile input and written plainly.

A file is eight bytes of header length (little endian), a JSON header that gives every tensor's
dtype, shape and byte range, then the tensors without gaps. The reference reader accepts duplicate
keys and any number of tensors; this one bounds both before it allocates anything, and takes a file
only if its tensors fill it exactly, so a truncated or half-written file never passes.

Source of the format: https://github.com/huggingface/safetensors#format
"""

import dataclasses
import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import beneath, json_text

MAX_HEADER_BYTES: Final = 1024 * 1024
MAX_TENSORS: Final = 4_096
MAX_RANK: Final = 8
MAX_NAME_CHARACTERS: Final = 256
MAX_DIMENSION: Final = 2**40
LENGTH_BYTES: Final = 8
FLOATS: Final = ("F32", "F16", "BF16")

Floats = NDArray[np.float32] | NDArray[np.float16]

_ITEM_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "BOOL": 1,
        "U8": 1,
        "I8": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "I16": 2,
        "U16": 2,
        "F16": 2,
        "BF16": 2,
        "I32": 4,
        "U32": 4,
        "F32": 4,
        "I64": 8,
        "U64": 8,
        "F64": 8,
    }
)
# Each of these, read as a header length, is far over the limit: no valid file begins so.
_FOREIGN: Final = (
    (b"PK", "a zip archive, as torch.save writes it around a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
)
_METADATA: Final = "__metadata__"
_BEGIN: Final = b'{"__metadata__":'
_CONVERT: Final = "convert it to safetensors offline; bertd reads no other weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor's entry; `start` and `end` are byte offsets from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says it holds, proved consistent with its length."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A header in two: the metadata, and the table of tensors as text, which many files share."""

    metadata: Mapping[str, str]
    table: str
    data_start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A tensor and the file that holds it."""

    path: Path
    info: TensorInfo


def read_header(fd: int, what: str = "the file") -> Header:
    """Read and prove the header of an opened file; maps nothing. `what` names it in messages.

    Raises:
        errors.BadArtifact: reason `PickleRefused` or `BadSafetensors`, one message per fault.
        errors.Temporary: the disk failed.
    """
    try:
        prefix = os.pread(fd, LENGTH_BYTES + MAX_HEADER_BYTES, 0)
        file_bytes = os.fstat(fd).st_size
    except OSError as error:
        beneath.refuse(error, what)
    return parse_header(prefix, file_bytes, what)


def parse_header(prefix: bytes, file_bytes: int, what: str = "the file") -> Header:
    """Prove the header in a file's first bytes, where the whole file has `file_bytes`.

    Raises:
        errors.BadArtifact: as `read_header`.
    """
    split = split_header(prefix, what)
    tensors = parse_table(split.table, file_bytes - split.data_start, what)
    moved = {
        name: dataclasses.replace(
            info, start=info.start + split.data_start, end=info.end + split.data_start
        )
        for name, info in tensors.items()
    }
    return Header(tensors=moved, metadata=split.metadata)


def split_header(prefix: bytes, what: str = "the file") -> Split:
    """Take the header in a file's first bytes apart; `parse_table` proves its second part.

    Raises:
        errors.BadArtifact: as `read_header`.
    """
    raw = _header_text(prefix, what)
    data_start = LENGTH_BYTES + int.from_bytes(prefix[:LENGTH_BYTES], "little")
    metadata, table = _apart(raw, f"the header of {what}")
    return Split(metadata=_metadata(metadata, what), table=table, data_start=data_start)


def parse_table(table: str, data_bytes: int, what: str = "the file") -> dict[str, TensorInfo]:
    """Prove a table whose tensors must fill `data_bytes`; offsets count from the header's end.

    Raises:
        errors.BadArtifact: as `read_header`.
    """
    entries = json_text.parse_object(table, f"the header of {what}")
    if _METADATA in entries:
        _refuse(what, f"has `{_METADATA}` twice")
    if len(entries) > MAX_TENSORS:
        _refuse(what, f"has {len(entries)} tensors; the limit is {MAX_TENSORS}")
    tensors = {name: _tensor(name, entry, what) for name, entry in entries.items()}
    _refuse_gaps(tensors, data_bytes, what)
    return tensors


def locate(files: Mapping[str, Path]) -> dict[str, Located]:
    """Read the headers of one checkpoint's files (name for messages -> path) and join them.

    Raises:
        errors.BadArtifact: as `read_header`, or a tensor lies in two files.
        errors.Temporary: the disk failed.
    """
    found: dict[str, Located] = {}
    for what, path in files.items():
        fd = _open(path, what)
        try:
            header = read_header(fd, what)
        finally:
            os.close(fd)
        for name, info in header.tensors.items():
            if name in found:
                _refuse(what, f"holds {families.quote(name)} again; another shard has it too")
            found[name] = Located(path=path, info=info)
        if len(found) > MAX_TENSORS:
            _refuse(what, f"brings the checkpoint over the limit of {MAX_TENSORS} tensors")
    return found


class Weights:
    """The tensors of one checkpoint, mapped; nothing is read before it is touched.

    For the worker and for tools alone: a mapped file that shrinks kills its reader, so only files
    of the content-addressed store may be opened. The mapping is private: files never change, and
    arrays stay valid after `close`.
    """

    def __init__(self, located: Mapping[str, Located]) -> None:
        self._located = dict(located)
        self._maps = {path: _map(path) for path in {at.path for at in located.values()}}
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: at.info for name, at in located.items()}
        )

    @classmethod
    def open(cls, paths: Sequence[Path]) -> Self:
        """Prove the headers of a single file or of all shards, and map them.

        Raises:
            errors.BadArtifact: a file is not what it must be.
            errors.Temporary: the disk failed.
        """
        return cls(locate({path.name: path for path in paths}))

    def buffer(self, name: str) -> memoryview:
        """One tensor's bytes, in place."""
        at = self._located[name]
        return memoryview(self._maps[at.path])[at.info.start : at.info.end]

    def array(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32: in place (never write there) or converted.

        Raises:
            errors.BadArtifact: reason `UnsupportedDtype`.
        """
        return to_float32(self.buffer(name), self.tensors[name])

    def close(self) -> None:
        """Let go of the mappings; each ends when the last array over it does."""
        self._maps.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_float32(data: bytes | memoryview, info: TensorInfo) -> NDArray[np.float32]:
    """A tensor's bytes as a float32 array of its shape; a view where they are aligned float32.

    Raises:
        errors.BadArtifact: reason `UnsupportedDtype`.
    """
    if info.dtype not in FLOATS:
        raise errors.BadArtifact(
            f"{families.quote(info.name)} has dtype {info.dtype}; it must be one of "
            f"{', '.join(FLOATS)}",
            reason="UnsupportedDtype",
        )
    if info.dtype == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(info.shape)
    array = np.frombuffer(data, "<f4" if info.dtype == "F32" else "<f2").reshape(info.shape)
    return np.require(array, np.float32, ["C", "ALIGNED"])


def encode(tensors: Mapping[str, Floats], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with these tensors (float32 or float16), the same for the same input."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts = []
    end = 0
    for name, array in sorted(tensors.items()):
        half = array.dtype == np.float16
        data = np.ascontiguousarray(array, "<f2" if half else "<f4").tobytes()
        start, end = end, end + len(data)
        header[name] = {
            "dtype": "F16" if half else "F32",
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        parts.append(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % LENGTH_BYTES)
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, *parts))


def _header_text(prefix: bytes, what: str) -> bytes:
    if len(prefix) < LENGTH_BYTES:
        _refuse(what, f"has {len(prefix)} bytes: too short for a safetensors file")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        _refuse_foreign(prefix, what)
        _refuse(what, f"says its header has {length} bytes; the limit is {MAX_HEADER_BYTES}")
    text = prefix[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        _refuse(what, f"says its header has {length} bytes, but ends after {len(text)} of them")
    if not text.startswith(b"{"):
        _refuse(what, "must have a header that begins with '{'")
    return text


def _refuse_foreign(prefix: bytes, what: str) -> None:
    pickled = prefix[0] == 0x80 and prefix[1] <= 5 and prefix[2] != 0
    kinds = (
        ["a pickle"] if pickled else [kind for magic, kind in _FOREIGN if prefix.startswith(magic)]
    )
    if kinds:
        reason = "PickleRefused" if "pickle" in kinds[0] else "UnsupportedFormat"
        raise errors.BadArtifact(f"{what} is {kinds[0]}", reason=reason, hint=_CONVERT)


def _apart(raw: bytes, what: str) -> tuple[object, str]:
    """Metadata and table; only where the metadata comes first is the table's text left as it is."""
    if raw.startswith(_BEGIN) and (found := json_text.parse_first(raw, len(_BEGIN), what)):
        value, rest = found
        if rest[:2] == ',"':
            return value, "{" + rest[1:]
    entries = json_text.parse_object(raw, what)
    return entries.pop(_METADATA, {}), json.dumps(entries)


def _metadata(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse(what, "has metadata that is not a mapping of strings")
    for key, text in value.items():
        if not isinstance(text, str):
            _refuse(what, f"has metadata {families.quote(key)} that is not a string")
    return value


def _tensor(name: str, entry: object, what: str) -> TensorInfo:
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        _refuse(what, f"has a tensor name that is empty, unprintable or over {MAX_NAME_CHARACTERS}")
    quoted = families.quote(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(what, f"must give {quoted} a `dtype`, a `shape` and `data_offsets`, no more")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        _refuse(what, f"gives {quoted} the unknown dtype {families.quote(dtype)}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        _refuse(what, f"gives {quoted} a bad `shape`")
    if not _are_sizes(offsets) or len(offsets) != 2:
        _refuse(what, f"gives {quoted} bad `data_offsets`")
    start, end = offsets
    needed = math.prod(shape) * _ITEM_BYTES[dtype]
    if end - start != needed:
        _refuse(what, f"gives {quoted} {end - start} bytes, but its dtype and shape need {needed}")
    return TensorInfo(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        start=start,
        end=end,
    )


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MAX_DIMENSION
        for item in value
    )


def _refuse_gaps(tensors: Mapping[str, TensorInfo], data_bytes: int, what: str) -> None:
    cursor = 0
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start < cursor:
            _refuse(what, f"has {families.quote(info.name)} overlapping the tensor before it")
        if info.start > cursor:
            _refuse(what, f"has a hole of {info.start - cursor} bytes before '{info.name}'")
        cursor = info.end
    if cursor > data_bytes:
        _refuse(what, f"is truncated: its tensors need {cursor} bytes, but it has {data_bytes}")
    if cursor < data_bytes:
        _refuse(what, f"has {data_bytes - cursor} bytes that belong to no tensor")


def _open(path: Path, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        beneath.refuse(error, what)


def _map(path: Path) -> mmap.mmap:
    fd = _open(path, path.name)
    try:
        # Private, not read-only: torch warns about memory that it may not write.
        return mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        beneath.refuse(error, path.name)
    finally:
        os.close(fd)


def _refuse(what: str, why: str) -> NoReturn:
    raise errors.BadArtifact(f"{what} {why}", reason="BadSafetensors")
