"""`bertd serve --edges 2`: everything is as without, but calls come in through other processes."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bertd.client import failure, sync
from bertd.v1 import inference_pb2 as pb
from tests import checkpoints
from tests.e2e import conftest, load

pytestmark = pytest.mark.e2e

EDGES = 2
LOCAL = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
OK = grpc.StatusCode.OK
MODEL = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: tiny}
spec:
  base: {source: ./base}
  precision: fp32
  onTooLong: reject
  batching: {maxQueueDelay: 60s}
  allowInlineAdapters: true
  adapters:
    - {name: a, source: ./a.safetensors}
    - {name: tags, source: ./tags.safetensors}
"""
PACED = f"""
---
apiVersion: bertd.dev/v1
kind: Model
metadata: {{name: {load.MODEL}}}
spec:
  base: {{source: ./base}}
  precision: fp32
  batching: {{maxQueueDelay: 60s}}
  adapters:
    - {{name: a, source: ./a.safetensors}}
"""


def edges(daemon: conftest.Daemon) -> list[int]:
    """The process ids of its edges, in order of their start."""
    found = []
    for thread in Path(f"/proc/{daemon.pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                if b"bertd.edge" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return sorted(found)


def connections(pid: int, port: int) -> int:
    """How many callers are connected to a process."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(fd))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(
        line[1].endswith(f":{port:04X}") and line[3] == "01" and f"socket:[{line[9]}]" in inodes
        for line in lines
    )


@contextlib.contextmanager
def running(folder: Path, extra: Sequence[str] = ()) -> Iterator[conftest.Daemon]:
    """A daemon with edges, whose one lane has a known pace."""
    usual = dict(os.environ)
    os.environ["PYTHONPATH"] = str(Path(__file__).with_name("paced"))
    os.environ["BERTD_TEST_PACE"] = load.PACE
    options = ["--lanes", "1", "--edges", str(EDGES), *extra]
    try:
        with conftest.running(folder, options) as daemon:
            checkpoints.write(folder / "base", seed=1)
            checkpoints.write(folder / "next", seed=2)
            base = checkpoints.describe(folder / "base")
            checkpoints.adapter(folder / "a.safetensors", base, labels=2)
            tags = {"problem": "token", "head_input": "token"}
            checkpoints.adapter(folder / "tags.safetensors", base, labels=3, **tags)
            daemon.apply(MODEL + PACED)
            yield daemon
    finally:
        os.environ.clear()
        os.environ.update(usual)


@pytest.fixture(name="served", scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[conftest.Daemon]:
    with running(tmp_path_factory.mktemp("edges") / "d") as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def wires(daemon: conftest.Daemon, count: int) -> AsyncIterator[list[load.Wire]]:
    """Connections of their own, which the kernel spreads over the edges."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(daemon.data, options=LOCAL) for _ in range(count)]
        yield [load.Wire(await stack.enter_async_context(channel)) for channel in channels]


def asked(channel: grpc.Channel, method: str, body: bytes) -> object:
    """A reply without its times, or a refusal with all its trailers."""
    try:
        reply = channel.unary_unary(f"/bertd.v1.Inference/{method}")(body, timeout=30)
    except grpc.RpcError as error:
        return error.code(), error.details(), tuple(error.trailing_metadata() or ())
    answer = getattr(pb, f"{method}Response").FromString(reply)
    answer.served.ClearField("timings")
    return answer


def requests(daemon: conftest.Daemon) -> list[tuple[str, bytes]]:
    """Calls of every method, good and bad."""
    texts = [pb.Input(text="w1 w2"), pb.Input(pair=pb.TextPair(first="w3", second="w4 w5"))]
    ids = [pb.Input(token_ids=pb.TokenIds(ids=[2, 7, 8, 3]))]
    brought = (daemon.folder / "a.safetensors").read_bytes()
    tiny = {"model": "tiny", "inputs": [*texts, *ids]}
    long = pb.Input(text="w1 " * 600)
    calls = [
        ("Classify", pb.ClassifyRequest(**tiny, adapter="a", raw_logits=True)),
        ("Classify", pb.ClassifyRequest(**tiny, raw_logits=True)),
        ("Classify", pb.ClassifyRequest(**tiny, adapter="a", labels=["label1"])),
        ("Classify", pb.ClassifyRequest(**tiny, adapter_bytes=brought, raw_logits=True)),
        ("Classify", pb.ClassifyRequest(model="tiny", inputs=texts * 300)),
        ("Embed", pb.EmbedRequest(**tiny)),
        ("Embed", pb.EmbedRequest(**tiny, adapter="a", as_floats=True, normalize=False)),
        ("Tag", pb.TagRequest(**tiny, adapter="tags", raw_logits=True)),
        ("Classify", pb.ClassifyRequest(**tiny, adapter="tags")),
        ("Tag", pb.TagRequest(**tiny, adapter="a")),
        ("Classify", pb.ClassifyRequest(**tiny, adapter="b")),
        ("Classify", pb.ClassifyRequest(model="tony", inputs=texts)),
        ("Classify", pb.ClassifyRequest(inputs=texts)),
        ("Classify", pb.ClassifyRequest(model="tiny", adapter="a", inputs=[long])),
        ("Classify", pb.ClassifyRequest(model="tiny")),
        ("Classify", pb.ClassifyRequest(**tiny, adapter_bytes=b"no adapter")),
        ("Classify", pb.ClassifyRequest(**tiny, adapter_bytes=bytes(3 << 20))),
        ("Embed", pb.EmbedRequest(model="tiny", inputs=[pb.Input()])),
    ]
    return [*((method, call.SerializeToString()) for method, call in calls), ("Tag", b"\xff")]


def test_answers_and_refusals_are_those_of_the_front(served: conftest.Daemon) -> None:
    """Every method answers and refuses through an edge as it does through the admin socket."""
    with (
        grpc.insecure_channel(served.data) as edge,
        grpc.insecure_channel(f"unix:{served.socket}") as front,
    ):
        for method, body in requests(served):
            assert asked(edge, method, body) == asked(front, method, body)


def test_a_stream_goes_through_an_edge(served: conftest.Daemon) -> None:
    """Items of a stream are answered as calls are."""
    texts = [f"w{n} w{n + 1}" for n in range(40)]
    with sync.Client(served.data) as client, client.stream() as stream:
        found = [stream.classify([text], model="tiny", adapter="a") for text in texts]
        whole = client.classify(texts, model="tiny", adapter="a")
        assert [f.result()[0].label for f in found] == [each.label for each in whole]


def test_an_edge_maps_no_torch(served: conftest.Daemon) -> None:
    """An edge has neither torch nor weights in its memory (checklist 71)."""
    for pid in edges(served):
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "tokenizers" in maps
        assert not re.search(r"torch|kernels|safetensors|/blobs/", maps)


async def test_counts_are_sums_over_the_edges(served: conftest.Daemon) -> None:
    """Calls through several edges are counted once each, in the registry of the front."""
    embed = {"model": load.MODEL, "method": "Embed"}
    good = pb.EmbedRequest(model=load.MODEL, inputs=[pb.Input(text="w1")]).SerializeToString()
    bad = pb.EmbedRequest(model="nobody", inputs=[pb.Input(text="w1")]).SerializeToString()
    async with wires(served, 16) as found:
        calls = [
            wire.channel.unary_unary("/bertd.v1.Inference/Embed")(good)
            for wire in found
            for _ in range(5)
        ]
        await asyncio.gather(*calls)
        for wire in found:
            with pytest.raises(grpc.aio.AioRpcError, match="no model"):
                await wire.channel.unary_unary("/bertd.v1.Inference/Embed")(bad)
        port = int(served.data.rpartition(":")[2])
        shares = [connections(pid, port) for pid in edges(served)]
        assert sum(shares) == 16
        assert min(shares) > 0
    unknown = {"model": "", "method": "Embed", "code": "NOT_FOUND"}
    await load.until(
        lambda: (
            load.series(served, "requests_total", **unknown) >= 16
            and load.series(served, "requests_total", **embed, code="OK") >= 80
        )
    )
    assert load.series(served, "requests_total", **unknown) == 16
    assert load.series(served, "requests_total", **embed, code="OK") == 80
    assert load.series(served, "request_queue_duration_seconds_count", **embed) == 80
    assert load.series(served, "calls_without_deadline_total", method="Embed") == 96


async def test_callers_who_leave_take_their_rows_back(served: conftest.Daemon) -> None:
    """Hundreds of cancelled calls free the queue at once, and every row ends in one way (D6)."""
    rows = load.Rows(served)
    body = load.request(texts=8)
    async with wires(served, 4) as found:
        calls = [asyncio.create_task(wire.call(body, 60)) for wire in found for _ in range(25)]
        await load.until(lambda: rows.since()["received"] == 800)
        for call in calls:
            call.cancel()
        began_s = time.monotonic()
        end = await found[0].call(load.request())
        assert end.code is OK
        assert time.monotonic() - began_s < 1.0  # of 3 s and more that were queued
    ended = await rows.settled()
    assert ended["cancelled"] > 600
    assert ended["failed"] == ended["expired"] == 0


async def test_deadlines_hold_through_an_edge(served: conftest.Daemon) -> None:
    """A call that would be late is refused or expires in time, and is not computed later."""
    rows = load.Rows(served)
    async with wires(served, 2) as found:
        ahead = asyncio.create_task(found[0].call(load.request(texts=60), 60))
        await load.until(lambda: rows.since()["received"] == 60)
        late = await asyncio.gather(*(found[1].call(load.request(), 0.05) for _ in range(10)))
        assert load.codes(late) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        assert max(end.seconds for end in late) < 0.5
        assert (await ahead).code is OK
    ended = await rows.settled()
    assert ended["answered"] == 60
    assert ended["refused"] + ended["expired"] == ended["received"] - 60


async def test_refusals_come_at_once_and_say_when_to_come_again(served: conftest.Daemon) -> None:
    """Beyond what can be answered in time calls are refused with a pushback (checklist 56)."""
    async with wires(served, 4) as found:
        await asyncio.gather(*(wire.call(load.request(), 5) for wire in found))
        calls = await asyncio.gather(
            *(wire.call(load.request(), 0.5) for wire in found for _ in range(100))
        )
    refused = [end for end in calls if end.code is grpc.StatusCode.UNAVAILABLE]
    answered = [end for end in calls if end.code is OK]
    assert len(answered) > 10
    assert len(refused) > 200
    assert all(end.pushback_ms for end in refused)


async def test_nothing_that_changes_costs_a_call(served: conftest.Daemon) -> None:
    """Adapters are replaced and the Model rolls to another base while calls go on: none fails."""
    base = checkpoints.describe(served.folder / "base")
    adapter = served.folder / "a.safetensors"
    manifest = MODEL.replace("    - {name: tags, source: ./tags.safetensors}\n", "")
    bases = set()

    async def ask(wire: load.Wire, name: str) -> None:
        while not stop.is_set():
            end = await wire.call(load.request(name, model="tiny", words=3), 30)
            assert end.code is OK, end
            bases.add(pb.ClassifyResponse.FromString(end.reply).served.revision)

    stop = asyncio.Event()
    usual = adapter.read_bytes()
    try:
        async with wires(served, 4) as found, asyncio.TaskGroup() as tasks:
            for wire in found:
                tasks.create_task(ask(wire, ""))
                tasks.create_task(ask(wire, "a"))
            for seed in range(5):
                checkpoints.adapter(adapter, base, labels=2 + seed % 2, seed=seed)
                await asyncio.to_thread(served.apply, manifest)
            # Adapters belong to one base, so the Model rolls by what makes a new revision alone.
            longer = manifest.replace("precision: fp32", "precision: fp32\n  maxLength: 32")
            for text in (longer, manifest.replace("precision: fp32", "precision: bf16"), manifest):
                await asyncio.to_thread(served.apply, text)
            stop.set()
    finally:
        adapter.write_bytes(usual)
        await asyncio.to_thread(served.apply, MODEL)
    assert sum(len(wire.ended) for wire in found) > 100
    assert len(bases) > 1


async def test_an_edge_that_is_killed_costs_its_own_connections_alone(
    served: conftest.Daemon,
) -> None:
    """Calls over other edges all succeed, its rows are taken back, and a new edge takes its place.

    Connections of the one that died fail once and are made again.
    """
    rows = load.Rows(served)
    port = int(served.data.rpartition(":")[2])
    mark = len(served.log)
    stop = asyncio.Event()

    async def ask(wire: load.Wire) -> None:
        while not stop.is_set():
            end = await wire.call(load.request(words=2), 30)
            if end.code is not OK:
                await asyncio.sleep(0.05)

    async with wires(served, 16) as found:
        async with asyncio.TaskGroup() as tasks:
            for wire in found:
                tasks.create_task(ask(wire))
            await load.until(lambda: all(len(wire.ended) > 3 for wire in found))
            victim, other = edges(served)
            theirs = connections(victim, port)
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(served.wait_for_log, '"edge restarted"', mark)
            seen = [len(wire.ended) for wire in found]
            await load.until(
                lambda: all(len(w.ended) > n + 3 for w, n in zip(found, seen, strict=True))
            )
            stop.set()
        hurt = [wire for wire in found if wire.count(OK) < len(wire.ended)]
        assert len(hurt) <= theirs < 16
        assert all(wire.ended[-1].code is OK for wire in found)
        assert other in edges(served)
        assert victim not in edges(served)
        assert len(edges(served)) == EDGES
    ended = await rows.settled()
    assert ended["failed"] == 0


def test_a_second_daemon_is_refused(served: conftest.Daemon, tmp_path: Path) -> None:
    """With edges of its own or without, and the first is unaffected (checklist 48)."""
    for extra in ([], ["--edges", "1"]):
        folder = tmp_path / f"second{len(extra)}"
        folder.mkdir(mode=0o700)
        done = subprocess.run(
            [
                *(str(conftest.BERTD), "serve", "--state-dir", str(folder / "state")),
                *("--listen", served.data, "--admin", str(folder / "admin.sock")),
                *("--metrics", "", *extra),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        assert "another process listens on" in done.stderr
    with served.client() as client:
        assert client.classify(["w1"], model="tiny", adapter="a")


def test_edges_need_a_port(tmp_path: Path) -> None:
    """With Unix sockets alone there is nothing to share, which is said."""
    done = subprocess.run(
        [str(conftest.BERTD), "serve", "--edges", "1", "--listen", f"unix:{tmp_path}/a"],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "TCP" in done.stderr


async def test_sigterm_answers_what_was_begun(tmp_path: Path) -> None:
    """Health goes first, calls in flight are answered, edges and daemon leave (checklist 58)."""
    with running(tmp_path / "d") as daemon:
        pids = edges(daemon)
        rows = load.Rows(daemon)
        async with wires(daemon, 4) as found:
            stub = health_pb2_grpc.HealthStub(found[0].channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="model/tiny"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            calls = [asyncio.create_task(wire.call(load.request(texts=20), 60)) for wire in found]
            await load.until(lambda: rows.since()["received"] == 80)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            status = (await watch.read()).status
            assert status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert load.codes(await asyncio.gather(*calls)) == {"OK"}
        code = await asyncio.to_thread(daemon.process.wait, 20)
        daemon.process = None
        assert code == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_killed_daemon_leaves_nothing_behind(tmp_path: Path) -> None:
    """Edges end with the daemon however it ends, and the port is free for the next one."""
    with running(tmp_path / "d") as daemon:
        pids = edges(daemon)
        address = daemon.data
        with contextlib.suppress(failure.CallError), daemon.client() as client:
            client.classify(["w1"], model="tiny", adapter="a")
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        await load.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        host, _, port = address.rpartition(":")
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind((host, int(port)))
            next_one.listen(1)
