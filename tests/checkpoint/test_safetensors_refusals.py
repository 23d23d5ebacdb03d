"""Every way in which a safetensors file can be bad has its own message (checklist 86)."""

import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch

from bertd import errors
from bertd.checkpoint import safetensors
from tests.checkpoint.making import entry, raw

FOUR = b"\0" * 4


def refusal(path: Path, content: bytes) -> errors.BadArtifact:
    """What the reader says about a file with this content."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(errors.BadArtifact) as caught:
            safetensors.read_header(fd, "it")
    finally:
        os.close(fd)
    return caught.value


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has 0 bytes: too short"),
    "only a length": (b"\x10" + b"\0" * 7, "it says its header has 16 bytes, but ends after 0"),
    "truncated header": (raw({"x": entry("F32", [1], 0, 4)})[:30], "but ends after 22 of them"),
    "huge length": (b"\xff" * 8, "it says its header has 18446744073709551615 bytes; the limit"),
    "length over 1 MiB": (raw(b"{}", length=2**20 + 1), "it says its header has 1048577 bytes"),
    "no brace": (raw(b" {}"), "it must have a header that begins with '{'"),
    "no JSON": (raw(b"{]"), "the header of it is not JSON"),
    "a list": (raw(b"{}")[:8] + b"[]", "begins with '{'"),
    "not UTF-8": (raw(b'{"\xff":1}'), "the header of it must be UTF-8 text"),
    "half a surrogate pair": (raw(b'{"\\ud800":1}'), "the header of it must be UTF-8 text"),
    "nested deeply": (raw(b'{"x":' + b"[" * 200_000), "the header of it is nested too deeply"),
    "endless number": (raw(b'{"x":' + b"9" * 9_999 + b"}"), "a number has too many digits"),
    "NaN": (raw(b'{"x":NaN}'), "the header of it must not hold NaN"),
    "duplicate tensor": (
        raw(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{}}', FOUR),
        "the header of it has the key 'x' twice",
    ),
    "duplicate key inside": (
        raw(b'{"x":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', FOUR),
        "the header of it has the key 'dtype' twice",
    ),
    "metadata not strings": (raw({"__metadata__": {"a": 1}}), "metadata 'a' that is not a string"),
    "metadata a list": (raw({"__metadata__": []}), "metadata that is not a mapping"),
    "empty name": (raw({"": entry("F32", [1], 0, 4)}, FOUR), "a tensor name that is empty"),
    "long name": (raw({"n" * 999: entry("F32", [1], 0, 4)}, FOUR), "a tensor name that is"),
    "unprintable name": (raw({"a\n": entry("F32", [1], 0, 4)}, FOUR), "a tensor name that is"),
    "entry no mapping": (raw({"x": [1]}), "must give 'x' a `dtype`, a `shape`"),
    "entry too small": (raw({"x": {"dtype": "F32"}}), "must give 'x' a `dtype`, a `shape`"),
    "entry too large": (
        raw({"x": entry("F32", [1], 0, 4) | {"more": 1}}, FOUR),
        "must give 'x' a `dtype`, a `shape` and `data_offsets`, no more",
    ),
    "unknown dtype": (raw({"x": entry("F33", [1], 0, 4)}, FOUR), "'x' the unknown dtype 'F33'"),
    "dtype no string": (raw({"x": entry(["F32"], [1], 0, 4)}, FOUR), "'x' the unknown dtype"),  # type: ignore[arg-type]
    "negative dimension": (raw({"x": entry("F32", [-1], 0, 4)}, FOUR), "gives 'x' a bad `shape`"),
    "fractional dimension": (raw({"x": entry("F32", [1.0], 0, 4)}, FOUR), "a bad `shape`"),  # type: ignore[list-item]
    "boolean dimension": (raw({"x": entry("F32", [True], 0, 4)}, FOUR), "a bad `shape`"),
    "huge dimension": (raw({"x": entry("F32", [2**60], 0, 4)}, FOUR), "a bad `shape`"),
    "high rank": (raw({"x": entry("F32", [1] * 9, 0, 4)}, FOUR), "gives 'x' a bad `shape`"),
    "negative offset": (raw({"x": entry("F32", [1], -4, 0)}, FOUR), "bad `data_offsets`"),
    "reversed offsets": (raw({"x": entry("F32", [1], 4, 0)}, FOUR), "gives 'x' -4 bytes"),
    "three offsets": (
        raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, FOUR),
        "gives 'x' bad `data_offsets`",
    ),
    "shape larger than bytes": (
        raw({"x": entry("F32", [2], 0, 4)}, FOUR),
        "gives 'x' 4 bytes, but its dtype and shape need 8",
    ),
    "overlap": (
        raw({"x": entry("F32", [1], 0, 4), "y": entry("F32", [1], 2, 6)}, b"\0" * 6),
        "has 'y' overlapping the tensor before it",
    ),
    "same bytes twice": (
        raw({"x": entry("F32", [1], 0, 4), "y": entry("F32", [1], 0, 4)}, FOUR),
        "has 'y' overlapping the tensor before it",
    ),
    "hole": (
        raw({"x": entry("F32", [1], 0, 4), "y": entry("F32", [1], 8, 12)}, b"\0" * 12),
        "has a hole of 4 bytes before 'y'",
    ),
    "out of the file": (raw({"x": entry("F32", [9], 0, 36)}, FOUR), "it is truncated: its tensors"),
    "truncated data": (raw({"x": entry("F32", [1], 0, 4)}, b"\0" * 3), "it is truncated"),
    "trailing bytes": (
        raw({"x": entry("F32", [1], 0, 4)}, b"\0" * 6),
        "has 2 bytes that belong to no tensor",
    ),
    "too many tensors": (
        raw({str(n): entry("F32", [0], 0, 0) for n in range(4_097)}),
        "it has 4097 tensors; the limit is 4096",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_own_message(tmp_path: Path, case: str) -> None:
    """Each fault is found before any tensor is allocated, and named (checklist 86)."""
    content, words = BAD[case]
    error = refusal(tmp_path / "x.safetensors", content)
    assert words in error.message
    assert error.reason in ("BadSafetensors", "BadJson")


def test_empty_tensors_and_exactly_the_limit_are_legal(tmp_path: Path) -> None:
    """4,096 tensors pass, tensors of no elements too."""
    header = {str(n): entry("F32", [0, 5], 0, 0) for n in range(4_096)}
    found = safetensors.parse_header(raw(header), len(raw(header)))
    assert len(found.tensors) == 4_096


def test_a_hostile_header_costs_little(tmp_path: Path) -> None:
    """The costliest headers of the permitted size are refused in under a second (checklist 86)."""
    same = b"{" + b'"k":0,' * 170_000 + b'"k":0}'
    many = b"{" + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}"
    for text in (same, many, b'{"x":' + b"[" * 1_000_000):
        assert len(text) <= safetensors.MAX_HEADER_BYTES
        start = time.monotonic()
        refusal(tmp_path / "x.safetensors", raw(text))
        assert time.monotonic() - start < 1


class Payload:
    """An object whose unpickling would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_with_another_name_is_refused(tmp_path: Path, protocol: int) -> None:
    """A pickle renamed to .safetensors is recognised by its first bytes and never run (B8, D14)."""
    trap = tmp_path / "trap"
    content = pickle.dumps(Payload(trap), protocol) + b"\0" * 100
    error = refusal(tmp_path / "x.safetensors", content)
    assert error.message == "it is a pickle"
    assert error.reason == "PickleRefused"
    assert not trap.exists()


