"""Adapters come, change, move out of memory and back while a daemon serves them."""

import json
import os
import re
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertd.checkpoint import adapter_file
from bertd.checkpoint import files as checkpoint_files
from bertd.client import failure
from bertd.interchange import bitinfer
from tests import checkpoints, tiny
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

MODEL = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {{name: tiny}}
spec:
  base: {{source: ./base}}
  precision: fp32
  allowInlineAdapters: true
  adapterMemory: {memory}
  adapters: [{{source: "./tenants/*.safetensors"}}]
"""
OBJECT = """
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {{name: {name}}}
spec: {{model: tiny, source: ./{file}}}
"""


def base(daemon: conftest.Daemon, **sizes: int) -> tuple[tiny.Tiny, checkpoint_files.Base]:
    """A tiny base beside an empty directory of tenants."""
    model = checkpoints.write(daemon.folder / "base", **sizes)
    (daemon.folder / "tenants").mkdir()
    return model, checkpoints.describe(daemon.folder / "base")


def tenant(daemon: conftest.Daemon, described: checkpoint_files.Base, seed: int) -> str:
    """One more file under the glob, moved there whole; returns its name."""
    name = f"t{seed}"
    written = checkpoints.adapter(daemon.folder / f"{name}.safetensors", described, seed=seed)
    written.rename(daemon.folder / "tenants" / written.name)
    return name


def expected(model: tiny.Tiny, described: checkpoint_files.Base, file: Path) -> np.ndarray:
    """Logits of the merged transformers model for "w1 w2"."""
    loaded = adapter_file.read_for(file, described)
    twin = checkpoints.merged(model.model, loaded, described.shape)
    ids = np.array([2, 6, 7, 3], np.int32)
    logits: np.ndarray = tiny.oracle(twin, ids, np.zeros(4, np.int32), 2).logits[0].numpy()
    return logits


def series(daemon: conftest.Daemon, name: str) -> float:
    """The value of a metric of the model."""
    with urllib.request.urlopen(daemon.metrics) as page:
        text = page.read().decode()
    found = re.search(rf'^bertd_{name}{{model="tiny"}} (\S+)', text, re.MULTILINE)
    assert found, text
    return float(found[1])


def until(condition: Callable[[], bool]) -> None:
    """Polls; the test's timeout bounds it."""
    while not condition():
        time.sleep(0.05)


def test_a_table_smaller_than_what_is_declared_serves_everything(fresh: conftest.Daemon) -> None:
    """With memory for fewer adapters than there are, each still answers as its merged model."""
    model, described = base(fresh, hidden_size=240, intermediate_size=960)
    names = [tenant(fresh, described, seed) for seed in range(1, 101)]  # of 14,400 bytes each
    fresh.apply(MODEL.format(memory="1MiB"))
    with fresh.client() as client:
        for name in (*names, *names[:3]):
            (answer,) = client.classify(["w1 w2"], model="tiny", adapter=name, raw_logits=True)
            file = fresh.folder / "tenants" / f"{name}.safetensors"
            np.testing.assert_allclose(answer.logits, expected(model, described, file), atol=5e-5)
    assert series(fresh, "adapters") == 100
    assert series(fresh, "adapter_cache_bytes") <= 2**20
    assert series(fresh, "adapter_cache_evictions_total") > 0


def test_a_new_file_answers_and_a_replaced_one_has_another_version(fresh: conftest.Daemon) -> None:
    """A file dropped under a glob answers its first call; an apply picks up what was replaced."""
    model, described = base(fresh)
    tenant(fresh, described, 1)
    fresh.apply(MODEL.format(memory="1GiB"))
    new = fresh.folder / "tenants" / f"{tenant(fresh, described, 2)}.safetensors"
    with fresh.client() as client:
        (first,) = client.classify(["w1 w2"], model="tiny", adapter="t2", raw_logits=True)
        np.testing.assert_allclose(first.logits, expected(model, described, new), atol=1e-5)
        with pytest.raises(failure.CallError, match="no adapter 'nobody'"):
            client.classify(["w1"], model="tiny", adapter="nobody")
        before = client.classify(["w1"], model="tiny", adapter="t2").served.adapter_digest
        shutil.move(
            checkpoints.adapter(fresh.folder / "other.safetensors", described, seed=99), new
        )
        fresh.apply(MODEL.format(memory="1GiB"))
        after = client.classify(["w1"], model="tiny", adapter="t2").served.adapter_digest
        assert before != after
    shown = fresh.cli("describe", "adapter/tiny/t2").stdout
    assert re.findall(r"sha256:([0-9a-f]{64}) since", shown) == [after, before]
    new.unlink()
    fresh.apply(MODEL.format(memory="1GiB"))
    with fresh.client() as client, pytest.raises(failure.CallError, match="no adapter 't2'"):
        client.classify(["w1"], model="tiny", adapter="t2")


def test_adapters_come_and_go_under_load(fresh: conftest.Daemon) -> None:
    """Adding, replacing and removing adapters while callers are busy loses no call (B12).

    The base is loaded once: the worker stays, and its memory grows by little.
    """
    _, described = base(fresh)
    steady = [tenant(fresh, described, seed) for seed in range(1, 9)]
    fresh.apply(MODEL.format(memory="1GiB"))
    pid = fresh.worker_pid("tiny")
    before = resident_kib(pid)
    failed: list[str] = []
    answered = [0]
    over = threading.Event()

    def call(number: int) -> None:
        with fresh.client() as client:
            while not over.is_set():
                try:
                    client.classify(["w1 w2"], model="tiny", adapter=steady[number])
                    answered[0] += 1
                except failure.CallError as error:
                    failed.append(str(error))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(steady))]
    for caller in callers:
        caller.start()
    try:
        for seed in range(100, 110):
            tenant(fresh, described, seed)
            shutil.copy(
                checkpoints.adapter(fresh.folder / "again.safetensors", described, seed=seed),
                fresh.folder / "tenants" / f".{steady[0]}",
            )
            os.replace(
                fresh.folder / "tenants" / f".{steady[0]}",
                fresh.folder / "tenants" / f"{steady[0]}.safetensors",
            )
            fresh.apply(MODEL.format(memory="1GiB"))
            (fresh.folder / "tenants" / f"t{seed}.safetensors").unlink()
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert failed == []
    assert answered[0] > 100
    assert fresh.worker_pid("tiny") == pid
    assert resident_kib(pid) - before < 64 * 1024


