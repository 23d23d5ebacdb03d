"""Whatever one caller sends, it gets the right code, and the others never notice."""

import pickle
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bertd.v1 import inference_pb2 as pb
from bertd.v1 import inference_pb2_grpc
from tests import checkpoints
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

CLASSIFY = "/bertd.v1.Inference/Classify"
MODEL = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: tiny}
spec:
  base: {source: ./base}
  onTooLong: reject
  adapters: [{source: ./a.safetensors}]
"""


@pytest.fixture(name="served", scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[conftest.Daemon]:
    with conftest.running(tmp_path_factory.mktemp("hostile") / "d") as daemon:
        checkpoints.write(daemon.folder / "base")
        described = checkpoints.describe(daemon.folder / "base")
        checkpoints.adapter(daemon.folder / "a.safetensors", described, labels=2)
        daemon.apply(MODEL)
        yield daemon


@pytest.fixture(name="channel")
def _channel(served: conftest.Daemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.data) as channel:
        yield channel


def request(*texts: str, **fields: object) -> pb.ClassifyRequest:
    """A Classify request to the tiny model."""
    inputs = [pb.Input(text=text) for text in texts]
    return pb.ClassifyRequest(**{"model": "tiny", "inputs": inputs} | fields)  # type: ignore[arg-type]


def ids(*values: int) -> list[pb.Input]:
    """One input of token ids."""
    return [pb.Input(token_ids=pb.TokenIds(ids=values))]


BAD: dict[str, tuple[bytes, str, str]] = {
    "unknown model": (request("w1", model="tinny").SerializeToString(), "NOT_FOUND", "tinny"),
    "unknown adapter": (request("w1", adapter="b").SerializeToString(), "NOT_FOUND", "'b'"),
    "unknown label": (
        request("w1", adapter="a", labels=["labell0"]).SerializeToString(),
        "NOT_FOUND",
        "labell0",
    ),
    "no model": (request("w1", model="").SerializeToString(), "INVALID_ARGUMENT", "model"),
    "no inputs": (request().SerializeToString(), "INVALID_ARGUMENT", "inputs"),
    "empty input": (
        request(inputs=[pb.Input()]).SerializeToString(),
        "INVALID_ARGUMENT",
        "inputs[0]",
    ),
    "ids out of range": (
        request(inputs=ids(2, 5000, 3)).SerializeToString(),
        "INVALID_ARGUMENT",
        "5000",
    ),
    "negative id": (request(inputs=ids(2, -1)).SerializeToString(), "INVALID_ARGUMENT", "-1"),
    "no ids": (request(inputs=ids()).SerializeToString(), "INVALID_ARGUMENT", "ids"),
    "over-long text": (
        request("w1 " * 600).SerializeToString(),
        "INVALID_ARGUMENT",
        "maxLength",
    ),
    "not UTF-8": (b"\x0a\x04tiny\x1a\x06\x0a\x04\xff\xfe\xff\xfe", "INVALID_ARGUMENT", "UTF-8"),
    "a pickle": (pickle.dumps({"model": "tiny"}), "INVALID_ARGUMENT", "ClassifyRequest"),
    "too many inputs": (
        request(*["w1"] * 1025).SerializeToString(),
        "RESOURCE_EXHAUSTED",
        "1024",
    ),
    "too large a message": (
        request("x" * (5 << 20)).SerializeToString(),
        "RESOURCE_EXHAUSTED",
        "",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_gets_its_code(
    served: conftest.Daemon, channel: grpc.Channel, name: str
) -> None:
    """Every bad message gets its code, naming the thing, and the next call is fine (D14)."""
    message, code, text = BAD[name]
    raw = channel.unary_unary(CLASSIFY)
    with pytest.raises(grpc.RpcError) as refusal:
        raw(message, timeout=10)
    assert refusal.value.code().name == code
    assert text in refusal.value.details()
    assert str(served.folder) not in refusal.value.details()
    stub = inference_pb2_grpc.InferenceStub(channel)
    assert len(stub.Classify(request("w1"), timeout=10).results) == 1


def test_extreme_texts_are_answered(channel: grpc.Channel) -> None:
    """Empty text, 1 MB of text with truncation, and a text of unknown words are answered."""
    stub = inference_pb2_grpc.InferenceStub(channel)
    options = pb.Options(truncate=True)
    megabyte = "w1 " * 349_000
    reply = stub.Classify(request("", megabyte, "??? !!!", options=options), timeout=10)
    assert len(reply.results) == 3
    assert reply.served.tokens >= 512


def test_a_deadline_already_past(channel: grpc.Channel) -> None:
    """A call whose deadline has passed is DEADLINE_EXCEEDED and computes nothing."""
    stub = inference_pb2_grpc.InferenceStub(channel)
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Classify(request("w1"), timeout=-1)  # 1e-6 is rounded up, and a race
    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_callers_that_vanish_hurt_nobody(channel: grpc.Channel) -> None:
    """While a hundred calls are cancelled in flight, every other call is answered right (D5)."""
    stub = inference_pb2_grpc.InferenceStub(channel)
    expected = stub.Classify(request("w1 w2 w3"), timeout=10).results
    long_text = "w5 " * 500
    doomed = [stub.Classify.future(request(long_text), timeout=30) for _ in range(100)]
    kept = [stub.Classify.future(request("w1 w2 w3"), timeout=30) for _ in range(50)]
    for call in doomed:
        call.cancel()
    for call in kept:
        scores = [score.score for score in call.result().results[0].scores]
        assert scores == pytest.approx([s.score for s in expected[0].scores], abs=1e-5)


def test_liveness_answers_while_32_callers_compute(
    served: conftest.Daemon, channel: grpc.Channel
) -> None:
    """With 32 callers keeping the engine busy, each health check is answered in 100 ms (F6)."""
    stub = inference_pb2_grpc.InferenceStub(channel)
    probe = health_pb2_grpc.HealthStub(channel)
    stop = threading.Event()

    def call_until_stopped() -> int:
        answered = 0
        while not stop.is_set():
            stub.Classify(request("w1 " * 60), timeout=30)
            answered += 1
        return answered

    latencies = []
    with futures.ThreadPoolExecutor(32) as pool:
        callers = [pool.submit(call_until_stopped) for _ in range(32)]
        for _ in range(30):
            began = time.perf_counter()
            reply = probe.Check(health_pb2.HealthCheckRequest(service="live"), timeout=5)
            latencies.append(time.perf_counter() - began)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stop.set()
        assert all(caller.result() > 0 for caller in callers)
    assert sorted(latencies)[len(latencies) // 2] < 0.1


def test_a_hundred_callers_each_get_their_own_answer(channel: grpc.Channel) -> None:
    """100 concurrent calls of mixed lengths and adapters equal their lone answers (D2, D7)."""
    stub = inference_pb2_grpc.InferenceStub(channel)
    asked = [
        request(" ".join(f"w{(n * k) % 80}" for k in range(1, 2 + n % 37)), adapter="a" * (n % 2))
        for n in range(100)
    ]
    alone = [stub.Classify(each, timeout=10) for each in asked]
    together = [stub.Classify.future(each, timeout=30) for each in asked]
    for lone, call in zip(alone, together, strict=True):
        scores = [s.score for s in call.result().results[0].scores]
        assert scores == pytest.approx([s.score for s in lone.results[0].scores], abs=1e-5)


@pytest.mark.parametrize("loud", ["batching: {maxRows: 0}", "batching: {maxTokens: -5}"])
def test_impossible_limits_are_refused(served: conftest.Daemon, loud: str) -> None:
    """Limits of zero or less are refused with their position, and nothing changes (D3)."""
    path = served.folder / "limits.yaml"
    path.write_text(MODEL.replace("  onTooLong: reject", f"  {loud}"))
    done = served.cli("apply", str(path))
    assert done.returncode == 2
    assert "limits.yaml:7:" in done.stderr
    assert "batching.max" in done.stderr


def test_the_front_maps_neither_torch_nor_weights(served: conftest.Daemon) -> None:
    """The front's memory map holds no torch library and no weight file (checklist 71)."""
    front = Path(f"/proc/{served.pid}/maps").read_text()
    assert "torch" not in front
    assert str(served.folder / "state" / "blobs") not in front
    worker = Path(f"/proc/{served.worker_pid('tiny')}/maps").read_text()
    assert "libtorch" in worker
    assert str(served.folder / "state" / "blobs") in worker
