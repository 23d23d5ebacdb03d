"""The worker's side of the control protocol."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertd import frames
from bertd.engine import worker
from tests import checkpoints, tiny


class Front:
    """The front's end of a worker that runs in a thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        lane, self._lane_theirs = socket.socketpair()
        self._channel, self._lane = worker.Channel(ours), worker.Channel(lane)
        self._control_theirs = theirs
        self._thread = threading.Thread(target=worker.Worker(theirs, [self._lane_theirs]).serve)
        self._thread.start()

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One control message and its reply."""
        self._channel.send(frames.encode_control(7, {"op": operation, **fields}))
        received = self._channel.receive()
        assert received is not None
        assert received[0].id == 7
        return frames.decode_control(received[1])

    def run(self, slot: int, threads: int = 1) -> frames.Result | frames.Failure:
        """One row of five tokens through the lane."""
        ids, types = tiny.rows([5], 80, 2)
        row = (ids[0], types[0], slot, frames.Task.CLASSIFY)
        self._lane.send(frames.encode_batch(frames.pack_rows(1, [row], threads)))
        received = self._lane.receive()
        assert received is not None
        header, body = received
        if header.kind == frames.Kind.FAILURE:
            return frames.decode_failure(header, body)
        return frames.decode_result(header, body)

    def close(self) -> None:
        """Hangs up, which ends the worker and its lane."""
        self._channel.close()
        self._lane.close()
        self._thread.join()
        for lane in (t for t in threading.enumerate() if t.name.startswith("lane-")):
            lane.join()
        self._control_theirs.close()
        self._lane_theirs.close()


@pytest.fixture(name="front")
def _front() -> Iterator[Front]:
    front = Front()
    yield front
    front.close()


def start(front: Front, folder: Path, **options: Any) -> dict[str, Any]:
    """Starts a worker on a tiny base in `folder`."""
    checkpoints.write(folder)
    files = {str(p.relative_to(folder)): str(p) for p in folder.rglob("*") if p.is_file()}
    fields = {"files": files, "precision": "fp32", "pooling": None, "folded": None} | options
    return front.ask("start", **fields)


def fields(path: Path, slot: int, **options: Any) -> dict[str, Any]:
    """One entry of a `load` message."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"slot": slot, "digest": digest, "path": str(path), "cache": True} | options


def test_load_serve_free(front: Front, tmp_path: Path) -> None:
    """Adapters load together, answer in their slots, and are gone when freed; facts count bytes."""
    facts = start(front, tmp_path / "base", folded=str(tmp_path / "folded"))["ok"]
    assert facts["slotBytes"] == 4 * (2 * (3 * 24 + 96) + 24)
    described = checkpoints.describe(tmp_path / "base")
    paths = [checkpoints.adapter(tmp_path / f"{n}", described, labels=n) for n in (2, 5)]
    reply = front.ask("load", adapters=[fields(path, 4 + n) for n, path in enumerate(paths)])
    assert reply == {
        "ok": {"failed": {}, "headBytes": {"4": 4 * (2 * 25 + 24), "5": 4 * (5 * 25 + 24)}}
    }
    assert len(list((tmp_path / "folded").rglob("*/*"))) == 2
    answers = [front.run(slot) for slot in (0, 4, 5)]
    assert [a.vectors[0].shape for a in answers if isinstance(a, frames.Result)] == [
        (1, 3), (1, 2), (1, 5)
    ]  # fmt: skip
    assert front.ask("free", slots=[4, 77]) == {"ok": {}}
    assert isinstance(front.run(4), frames.Failure)
    assert isinstance(front.run(5), frames.Result)