def test_a_torch_file_with_another_name_is_refused(tmp_path: Path) -> None:
    """What torch.save writes, in both of its formats, is recognised (checklist 84)."""
    for zipped, words in ((True, "zip archive"), (False, "is a pickle")):
        buffer = io.BytesIO()
        torch.save({"x": torch.ones(2)}, buffer, _use_new_zipfile_serialization=zipped)
        error = refusal(tmp_path / "x.safetensors", buffer.getvalue())
        assert words in error.message
        assert error.reason == "PickleRefused"


@pytest.mark.parametrize("start", [b"GGUF", b"\x89HDF\r\n\x1a\n", b"\x1f\x8b\x08"])
def test_other_formats_are_named(tmp_path: Path, start: bytes) -> None:
    """Formats that people confuse with safetensors are refused by what they are."""
    error = refusal(tmp_path / "x.safetensors", start + b"\xff" * 100)
    assert error.reason == "UnsupportedFormat"
    assert "safetensors" in error.hint


def test_a_header_whose_length_looks_like_a_pickle_is_read() -> None:
    """Header lengths such as 0x280 begin with a pickle's bytes and are nevertheless valid."""
    for length in (0x0280, 0x0380, 0x0480, 0x0580):
        text = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
        content = raw(text, FOUR)
        assert content[0] == 0x80
        assert list(safetensors.parse_header(content, len(content)).tensors) == ["x"]


def test_an_archive_is_refused(tmp_path: Path) -> None:
    """Archives are never opened, not even to look."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.safetensors", b"x")
    error = refusal(tmp_path / "x.safetensors", buffer.getvalue())
    assert "zip archive" in error.message
