"""Whatever is wrong with a declared file, it is named, and everything else serves."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bertd.checkpoint import safetensors
from bertd.client import failure
from tests import checkpoints
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

CASES = {
    "nan": ("NotFinite", "offset.encoder.layer.0.output.dense.bias"),
    "unknown-name": ("UnknownTensor", "offset.encoder.layer.0.output.dense.gain"),
    "prefixed-name": ("UnknownTensor", "offset.embeddings.Layernorm.bias"),
    "wrong-shape": ("WrongShape", "offset.pooler.dense.bias"),
    "headless": ("MissingHead", "classifier"),
    "wrong-base": ("WrongBase", "belongs to the base"),
    "wrong-tokenizer": ("WrongTokenizer", "belongs to the tokenizer"),
    "truncated": ("BadSafetensors", "truncated"),
    "lying-header": ("BadSafetensors", "header"),
    "pickled": ("PickleRefused", "pickle"),
}


class Sentinel:
    """A pickle that leaves a trace when somebody loads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self._path,))


def change(name: str, tensors: dict[str, NDArray[np.float32]], metadata: dict[str, str]) -> None:
    """Makes the content of an adapter bad in one way."""
    bias = "offset.encoder.layer.0.output.dense.bias"
    match name:
        case "nan":
            tensors[bias][3] = np.nan
        case "unknown-name":
            tensors["offset.encoder.layer.0.output.dense.gain"] = tensors.pop(bias)
        case "prefixed-name":
            tensors["offset.embeddings.Layernorm.bias"] = tensors.pop(bias)
        case "wrong-shape":
            tensors["offset.pooler.dense.bias"] = np.zeros(7, np.float32)
        case "headless":
            del tensors["head.classifier.weight"]
        case "wrong-base":
            metadata["bertd.base.sha256"] = "0" * 64
        case "wrong-tokenizer":
            metadata["bertd.tokenizer.sha256"] = "0" * 64


def spoil(name: str, good: bytes, sentinel: Path) -> bytes:
    """The bytes of an adapter that is bad in one way."""
    if name == "truncated":
        return good[:-10]
    if name == "lying-header":
        return (1 << 40).to_bytes(8, "little") + good[8:]
    if name == "pickled":
        return pickle.dumps(Sentinel(sentinel))
    header = safetensors.parse_header(good[: 1 << 20], len(good))
    tensors = {
        n: safetensors.to_float32(good[t.start : t.end], t).copy()
        for n, t in header.tensors.items()
    }
    metadata = dict(header.metadata)
    change(name, tensors, metadata)
    return safetensors.encode(tensors, metadata)


def test_every_bad_adapter_is_refused_by_name(fresh: conftest.Daemon) -> None:
    """Each bad adapter gets its reason and names the tensor; a good one still serves (B3, B8)."""
    checkpoints.write(fresh.folder / "base")
    described = checkpoints.describe(fresh.folder / "base")
    good = checkpoints.adapter(fresh.folder / "good.safetensors", described)
    sentinel = fresh.folder / "sentinel"
    for name in CASES:
        spoiled = spoil(name, good.read_bytes(), sentinel)
        (fresh.folder / f"{name}.safetensors").write_bytes(spoiled)
    manifest = fresh.folder / "manifest.yaml"
    manifest.write_text(
        "apiVersion: bertd.dev/v1\nkind: Model\nmetadata: {name: tiny}\n"
        "spec:\n  base: {source: ./base}\n  adapters: [{source: ./*.safetensors}]\n"
    )
    done = fresh.cli("apply", str(manifest), "--wait", "--timeout", "30s")
    assert done.returncode == 1
    with fresh.owner() as owner, fresh.client() as client:
        for name, (reason, text) in CASES.items():
            shown = owner.get("Adapter", f"tiny/{name}")
            ready = shown.status.condition("Ready")
            assert ready is not None
            assert (name, ready.status, ready.reason) == (name, "False", reason)
            assert f"{name}.safetensors" in ready.message
            assert text in ready.message
            with pytest.raises(failure.CallError) as refusal:
                client.classify(["w1"], model="tiny", adapter=name)
            assert refusal.value.code == "FAILED_PRECONDITION"
            assert reason in refusal.value.message
            assert str(fresh.folder) not in str(refusal.value)
        assert client.classify(["w1"], model="tiny", adapter="good")[0].label
    assert not sentinel.exists()


@pytest.mark.parametrize("case", ["missing", "pickle", "truncated", "pinned", "remote code"])
def test_a_bad_base_never_serves(fresh: conftest.Daemon, case: str) -> None:
    """A base that is absent, pickled, cut, not the pinned one or wants code never serves."""
    base = fresh.folder / "base"
    pin = ""
    if case == "missing":
        reason = "SourceNotFound"
    else:
        checkpoints.write(base)
    if case == "pickle":
        (base / "model.safetensors").rename(base / "pytorch_model.bin")
        reason = "PickleRefused"
    if case == "truncated":
        with (base / "model.safetensors").open("r+b") as file:
            file.truncate(5000)
        reason = "BadSafetensors"
    if case == "pinned":
        pin, reason = f", digest: 'sha256:{'0' * 64}'", "DigestMismatch"
    if case == "remote code":
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
        reason = "RemoteCode"
    manifest = fresh.folder / "manifest.yaml"
    manifest.write_text(
        "apiVersion: bertd.dev/v1\nkind: Model\nmetadata: {name: tiny}\n"
        f"spec:\n  base: {{source: ./base{pin}}}\n"
    )
    done = fresh.cli("apply", str(manifest), "--wait", "--timeout", "30s")
    assert done.returncode == 1, done.stderr
    assert reason in done.stderr
    with fresh.client() as client, pytest.raises(failure.CallError) as refusal:
        client.classify(["w1"], model="tiny")
    assert refusal.value.code == "FAILED_PRECONDITION"
    assert reason in refusal.value.message


def test_a_worse_declaration_leaves_the_better_one_serving(fresh: conftest.Daemon) -> None:
    """When a new generation's base is bad, the old revision keeps answering."""
    checkpoints.write(fresh.folder / "base")
    good = (
        "apiVersion: bertd.dev/v1\nkind: Model\nmetadata: {name: tiny}\n"
        "spec:\n  base: {source: ./base}\n"
    )
    fresh.apply(good)
    manifest = fresh.folder / "manifest.yaml"
    manifest.write_text(good.replace("./base", "./gone"))
    assert fresh.cli("apply", str(manifest), "--wait", "--timeout", "30s").returncode == 1
    with fresh.client() as client:
        assert client.classify(["w1"], model="tiny")[0].label