def resident_kib(pid: int) -> int:
    """What a process occupies."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def test_a_killed_worker_serves_cold_adapters_at_once(fresh: conftest.Daemon) -> None:
    """After `kill -9` of the worker every adapter answers, from the folded rows on disk."""
    model, described = base(fresh)
    names = [tenant(fresh, described, seed) for seed in range(1, 6)]
    fresh.apply(MODEL.format(memory="1GiB"))
    until(lambda: series(fresh, "adapter_cache_adapters") == 5)
    os.kill(fresh.worker_pid("tiny"), signal.SIGKILL)
    with fresh.client() as client:
        for name in names:
            (answer,) = client.classify(["w1 w2"], model="tiny", adapter=name, raw_logits=True)
            file = fresh.folder / "tenants" / f"{name}.safetensors"
            np.testing.assert_allclose(answer.logits, expected(model, described, file), atol=5e-5)
    (key,) = (fresh.folder / "state" / "folded").iterdir()
    assert len(list(key.iterdir())) == 5


def test_a_stored_file_that_rots_is_made_anew(fresh: conftest.Daemon) -> None:
    """Flipped bits in a stored adapter and in its folded rows reach no answer (checklist 88)."""
    model, described = base(fresh)
    name = tenant(fresh, described, 1)
    fresh.apply(MODEL.format(memory="1GiB"))
    file = fresh.folder / "tenants" / f"{name}.safetensors"
    right = expected(model, described, file)
    until(lambda: series(fresh, "adapter_cache_adapters") == 1)
    with fresh.client() as client:
        digest = client.classify(["w1"], model="tiny", adapter=name).served.adapter_digest
        (key,) = (fresh.folder / "state" / "folded").iterdir()
        for stored in (fresh.folder / "state" / "blobs" / digest, key / digest):
            stored.chmod(0o600)
            data = bytearray(stored.read_bytes())
            data[-7] ^= 0xFF
            stored.write_bytes(data)
        os.kill(fresh.worker_pid("tiny"), signal.SIGKILL)
        (answer,) = client.classify(["w1 w2"], model="tiny", adapter=name, raw_logits=True)
    np.testing.assert_allclose(answer.logits, right, atol=1e-5)


def test_a_bitinfer_user_moves_over(fresh: conftest.Daemon) -> None:
    """An imported BitInfer file, declared or brought along, answers as the merged model (B1, B2).

    The caller turns base64 text into adapter bytes; the daemon never reads a pickle.
    """
    model, described = base(fresh)
    written = checkpoints.adapter(fresh.folder / "made.safetensors", described, seed=5)
    right = expected(model, described, written)
    loaded = adapter_file.read_for(written, described)
    pt = fresh.folder / "made.pt"
    pt.write_bytes(bitinfer.write(loaded, described))
    done = fresh.cli(
        *("adapter", "import", str(pt), "--base", str(fresh.folder / "base")),
        *("--out", str(fresh.folder / "tenants" / "moved.safetensors"), "--labels", "x,y,z"),
    )
    assert done.returncode == 0, done.stderr
    fresh.apply(MODEL.format(memory="1GiB"))
    text = bitinfer.to_text(pt.read_bytes())
    brought = bitinfer.convert(text, base=described, label_names=("x", "y", "z"))
    with fresh.client() as client:
        (declared,) = client.classify(["w1 w2"], model="tiny", adapter="moved", raw_logits=True)
        (inline,) = client.classify(["w1 w2"], model="tiny", adapter_bytes=brought, raw_logits=True)
        with pytest.raises(failure.CallError) as refusal:
            client.classify(["w1"], model="tiny", adapter_bytes=pt.read_bytes())
    np.testing.assert_allclose(declared.logits, right, atol=1e-5)
    assert inline.logits == declared.logits
    assert set(inline.scores) == {"x", "y", "z"}
    assert refusal.value.code == "INVALID_ARGUMENT"
    assert os.listdir(fresh.folder / "state" / "inline")


def test_an_operator_watches_adapters_come(fresh: conftest.Daemon) -> None:
    """`Watch` tells what is there, then an adapter that is applied, until it is Ready."""
    _, described = base(fresh)
    tenant(fresh, described, 1)
    fresh.apply(MODEL.format(memory="1GiB"))
    checkpoints.adapter(fresh.folder / "own.safetensors", described, seed=3)
    with fresh.owner() as owner:
        changes = owner.watch("Adapter")
        listed = next(changes)
        assert [each.name for each in listed.objects] == ["tiny/t1"]
        fresh.apply(OBJECT.format(name="own", file="own.safetensors"))
        for change in changes:
            if any(each.name == "own" and ready(each.status) for each in change.objects):
                break
    shown = json.loads(fresh.cli("get", "adapter", "own", "-o", "json").stdout)
    assert shown["status"]["versions"]


def ready(status: object) -> bool:
    """Whether an object is Ready."""
    condition = status.condition("Ready")  # type: ignore[attr-defined]
    return condition is not None and condition.status == "True"
