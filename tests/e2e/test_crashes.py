"""Processes die; callers do not notice, and nothing is left behind."""

import os
import signal
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bertd.client import failure
from tests import checkpoints
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

MODEL = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: tiny}
spec:
  base: {source: ./base}
  adapters: [{source: ./a.safetensors}]
"""


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> None:
    """Waits for the end of a process that is not our child."""
    deadline = time.monotonic() + conftest.TIMEOUT_S
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.01)


def serve_tiny(daemon: conftest.Daemon) -> None:
    """Declares a tiny model with one adapter."""
    checkpoints.write(daemon.folder / "base")
    described = checkpoints.describe(daemon.folder / "base")
    checkpoints.adapter(daemon.folder / "a.safetensors", described, labels=2)
    daemon.apply(MODEL)


def test_killing_workers_under_load_loses_no_call(fresh: conftest.Daemon) -> None:
    """Three SIGKILLs of a worker under load: every call gets its answer (checklist 72)."""
    serve_tiny(fresh)
    stop = threading.Event()
    answers: list[float] = []
    failures: list[Exception] = []

    def call() -> None:
        with fresh.client() as client:
            while not stop.is_set():
                try:
                    (one,) = client.classify(["w1 w2 w3"], model="tiny", adapter="a")
                    answers.append(one.score)
                except Exception as error:
                    failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for restarts in range(1, 4):
        os.kill(fresh.worker_pid("tiny"), signal.SIGKILL)
        deadline = time.monotonic() + conftest.TIMEOUT_S
        while fresh.log.count("worker restarted") < restarts:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        wait_until_ready(fresh)
    stop.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert len(answers) > 20
    assert max(answers) - min(answers) < 1e-6


def wait_until_ready(daemon: conftest.Daemon) -> None:
    """Waits until the model is Ready again, as an operator would."""
    done = daemon.cli("wait", "model/tiny", "--for", "condition=Ready", "--timeout", "30s")
    assert done.returncode == 0, done.stderr


def test_health_follows_the_model(fresh: conftest.Daemon) -> None:
    """Health of a Model: unknown, serving, not serving while its worker is replaced, serving."""
    with grpc.insecure_channel(fresh.data) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Check(health_pb2.HealthCheckRequest(service="model/tiny"), timeout=5)
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="model/tiny"), timeout=60)
        seen = []

        def follow() -> None:
            try:
                for reply in watch:
                    seen.append(reply.status)
            except grpc.RpcError:
                pass  # the test hangs up

        follower = threading.Thread(target=follow)
        follower.start()
        serve_tiny(fresh)
        os.kill(fresh.worker_pid("tiny"), signal.SIGKILL)
        fresh.wait_for_log("worker restarted")
        wait_until_ready(fresh)
        for name in ("", "ready", "live", "startup", "model/tiny"):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING, name
        deadline = time.monotonic() + 10
        while seen[-1:] != [1] and time.monotonic() < deadline:
            time.sleep(0.01)
        watch.cancel()
        follower.join()
    answer = health_pb2.HealthCheckResponse
    assert seen[0] == answer.SERVICE_UNKNOWN
    serving = seen[seen.index(answer.SERVING) :]
    assert serving == [answer.SERVING, answer.NOT_SERVING, answer.SERVING]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_front(fresh: conftest.Daemon, number: int) -> None:
    """However the front ends, its worker ends too, and its state serves again (checklist 76)."""
    serve_tiny(fresh)
    pid = fresh.worker_pid("tiny")
    code = fresh.stop(number)
    assert code == (-number if number == signal.SIGKILL else 0)
    wait_until_gone(pid)
    fresh.start()
    wait_until_ready(fresh)
    with fresh.client() as client:
        assert client.classify(["w1"], model="tiny", adapter="a")[0].label


def test_a_second_daemon_is_told_and_the_first_is_unaffected(
    fresh: conftest.Daemon, tmp_path: Path
) -> None:
    """A second daemon on the same state, port or socket exits with 4 (checklist 48, 82)."""
    serve_tiny(fresh)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    clashes = {
        "state directory": (fresh.folder / "state", "127.0.0.1:0", other / "s"),
        fresh.data: (other / "1", fresh.data, other / "s"),
        fresh.socket: (other / "2", "127.0.0.1:0", fresh.socket),
    }
    for text, (state, listen, socket) in clashes.items():
        done = fresh.cli(
            *("serve", "--state-dir", str(state), "--listen", listen),
            *("--admin", str(socket), "--metrics", ""),
        )
        assert done.returncode == 4, done.stderr
        assert text in done.stderr
        with fresh.client() as client:
            assert client.classify(["w1"], model="tiny")[0].label


def test_without_a_daemon_every_verb_says_so(tmp_path: Path) -> None:
    """With no daemon, verbs fail with exit code 5, the address and the remedy (checklist 40)."""
    nobody = conftest.Daemon(tmp_path)
    for verb in (["get", "models"], ["predict", "m", "text"], ["delete", "model/m"]):
        done = nobody.cli(*verb)
        assert done.returncode == 5, done.stderr
        assert nobody.socket in done.stderr
        assert "bertd serve" in done.stderr


def test_a_call_while_the_model_loads_may_be_sent_again(fresh: conftest.Daemon) -> None:
    """Before the first revision serves, callers get UNAVAILABLE with a pushback, then answers."""
    checkpoints.write(fresh.folder / "base")
    described = checkpoints.describe(fresh.folder / "base")
    checkpoints.adapter(fresh.folder / "a.safetensors", described, labels=2)
    manifest = fresh.folder / "manifest.yaml"
    manifest.write_text(MODEL)
    assert fresh.cli("apply", str(manifest)).returncode == 0
    with fresh.client() as client:
        refusals = []
        while True:
            try:
                client.classify(["w1"], model="tiny", adapter="a")
                break
            except failure.CallError as error:
                refusals.append((error.code, error.retry_after_s))
    assert {code for code, _ in refusals} <= {"UNAVAILABLE"}
    assert all(after_s and after_s > 0 for _, after_s in refusals)
