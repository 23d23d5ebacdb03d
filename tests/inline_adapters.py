"""Adapter files as calls bring them, whole and broken, and their base: all made without torch."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from bertd import families
from bertd.checkpoint import adapter_file, files, safetensors
from tests.checkpoint import making

LABELS = ("short", "long", "endless")


def base(folder: Path, seed: int = 0) -> files.Base:
    """A tiny base of random weights; another seed is another base."""
    made = making.directory(folder, tensors=making.weights(seed=seed))
    return files.describe(making.files_of(made))


def record(of: files.Base, seed: int = 0, **changes: object) -> dict[str, object]:
    """All that is in a whole adapter of this base; another seed is another one."""
    rng = np.random.default_rng(seed)
    names = families.bias_names(of.shape)
    shapes = families.tensor_shapes(of.shape)
    labels = changes.get("label_names", LABELS)
    return {
        "shape": of.shape,
        "base_digest": of.digest,
        "tokenizer_digest": of.tokenizer_digest,
        "head": making.LINEAR,
        "label_names": labels,
        "offsets": {name: rng.standard_normal(shapes[name], np.float32) for name in names},
        "head_tensors": making.head_tensors(making.LINEAR, len(labels), of.shape.hidden),
        **changes,
    }


def adapter(of: files.Base, seed: int = 0, **changes: object) -> bytes:
    """The bytes of a whole adapter."""
    return adapter_file.encode(**record(of, seed, **changes))


def edited(
    of: files.Base,
    *,
    tensors: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """An adapter with some tensors and metadata replaced or added, valid or not."""
    parts, said = making.adapter_parts()
    said |= {
        "bertd.base.sha256": of.digest,
        "bertd.tokenizer.sha256": of.tokenizer_digest,
    }
    return safetensors.encode(parts | dict(tensors or {}), said | dict(metadata or {}))


def _promising(of: files.Base) -> bytes:
    """A file whose header promises two terabytes that do not follow."""
    _, said = making.adapter_parts()
    said |= {"bertd.base.sha256": of.digest, "bertd.tokenizer.sha256": of.tokenizer_digest}
    return making.raw({"__metadata__": said, BIAS: making.entry("F32", [2**39], 0, 2**41)})


BIAS = "offset.encoder.layer.0.output.dense.bias"
# What may come instead of an adapter: how it is made, its reason, and what its message names.
BROKEN: Mapping[str, tuple[Callable[[files.Base], bytes], str, str]] = {
    "empty": (lambda of: b"", "BadSafetensors", "adapter_bytes"),
    "truncated": (lambda of: adapter(of)[:-1], "BadSafetensors", "adapter_bytes"),
    "cut in its header": (lambda of: adapter(of)[:100], "BadSafetensors", "adapter_bytes"),
    "noise": (lambda of: bytes(range(256)) * 8, "BadSafetensors", "adapter_bytes"),
    "pickled": (lambda of: pickle.dumps({"offsets": {}}), "PickleRefused", "adapter_bytes"),
    "zipped as torch.save does": (
        lambda of: b"PK\x03\x04" + bytes(64),
        "PickleRefused",
        "adapter_bytes",
    ),
    "of another base": (
        lambda of: adapter(of, base_digest="ab" * 32),
        "WrongBase",
        "belongs to the base sha256:" + "ab" * 32,
    ),
    "of another tokenizer": (
        lambda of: adapter(of, tokenizer_digest="ab" * 32),
        "WrongTokenizer",
        "belongs to the tokenizer sha256:" + "ab" * 32,
    ),
    "not a number": (
        lambda of: edited(of, tensors={BIAS: np.full(8, np.nan, np.float32)}),
        "NotFinite",
        BIAS,
    ),
    "infinite in float16": (
        lambda of: edited(of, tensors={BIAS: np.full(8, np.inf, np.float16)}),
        "NotFinite",
        BIAS,
    ),
    "of another shape": (
        lambda of: edited(of, tensors={BIAS: np.zeros(9, np.float32)}),
        "WrongShape",
        BIAS,
    ),
    "with a weight": (
        lambda of: edited(
            of, tensors={"offset.encoder.layer.0.output.dense.weight": np.zeros((8, 16))}
        ),
        "UnknownTensor",
        "offset.encoder.layer.0.output.dense.weight",
    ),
    "of a later format": (
        lambda of: edited(of, metadata={"bertd.format": "adapter/9"}),
        "BadMetadata",
        "bertd.format",
    ),
    "without labels": (
        lambda of: edited(of, metadata={"bertd.labelNames": "[]"}),
        "BadLabels",
        "bertd.labelNames",
    ),
    "deeply nested": (
        lambda of: edited(of, metadata={"bertd.training": "[" * 60_000}),
        "BadJson",
        "bertd.training",
    ),
    "promising terabytes": (_promising, "BadSafetensors", "adapter_bytes"),
    "labels that are not what the head has": (
        lambda of: edited(of, metadata={"bertd.labelNames": json.dumps(["a", "b", "c"])}),
        "WrongShape",
        "head.classifier",
    ),
}
