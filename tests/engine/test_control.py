"""The worker's side of the control protocol."""

import hashlib
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

    def run(self, slot: int) -> frames.Result | frames.Failure:
        """One row of five tokens through the lane."""
        ids, types = tiny.rows([5], 80, 2)
        row = (ids[0], types[0], slot, frames.Task.CLASSIFY)
        self._lane.send(frames.encode_batch(frames.pack_rows(1, [row])))
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
