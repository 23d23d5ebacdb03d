"""Objects come, change and go, while the daemon serves what is declared."""

import urllib.request
from pathlib import Path

import numpy as np
import pytest

from bertd.checkpoint import adapter_file
from bertd.client import failure
from tests import checkpoints, tiny
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

MODEL = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: tiny}
spec:
  base: {source: ./base}
  precision: fp32
"""


def test_mixed_adapters_equal_their_merged_models(fresh: conftest.Daemon) -> None:
    """Five adapters of different label counts answer as their merged models would (B1, B7)."""
    model = checkpoints.write(fresh.folder / "base")
    described = checkpoints.describe(fresh.folder / "base")
    labels = {"a": 2, "b": 3, "c": 5, "d": 3, "e": 2}
    lines = []
    for seed, (name, count) in enumerate(labels.items(), start=1):
        checkpoints.adapter(
            fresh.folder / f"{name}.safetensors", described, labels=count, seed=seed
        )
        lines.append(f"    - {{source: ./{name}.safetensors}}")
    fresh.apply(MODEL + "  adapters:\n" + "\n".join(lines))
    with fresh.client() as client:
        for name, count in labels.items():
            loaded = adapter_file.read(
                fresh.folder / f"{name}.safetensors", described.shape, described.has_pooler
            )
            twin = checkpoints.merged(model.model, loaded, described.shape)
            (answer,) = client.classify(
                [("w1 w2 w3", "w4 w5")], model="tiny", adapter=name, raw_logits=True
            )
            ids = np.array([2, 6, 7, 8, 3, 9, 10, 3], np.int32)
            types = np.array([0, 0, 0, 0, 0, 1, 1, 1], np.uint8)
            expected = tiny.oracle(twin, ids, types, 2).logits[0].numpy()
            assert len(answer.logits) == count
            np.testing.assert_allclose(answer.logits, expected, atol=1e-5)


def test_an_adapter_lives_and_dies_without_touching_the_base(fresh: conftest.Daemon) -> None:
    """Adding, relabelling, replacing and removing an adapter never restarts the worker (B12)."""
    checkpoints.write(fresh.folder / "base")
    described = checkpoints.describe(fresh.folder / "base")
    file = checkpoints.adapter(fresh.folder / "a.safetensors", described, labels=2, seed=1)
    fresh.apply(MODEL)
    pid = fresh.worker_pid("tiny")
    adapter = """
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {name: a}
spec: {model: tiny, source: ./a.safetensors}
"""
    with fresh.client() as client:
        with pytest.raises(failure.CallError, match="no adapter 'a'"):
            client.classify(["w1"], model="tiny", adapter="a")
        assert "adapter/a created" in fresh.apply(adapter).stdout
        first = client.classify(["w1"], model="tiny", adapter="a", raw_logits=True)
        assert set(first[0].scores) == {"label0", "label1"}
        renamed = adapter.replace("}\n", ", labelNames: [bad, good], temperature: 2.0}\n", 1)
        renamed = adapter.replace(
            "a.safetensors}", "a.safetensors, labelNames: [bad, good], temperature: 2.0}"
        )
        fresh.apply(renamed)
        second = client.classify(["w1"], model="tiny", adapter="a", raw_logits=True)
        assert second[0].logits == first[0].logits
        logits = np.array(first[0].logits) / 2
        expected = np.exp(logits) / np.exp(logits).sum()
        assert list(second[0].scores) == ["bad", "good"]
        np.testing.assert_allclose(list(second[0].scores.values()), expected, rtol=1e-5)
        checkpoints.adapter(file, described, labels=3, seed=2)
        fresh.apply(adapter)
        third = client.classify(["w1"], model="tiny", adapter="a")
        assert len(third[0].scores) == 3
        assert third.served.adapter_digest != first.served.adapter_digest
        assert fresh.cli("delete", "adapter/a").returncode == 0
        fresh.wait_for_log("unload adapter tiny/a")
        with pytest.raises(failure.CallError, match="no adapter 'a'"):
            client.classify(["w1"], model="tiny", adapter="a")
    assert fresh.worker_pid("tiny") == pid


def test_a_changed_base_replaces_the_revision(fresh: conftest.Daemon) -> None:
    """New weights under a new path become a new revision; the name keeps answering."""
    checkpoints.write(fresh.folder / "base", seed=1)
    checkpoints.write(fresh.folder / "next", seed=2)
    fresh.apply(MODEL)
    with fresh.client() as client:
        before = client.classify(["w1"], model="tiny")
        fresh.apply(MODEL.replace("./base", "./next"))
        after = client.classify(["w1"], model="tiny")
    assert before.served.revision != after.served.revision
    assert before[0].scores != after[0].scores


def test_objects_survive_a_restart(fresh: conftest.Daemon) -> None:
    """A stopped daemon serves the same objects after a restart, by itself (checklist 77)."""
    checkpoints.write(fresh.folder / "base")
    fresh.apply(MODEL)
    with fresh.client() as client:
        before = client.classify(["w1 w2"], model="tiny")[0].scores
    assert fresh.stop() == 0
    fresh.start()
    assert (
        fresh.cli("wait", "model/tiny", "--for", "condition=Ready", "--timeout", "30s").returncode
        == 0
    )
    with fresh.client() as client:
        assert client.classify(["w1 w2"], model="tiny")[0].scores == before
    listed = fresh.cli("get", "models", "-o", "yaml").stdout
    assert "unchanged" in fresh.cli("apply", "-", stdin=listed).stdout


def test_the_source_may_change_after_it_was_read(fresh: conftest.Daemon) -> None:
    """Truncating and rewriting the source files changes no answer (checklist 88)."""
    checkpoints.write(fresh.folder / "base")
    fresh.apply(MODEL)
    with fresh.client() as client:
        before = client.classify(["w1 w2"], model="tiny")[0].scores
        weights = fresh.folder / "base" / "model.safetensors"
        with weights.open("r+b") as file:
            file.truncate(100)
        assert client.classify(["w1 w2"], model="tiny")[0].scores == before
    blobs = fresh.folder / "state" / "blobs"
    assert {oct(path.stat().st_mode & 0o777) for path in blobs.iterdir()} == {"0o444"}


def test_a_deleted_model_leaves_nothing(fresh: conftest.Daemon) -> None:
    """Deleting a Model ends its worker, its routes, its metrics and its files."""
    checkpoints.write(fresh.folder / "base")
    fresh.apply(MODEL)
    pid = fresh.worker_pid("tiny")
    with fresh.client() as client:
        client.classify(["w1"], model="tiny")
        assert fresh.cli("delete", "model/tiny").returncode == 0
        fresh.wait_for_log('"event": "swept"')
        with pytest.raises(failure.CallError, match="no model 'tiny'"):
            client.classify(["w1"], model="tiny")
    assert not Path(f"/proc/{pid}").exists()
    assert list((fresh.folder / "state" / "blobs").iterdir()) == []
    with urllib.request.urlopen(fresh.metrics) as page:
        assert 'model="tiny"' not in page.read().decode()


def test_token_classification(fresh: conftest.Daemon) -> None:
    """A token classification checkpoint tags each word with its span, pairs included."""
    checkpoints.write(fresh.folder / "base", task="TokenClassification", labels=4)
    fresh.apply(MODEL)
    with fresh.client() as client:
        tagged = client.tag(["w1 w22 w3", ("w4", "w5 w6")], model="tiny")
        assert [[(t.token, t.start, t.end, t.segment) for t in tags] for tags in tagged] == [
            [("w1", 0, 2, 0), ("w22", 3, 6, 0), ("w3", 7, 9, 0)],
            [("w4", 0, 2, 0), ("w5", 0, 2, 1), ("w6", 3, 5, 1)],
        ]
        assert {t.label for tags in tagged for t in tags} <= {f"LABEL_{n}" for n in range(4)}
        with pytest.raises(failure.CallError, match="is for Tag"):
            client.classify(["w1"], model="tiny")
