"""Small checkpoints, adapters and deliberately broken files, made without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertd import families
from bertd.checkpoint import adapter_file, safetensors

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}
SHAPE = families.shape(CONFIG)
BASE_DIGEST = "ab" * 32
TOKENIZER_DIGEST = "cd" * 32
LINEAR = adapter_file.Head(kind="linear", input="mean", problem="single_label")
DENSE = adapter_file.Head(kind="dense-tanh", input="cls", problem="single_label")

Arrays = dict[str, NDArray[np.float32]]


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    """One tensor's entry in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def weights(shape: families.EncoderShape = SHAPE, *, seed: int = 0, pooler: bool = True) -> Arrays:
    """Random encoder tensors under the bare checkpoint's names."""
    rng = np.random.default_rng(seed)
    names = families.encoder_names(shape)
    return {
        names[ours]: rng.standard_normal(size, dtype=np.float32)
        for ours, size in families.tensor_shapes(shape).items()
        if pooler or ours not in families.POOLER
    }


def directory(
    path: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    tensors: Arrays | None = None,
    extra: Mapping[str, object] | None = None,
) -> Path:
    """A checkpoint directory; `extra` maps more file names to JSON values."""
    path.mkdir(parents=True, exist_ok=True)
    path.joinpath("config.json").write_text(json.dumps(dict(config)))
    path.joinpath("tokenizer.json").write_text("{}")
    data = safetensors.encode(weights() if tensors is None else tensors, {"format": "pt"})
    path.joinpath("model.safetensors").write_bytes(data)
    for name, value in (extra or {}).items():
        path.joinpath(name).parent.mkdir(exist_ok=True)
        path.joinpath(name).write_text(json.dumps(value))
    return path


def shards(path: Path, tensors: Arrays, cut: int) -> None:
    """Replace the single weight file by two shards and their index."""
    names = sorted(tensors)
    path.joinpath("model.safetensors").unlink(missing_ok=True)
    weight_map = {}
    for number, part in ((1, names[:cut]), (2, names[cut:])):
        shard = f"model-0000{number}-of-00002.safetensors"
        data = safetensors.encode({name: tensors[name] for name in part}, {})
        path.joinpath(shard).write_bytes(data)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    path.joinpath("model.safetensors.index.json").write_text(json.dumps(index))


def files_of(path: Path) -> dict[str, Path]:
    """The files of a directory by their relative names, as the store would hand them over."""
    return {str(at.relative_to(path)): at for at in sorted(path.rglob("*")) if at.is_file()}


def head_tensors(head: adapter_file.Head, labels: int, hidden: int = 8) -> Arrays:
    """Random tensors of a head over a base that has a pooler."""
    rng = np.random.default_rng(1)
    sizes: dict[str, tuple[int, ...]] = {"out.weight": (labels, hidden), "out.bias": (labels,)}
    if head.kind != "linear":
        sizes |= {"dense.weight": (hidden, hidden), "dense.bias": (hidden,)}
    return {name: rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}


def adapter_parts(
    head: adapter_file.Head = LINEAR, labels: tuple[str, ...] = ("no", "yes")
) -> tuple[Arrays, dict[str, str]]:
    """The tensors (by their names in the file) and the metadata of a valid adapter."""
    dense = head.kind != "linear"
    stems = {"dense": "classifier.dense", "out": "classifier.out_proj" if dense else "classifier"}
    tensors: Arrays = {
        "offset.encoder.layer.0.output.dense.bias": np.ones(8, np.float32),
        "offset.embeddings.LayerNorm.bias": np.full(8, 0.5, np.float32),
    }
    for name, array in head_tensors(head, len(labels)).items():
        part, _, kind = name.partition(".")
        tensors[f"head.{stems[part]}.{kind}"] = array
    metadata = {
        "bertd.format": "adapter/1",
        "bertd.base.sha256": BASE_DIGEST,
        "bertd.tokenizer.sha256": TOKENIZER_DIGEST,
        "bertd.head": json.dumps({"kind": head.kind, "input": head.input, "problem": head.problem}),
        "bertd.labelNames": json.dumps(list(labels)),
    }
    return tensors, metadata


def adapter(path: Path, tensors: Arrays, metadata: Mapping[str, str]) -> Path:
    """An adapter file with these tensors and this metadata, valid or not."""
    path.write_bytes(safetensors.encode(tensors, metadata))
    return path
