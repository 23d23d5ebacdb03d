"""Two adapters side by side: norms by layer, heads, records."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertd import errors
from bertd.checkpoint import adapter_file
from bertd.interchange import comparing
from tests.checkpoint import making


def write(path: Path, offsets: dict[str, Any], **change: Any) -> Path:
    """A small adapter with these offsets."""
    arguments: dict[str, Any] = {
        "shape": making.SHAPE,
        "base_digest": making.BASE_DIGEST,
        "tokenizer_digest": making.TOKENIZER_DIGEST,
        "head": making.LINEAR,
        "label_names": ("no", "yes"),
        "offsets": {name: np.asarray(value, np.float32) for name, value in offsets.items()},
        "head_tensors": {
            "out.weight": np.ones((2, 8), np.float32),
            "out.bias": np.zeros(2, np.float32),
        },
    }
    adapter_file.write(path, **(arguments | change))
    return path


def unit(index: int) -> list[float]:
    """A vector of one at a place."""
    return [1.0 if at == index else 0.0 for at in range(8)]


def test_norms_and_cosines_by_layer(tmp_path: Path) -> None:
    """Layers come in their order; what a file leaves out is zero; a cosine with zero is none."""
    a = write(
        tmp_path / "a",
        {"layers.0.query.bias": unit(0), "layers.1.down.bias": unit(1), "pooler.bias": unit(2)},
    )
    b = write(tmp_path / "b", {"layers.0.query.bias": unit(1), "embeddings.norm.bias": unit(0)})
    found = comparing.compare(a, b)
    rows = {row.part: row for row in found.offsets}
    assert list(rows) == ["embeddings", "layer 0", "layer 1", "pooler", "all offsets"]
    assert (rows["layer 0"].a, rows["layer 0"].b, rows["layer 0"].cosine) == (1, 1, 0)
    assert rows["layer 0"].difference == pytest.approx(math.sqrt(2))
    assert (rows["layer 1"].b, rows["layer 1"].cosine) == (0, None)
    assert rows["all offsets"].a == pytest.approx(math.sqrt(3))
    assert found.head is not None
    assert found.head.difference == 0
    assert found.head.cosine == pytest.approx(1)


def test_an_adapter_is_itself(tmp_path: Path) -> None:
    """Nothing differs, nothing changed; an adapter without offsets compares too."""
    a = write(tmp_path / "a", {"layers.0.query.bias": unit(0)})
    same = comparing.compare(a, a)
    assert [row.difference for row in same.offsets] == [0, 0]
    assert same.record == {}
    empty = write(tmp_path / "b", {})
    assert [row.part for row in comparing.compare(empty, empty).offsets] == ["all offsets"]


def test_float16_and_prefixed_names_are_the_same_offsets(tmp_path: Path) -> None:
    """Names with the family's prefix mean the bare model's, and dtypes do not matter."""
    a = write(tmp_path / "a", {"layers.0.query.bias": unit(0)}, dtype="F16")
    tensors, metadata = making.adapter_parts()
    named = {
        name.replace("offset.", "offset.bert."): array
        for name, array in tensors.items()
        if name.startswith("head.") or "norm" in name.lower()
    }
    b = making.adapter(tmp_path / "b", named, metadata)
    parts = [row.part for row in comparing.compare(a, b).offsets]
    assert parts == ["embeddings", "layer 0", "all offsets"]


def test_changed_records_are_listed(tmp_path: Path) -> None:
    """Labels, temperature and another base are told; heads of other sizes are not subtracted."""
    a = write(tmp_path / "a", {})
    b = write(
        tmp_path / "b",
        {},
        label_names=("no", "maybe", "yes"),
        temperature=2.0,
        base_digest="ee" * 32,
        head_tensors={
            "out.weight": np.ones((3, 8), np.float32),
            "out.bias": np.zeros(3, np.float32),
        },
    )
    found = comparing.compare(a, b)
    assert found.head is None
    assert found.record["labels"] == (["no", "yes"], ["no", "maybe", "yes"])
    assert found.record["temperature"] == (1.0, 2.0)
    assert {"base", "digest", "bytes"} <= found.record.keys()
    assert "tokenizer" not in found.record


def test_offsets_of_other_shapes_are_refused(tmp_path: Path) -> None:
    """Adapters of bases of different widths have nothing to subtract."""
    from bertd import families

    a = write(tmp_path / "a", {"layers.0.query.bias": unit(0)})
    wide = families.shape(making.CONFIG | {"hidden_size": 16})
    b = write(
        tmp_path / "b",
        {"layers.0.query.bias": np.ones(16)},
        shape=wide,
        head_tensors={
            "out.weight": np.ones((2, 16), np.float32),
            "out.bias": np.zeros(2, np.float32),
        },
    )
    with pytest.raises(errors.BadArtifact, match=r"with the shapes \[8\] and \[16\]") as caught:
        comparing.compare(a, b)
    assert caught.value.reason == "OtherShape"


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    """Both files are proved before anything is compared."""
    a = write(tmp_path / "a", {})
    (tmp_path / "b").write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(errors.BadArtifact, match="a pickle"):
        comparing.compare(a, tmp_path / "b")
    with pytest.raises(errors.BadArtifact, match="does not exist"):
        comparing.compare(tmp_path / "gone", a)
    tensors, metadata = making.adapter_parts()
    name = next(iter(tensors))
    broken = tensors | {name: np.full_like(tensors[name], np.nan)}
    with pytest.raises(errors.BadArtifact, match=f"b has NaN or infinity in '{name}'"):
        comparing.compare(a, making.adapter(tmp_path / "b", broken, metadata))