def test_kernels_that_nobody_knows(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt `BERTD_KERNELS` is a refusal that says so, and the worker goes on answering."""
    monkeypatch.setenv("BERTD_KERNELS", "avx1024")
    error = start(front, tmp_path / "base")["error"]
    assert (error["kind"], error["reason"]) == ("BadArtifact", "NoSuchKernels")
    assert "got 'avx1024'" in error["message"]
    monkeypatch.setenv("BERTD_KERNELS", "auto")
    assert "ok" in start(front, tmp_path / "base")


def test_a_worker_knows_its_speed(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts say what computes, why, and what a core can do; torch alone runs no wide batch."""
    monkeypatch.setenv("BERTD_KERNELS", "eager")
    facts = start(front, tmp_path / "base")["ok"]
    assert (facts["kernels"], facts["wide"]) == ("torch", False)
    assert facts["kernelsReason"] == "BERTD_KERNELS=eager"
    assert set(facts["peakOperationsPerSecond"]) == {"fp32", "bf16", "int8"}
    assert all(rate > 0 for rate in facts["peakOperationsPerSecond"].values())
    assert facts["operationsPerToken"] == 2 * 2 * (4 * 24**2 + 2 * 24 * 96)
    assert facts["operationsPerTokenSquared"] == 4 * 2 * 24


def test_a_result_counts_what_it_needed(front: Front, tmp_path: Path) -> None:
    """Efficiency comes from operations that the worker counted: those of five tokens here."""
    facts = start(front, tmp_path / "base")["ok"]
    result = front.run(0)
    assert isinstance(result, frames.Result)
    everything = 5 * (facts["operationsPerToken"] + 5 * facts["operationsPerTokenSquared"])
    assert everything / 2 < result.operations <= everything


def test_a_restart_uses_what_auto_measured(tmp_path: Path) -> None:
    """A second worker reads the first one's record instead of measuring, whatever is faster."""
    reasons = []
    for _ in range(2):
        front = Front()
        try:
            facts = start(
                front, tmp_path / "base", precision="auto", choices=str(tmp_path / "choices")
            )["ok"]
        finally:
            front.close()
        reasons.append(facts["precisionReason"])
        (record,) = (tmp_path / "choices").iterdir()
        told = json.loads(record.read_text())
        told["seconds"]["fp32"] = {size: 77.0 for size in told["seconds"]["fp32"]}
        told["seconds"]["bf16"] = {size: 1.0 for size in told["seconds"]["bf16"]}
        record.write_text(json.dumps(told))
    assert "77.00x" not in reasons[0]
    assert reasons[1].count("77.00x") == 2
    assert facts["precision"] == "bf16"


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_a_wide_batch_gives_the_same_answer(front: Front, tmp_path: Path, threads: int) -> None:
    """However many threads compute a row together, its answer stays."""
    start(front, tmp_path / "base")
    alone, together = front.run(0), front.run(0, threads)
    assert isinstance(alone, frames.Result)
    assert isinstance(together, frames.Result)
    np.testing.assert_allclose(together.vectors[0], alone.vectors[0], rtol=1e-5, atol=1e-6)


def test_a_bad_adapter_is_described_and_the_others_load(front: Front, tmp_path: Path) -> None:
    """A refused file comes back as kind, message, hint and reason under its slot."""
    start(front, tmp_path / "base")
    described = checkpoints.describe(tmp_path / "base")
    good = checkpoints.adapter(tmp_path / "good", described)
    reply = front.ask(
        "load", adapters=[fields(good, 1, digest="f" * 64), fields(good, 2, cache=False)]
    )["ok"]
    assert set(reply["headBytes"]) == {"2"}
    assert set(reply["failed"]) == {"1"}
    assert reply["failed"]["1"]["kind"] == "BadArtifact"
    assert reply["failed"]["1"]["reason"] == "BlobCorrupt"
    assert "f" * 64 in reply["failed"]["1"]["message"]
    assert reply["failed"]["1"]["hint"]


def test_too_many_adapters_in_a_message(front: Front, tmp_path: Path) -> None:
    """A message over the limit is refused whole: the front's other messages wait behind each."""
    start(front, tmp_path / "base")
    path = checkpoints.adapter(tmp_path / "a", checkpoints.describe(tmp_path / "base"))
    many = [fields(path, slot) for slot in range(1, worker.LOAD_ADAPTERS_MAX + 2)]
    reply = front.ask("load", adapters=many)
    assert reply["error"]["kind"] == "Bug"
    assert "64" in reply["error"]["message"]
    assert len(front.ask("load", adapters=many[1:])["ok"]["headBytes"]) == 64


@pytest.mark.parametrize("adapters", [[], [{"slot": 1}]])
def test_messages_before_start(front: Front, adapters: list[dict[str, Any]]) -> None:
    """Adapters before a base are the front's bug; freeing nothing is nothing."""
    assert front.ask("load", adapters=adapters)["error"]["kind"] == "Bug"
    assert front.ask("free", slots=[1]) == {"ok": {}}


def test_nonsense_is_answered(front: Front, tmp_path: Path) -> None:
    """A message of an unknown kind or without its fields gets an error, and the next one works."""
    assert front.ask("dance")["error"]["reason"] == "WorkerError"
    start(front, tmp_path / "base")
    assert front.ask("load", adapters=[{"slot": 1}])["error"]["reason"] == "WorkerError"
    answer = front.run(0)
    assert isinstance(answer, frames.Result)
    assert np.isfinite(answer.vectors[0]).all()


def test_a_gpu_that_is_not_there(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker told to use a GPU that it does not find says so, and the error is final."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    error = start(front, tmp_path, device="cuda")["error"]
    assert (error["kind"], error["reason"]) == ("BadArtifact", "NoCuda")
    assert "finds no GPU" in error["message"]


def test_a_worker_says_where_it_runs(front: Front, tmp_path: Path) -> None:
    """The facts name the device, by which the front chooses the permits."""
    assert start(front, tmp_path)["ok"]["device"] == "cpu"
