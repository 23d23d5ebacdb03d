"""Reading and writing safetensors files that are what they must be."""

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from bertd import errors
from bertd.checkpoint import safetensors as ours


def header_of(path: Path) -> ours.Header:
    """The header of a file on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return ours.read_header(fd, path.name)
    finally:
        os.close(fd)


def test_a_file_of_the_reference_writer_is_read(tmp_path: Path) -> None:
    """Names, dtypes, shapes and metadata agree with what safetensors itself wrote."""
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    header = header_of(path)
    assert header.metadata == {"format": "pt"}
    assert {n: (t.dtype, t.shape) for n, t in header.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (4,)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_arrays_are_float32_whatever_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    """F32, F16 and BF16 tensors come out as the same numbers in float32."""
    path = tmp_path / "model.safetensors"
    stored = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    safetensors.torch.save_file({"odd": torch.ones(1, dtype=dtype), "x": stored}, path)
    with ours.Weights.open([path]) as weights:
        array = weights.array("x")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, stored.float().numpy())


def test_float32_is_mapped_and_not_copied(tmp_path: Path) -> None:
    """An aligned float32 array is a view of the mapped file, private, and valid after close."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(ours.encode({"x": np.arange(8, dtype=np.float32)}, {}))
    weights = ours.Weights.open([path])
    array, buffer = weights.array("x"), weights.buffer("x")
    assert np.shares_memory(array, np.frombuffer(buffer, np.float32))
    weights.close()
    assert array.sum() == 28
    before = path.read_bytes()
    array[:] = 0
    assert path.read_bytes() == before


def test_unaligned_float32_is_copied_to_alignment(tmp_path: Path) -> None:
    """A tensor at an odd offset still comes out as an aligned array."""
    path = tmp_path / "model.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '
    header += b" " * (len(header) % 2 == 0)
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32([1, 2]).tobytes())
    with ours.Weights.open([path]) as weights:
        array = weights.array("x")
    assert array.flags.aligned
    assert array.tolist() == [1, 2]


def test_what_is_written_is_what_the_reference_reads(tmp_path: Path) -> None:
    """The reference reader agrees with a written file, and writing is deterministic."""
    tensors = {"b": np.float16([1, 2]), "a": np.arange(3, dtype=np.float32)}
    data = ours.encode(tensors, {"k": "é"})
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    read = safetensors.torch.load_file(path)
    assert {name: tensor.tolist() for name, tensor in read.items()} == {"a": [0, 1, 2], "b": [1, 2]}
    assert ours.encode(dict(reversed(tensors.items())), {"k": "é"}) == data
    assert header_of(path).metadata == {"k": "é"}


def test_shards_are_joined(tmp_path: Path) -> None:
    """Tensors of several files are found under one set of names."""
    for name, value in (("a", 1), ("b", 2)):
        data = ours.encode({name: np.full(2, value, np.float32)}, {})
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    with ours.Weights.open(sorted(tmp_path.iterdir())) as weights:
        assert {n: weights.array(n)[0] for n in weights.tensors} == {"a": 1, "b": 2}


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    """One name in two files has no one meaning."""
    for name in ("one", "two"):
        data = ours.encode({"x": np.zeros(1, np.float32)}, {})
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    with pytest.raises(errors.BadArtifact, match="holds 'x' again"):
        ours.Weights.open(sorted(tmp_path.iterdir()))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    """Asking for a tensor that is not of a float dtype is refused by name."""
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"ids": torch.arange(3)}, path)
    with (
        ours.Weights.open([path]) as weights,
        pytest.raises(errors.BadArtifact, match="'ids' has dtype I64"),
    ):
        weights.array("ids")
