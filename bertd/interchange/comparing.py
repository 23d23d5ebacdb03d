"""What two adapters differ in: the sizes of their offsets by layer, heads, records."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import families
from bertd.checkpoint import adapter_file, adapter_layout, beneath, safetensors, sources
from bertd.interchange import refusals

_LAYER: Final = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")
_PREFIXES: Final = ("bert.", "roberta.", "distilbert.", "electra.", "mpnet.")

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One part of two adapters: Euclidean norms of A, of B, of B minus A, and the cosine.

    The cosine is that of the angle between A and B, None where one of them is zero.
    """

    part: str
    a: float
    b: float
    difference: float
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Offsets by layer and in all, the head, and the record's values that are not equal.

    `head` is None where the heads have different shapes; `record` maps a name to both values.
    """

    offsets: tuple[Row, ...]
    head: Row | None
    record: Mapping[str, tuple[object, object]]


def compare(a: Path, b: Path) -> Comparison:
    """Compare two adapter files; offsets that a file leaves out are zero.

    Raises:
        errors.BadArtifact: a file is no adapter, holds what is no number (reason `NotFinite`), or
            the two have offsets of different shapes (reason `OtherShape`).
        errors.Temporary: the disk failed.
    """
    info_a, arrays_a = _read(a)
    info_b, arrays_b = _read(b)
    offsets_a, head_a = _split(arrays_a)
    offsets_b, head_b = _split(arrays_b)
    groups: dict[str, list[str]] = {}
    for name in sorted(offsets_a | offsets_b, key=_place):
        groups.setdefault(_part(name), []).append(name)
    groups["all offsets"] = sorted(offsets_a | offsets_b)
    alike = {name: array.shape for name, array in head_a.items()} == {
        name: array.shape for name, array in head_b.items()
    }
    return Comparison(
        offsets=tuple(_row(part, names, offsets_a, offsets_b) for part, names in groups.items()),
        head=_row("head", sorted(head_a), head_a, head_b) if alike else None,
        record=_changed(info_a, info_b),
    )


def _read(path: Path) -> tuple[adapter_file.AdapterInfo, dict[str, NDArray[np.float32]]]:
    info = adapter_file.read_info(path)
    data = beneath.read_file(path, sources.MAX_ADAPTER_BYTES, path.name)
    prefix = data[: safetensors.LENGTH_BYTES + safetensors.MAX_HEADER_BYTES]
    header = safetensors.parse_header(prefix, len(data), path.name)
    arrays = {
        name: safetensors.to_float32(data[tensor.start : tensor.end], tensor)
        for name, tensor in header.tensors.items()
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise refusals.bad(
                path.name, f"has NaN or infinity in {families.quote(name)}", "NotFinite"
            )
    return info, arrays


def _split(arrays: Arrays) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    offsets, head = {}, {}
    for name, array in arrays.items():
        if name.startswith(adapter_layout.OFFSET):
            plain = name.removeprefix(adapter_layout.OFFSET)
            for prefix in _PREFIXES:
                plain = plain.removeprefix(prefix)
            offsets[plain] = array
        else:
            head[name] = array
    return offsets, head


def _row(part: str, names: list[str], a: Arrays, b: Arrays) -> Row:
    dot = squares_a = squares_b = squares = 0.0
    for name in names:
        x, y = _pair(name, a, b)
        dot += float(x @ y)
        squares_a += float(x @ x)
        squares_b += float(y @ y)
        squares += float((y - x) @ (y - x))
    both = math.sqrt(squares_a) * math.sqrt(squares_b)
    return Row(
        part=part,
        a=math.sqrt(squares_a),
        b=math.sqrt(squares_b),
        difference=math.sqrt(squares),
        cosine=dot / both if both else None,
    )


def _pair(name: str, a: Arrays, b: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shapes = {array.shape for array in (a.get(name), b.get(name)) if array is not None}
    if len(shapes) > 1:
        raise refusals.bad(
            "the two adapters",
            f"have {families.quote(name)} with the shapes "
            f"{' and '.join(str(list(shape)) for shape in sorted(shapes))}",
            "OtherShape",
            hint="only adapters of bases of one shape can be compared",
        )
    zero = np.zeros(shapes.pop(), np.float32)
    return (
        a.get(name, zero).astype(np.float64).ravel(),
        b.get(name, zero).astype(np.float64).ravel(),
    )


def _part(name: str) -> str:
    found = _LAYER.match(name)
    return f"layer {found[1]}" if found else name.partition(".")[0].partition("_")[0]


def _place(name: str) -> tuple[int, str]:
    found = _LAYER.match(name)
    if found:
        return int(found[1]), name
    return (-1 if name.startswith("embeddings") else 1 << 30), name


def _changed(
    a: adapter_file.AdapterInfo, b: adapter_file.AdapterInfo
) -> dict[str, tuple[object, object]]:
    left, right = _facts(a), _facts(b)
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}


def _facts(info: adapter_file.AdapterInfo) -> dict[str, object]:
    return {
        "base": info.base_digest,
        "tokenizer": info.tokenizer_digest,
        "head": f"{info.head.kind} on {info.head.input}, {info.head.problem}",
        "labels": list(info.label_names),
        "temperature": info.temperature,
        "thresholds": dict(info.thresholds),
        "training": dict(info.training),
        "digest": info.digest,
        "bytes": info.file_bytes,
    }
