"""A folded adapter on disk is the same adapter or a miss, never an error and never a wrong one."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertd.adapters import folded, layout
from bertd.checkpoint import adapter_file

ROW = 40
DIGEST = "ab" * 32


def cache(directory: Path, **options: Any) -> folded.FoldedCache:
    """A cache of rows of `ROW` values."""
    options = {"row": ROW, "dtype": torch.float32, "base_digest": "b", "tokenizer_digest": "t"} | (
        options
    )
    return folded.FoldedCache(directory, **options)


def adapter(dtype: torch.dtype = torch.float32) -> layout.Folded:
    """A folded adapter with a linear head of three labels over eight values."""
    head = adapter_file.Head(kind="linear", input="cls", problem="single_label")
    rng = np.random.default_rng(0)
    tensors = {
        "out.weight": rng.standard_normal((3, 8), np.float32),
        "out.bias": rng.standard_normal(3, np.float32),
    }
    kept, values = layout.pack(head, tensors)
    return layout.Folded(biases=torch.randn(ROW).to(dtype), layout=kept, values=values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_comes_back_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    """Biases and head come back bit for bit, in the table's dtype, with the shared layout."""
    kept, put = cache(tmp_path, dtype=dtype), adapter(dtype)
    assert kept.get(DIGEST) is None
    kept.put(DIGEST, put)
    got = cache(tmp_path, dtype=dtype).get(DIGEST)
    assert got is not None
    assert torch.equal(got.biases, put.biases)
    assert np.array_equal(got.values, put.values)
    assert got.layout is put.layout
    assert [p.relative_to(tmp_path).parts[1:] for p in tmp_path.rglob("*") if p.is_file()] == [
        (DIGEST,)
    ]


def test_a_base_without_a_head(tmp_path: Path) -> None:
    """An adapter that brings no head tensors is kept too."""
    kept, values = layout.pack(None, {})
    put = layout.Folded(biases=torch.ones(ROW), layout=kept, values=values)
    cache(tmp_path).put(DIGEST, put)
    got = cache(tmp_path).get(DIGEST)
    assert got is not None
    assert torch.equal(got.biases, put.biases)
    assert got.layout.head is None


@pytest.mark.parametrize(
    "other",
    [
        {"base_digest": "c"},
        {"tokenizer_digest": "c"},
        {"dtype": torch.bfloat16},
        {"row": ROW + 1},
    ],
)
def test_another_base_finds_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    """What was folded for one base, tokenizer or dtype is not there for any other."""
    cache(tmp_path).put(DIGEST, adapter())
    assert cache(tmp_path, **other).get(DIGEST) is None


def flipped(data: bytes) -> bytes:
    """One bit of the biases is another."""
    return data[:-60] + bytes([data[-60] ^ 1]) + data[-59:]


def mended(data: bytes, body: bytes) -> bytes:
    """Another body under a checksum that holds."""
    return data[:8] + zlib.crc32(body).to_bytes(4, "little") + data[12:16] + body


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "flipped": flipped,
    "other magic": lambda data: b"X" + data[1:],
    "other checksum": lambda data: data[:8] + b"\0\0\0\0" + data[12:],
    "a row short": lambda data: mended(data, data[16:-4]),
    "no JSON": lambda data: mended(data, b"x" + data[17:]),
    "no header": lambda data: mended(data, data[16:].replace(b"shapes", b"shaped")),
    "a head of other fields": lambda data: mended(data, data[16:].replace(b"kind", b"kine")),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_a_miss_and_goes(tmp_path: Path, how: str) -> None:
    """A file that is not what was written is removed, and the adapter can be put again."""
    kept = cache(tmp_path)
    kept.put(DIGEST, adapter())
    path = kept.directory / DIGEST
    path.write_bytes(BROKEN[how](path.read_bytes()))
    assert kept.get(DIGEST) is None
    assert not path.exists()
    kept.put(DIGEST, adapter())
    assert kept.get(DIGEST) is not None


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than any folded adapter is a miss, found out by its size."""
    monkeypatch.setattr(folded, "VALUES_MAX_BYTES", 1)
    kept = cache(tmp_path)
    kept.put(DIGEST, adapter())
    with (kept.directory / DIGEST).open("ab") as file:
        file.truncate(folded.HEADER_MAX_BYTES * 2)
    assert kept.get(DIGEST) is None


def test_something_else_under_its_name_is_a_miss(tmp_path: Path) -> None:
    """A directory or a FIFO in a file's place neither fails nor holds the worker."""
    kept = cache(tmp_path)
    kept.directory.mkdir(parents=True)
    os.mkfifo(kept.directory / DIGEST)
    (kept.directory / ("cd" * 32)).mkdir()
    assert kept.get(DIGEST) is None
    assert kept.get("cd" * 32) is None


def test_a_full_disk_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without room on the disk nothing is kept, nothing fails, and the log says so once."""
    monkeypatch.setattr(folded, "KEEP_FREE_BYTES", 1 << 62)
    kept = cache(tmp_path)
    kept.put(DIGEST, adapter())
    kept.put("cd" * 32, adapter())
    assert kept.get(DIGEST) is None
    assert list(kept.directory.iterdir()) == []
    assert len(caplog.records) == 1


def test_a_failing_disk_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that breaks off leaves neither the file nor its temporary name."""

    def fail(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    kept = cache(tmp_path)
    kept.put(DIGEST, adapter())
    assert list(kept.directory.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_no_cache(tmp_path: Path) -> None:
    """A cache in the place of a file keeps nothing and finds nothing."""
    (tmp_path / "file").write_text("x")
    kept = cache(tmp_path / "file")
    kept.put(DIGEST, adapter())
    assert kept.get(DIGEST) is None
