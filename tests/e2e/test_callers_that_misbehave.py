"""Some callers do all they can to be a nuisance; a polite one hardly notices, and no row is lost.

The daemon of these tests has a wall clock that jumps about by hours all the time.
"""

import ast
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import bertd
from bertd.v1 import inference_pb2 as pb
from tests.e2e import conftest, load, rude

pytestmark = pytest.mark.e2e

OK = grpc.StatusCode.OK
# A batch takes at most 66 ms here, one long row 260: the running one, one's own, and a margin for
# whatever else the machine does.
POLITE_S = 1.5
STOPPED_S = 20.0  # all that was asked takes half a second; callers of before hold up nothing
STREAM = "/bertd.v1.Inference/Stream"
A_YEAR_S = 365 * 86_400.0
LONGEST_BYTES = 4 * 1024 * 1024
# Whoever measures with these, measures with a clock that somebody sets.
WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}
# They stamp: what a status tells people, and how long ago a file was written, which has no other.
STAMPS = {"reconcile/controller.py", "reconcile/resolving.py", "cli/adapter_train.py"}
VANISHING = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
body = bytes.fromhex(sys.argv[3])
calls = [channel.unary_unary(sys.argv[2]).future(body, timeout=60) for _ in range(100)]
calls[0].result()
print("mid-batch", flush=True)
calls[-1].result()
"""


@pytest.fixture(name="served", scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[conftest.Daemon]:
    folder = tmp_path_factory.mktemp("misbehave") / "d"
    declared = load.manifest({"polite": 1, "rude": 1}, batching="maxRows: 8, maxQueueDelay: 30s")
    with load.running(folder, declared, wall_clock_jumps=True) as daemon:
        yield daemon


@asynccontextmanager
async def politeness(daemon: conftest.Daemon, *, most_s: float = POLITE_S) -> AsyncIterator[None]:
    """A polite caller beside the body, whose calls all succeed, soon; then all rows have ended."""
    rows = load.Rows(daemon)
    async with load.wire(daemon) as target:
        async with load.beside(load.until_cancelled(target, load.request("polite"))):
            yield
            enough = len(target.ended) + 3
            await load.until(lambda: len(target.ended) >= enough)
        assert load.codes(target.ended) == {"OK"}
        assert load.percentile(target.seconds(), 0.95) <= most_s
    await rows.settled()


async def test_thousands_that_vanish(served: conftest.Daemon) -> None:
    """2,000 calls are given up while they wait or run; nothing of them stays behind (D5)."""
    rows = load.Rows(served)
    async with politeness(served):
        for wave in range(10):
            async with load.wire(served) as target:
                asked = [
                    asyncio.create_task(target.call(load.request("rude"), 60)) for _ in range(200)
                ]
                await load.until(lambda asked=asked: any(each.done() for each in asked))
                if wave % 2:
                    await target.channel.close(None)
                for each in asked:
                    each.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
    found = await rows.settled()
    assert found["cancelled"] >= 1000
    assert found["failed"] == 0
    assert load.series(served, "queue_rows", model=load.MODEL) == 0


async def test_a_process_that_is_killed_mid_batch(served: conftest.Daemon) -> None:
    """A caller's process that ends with 100 calls under way leaves no row behind (D5)."""
    rows = load.Rows(served)
    command = [sys.executable, "-c", VANISHING, served.data, load.CLASSIFY]
    async with politeness(served):
        caller = await asyncio.create_subprocess_exec(
            *(*command, load.request("rude").hex()), stdout=subprocess.PIPE
        )
        assert caller.stdout
        assert await caller.stdout.readline() == b"mid-batch\n"
        caller.kill()
        await caller.wait()
    found = await rows.settled()
    assert found["cancelled"] >= 1


async def test_callers_that_never_read(served: conftest.Daemon) -> None:
    """Connections that take no byte of their replies hold up nobody, and are let go of."""
    descriptors = Path(f"/proc/{served.pid}/fd")
    before = len(list(descriptors.iterdir()))
    rows = load.Rows(served)
    deaf = [rude.Deaf(served.data) for _ in range(10)]
    async with politeness(served):
        for caller in deaf:
            for _ in range(10):
                caller.ask(load.CLASSIFY, load.request("rude"))
        await load.until(lambda: rows.since()["answered"] >= 100)
        for caller in deaf:
            caller.close()
    await load.until(lambda: len(list(descriptors.iterdir())) <= before)


async def test_streams_that_never_read(served: conftest.Daemon) -> None:
    """Streams that only write are made to wait, hold up nobody, and end with their caller (D5)."""
    rows = load.Rows(served)
    body = pb.ClassifyRequest.FromString(load.request("rude", words=1))
    async with politeness(served), load.wire(served) as target:
        open_stream = target.channel.stream_stream(STREAM)
        streams = [open_stream() for _ in range(4)]

        async def write(stream: Any) -> None:
            for id_ in itertools.count(1):
                item = pb.StreamItem(id=id_, classify=body)
                await stream.write(pb.StreamRequest(items=[item]).SerializeToString())

        async with load.beside(*map(write, streams)):
            await load.until(lambda: rows.since()["answered"] >= 400)
        for stream in streams:
            stream.cancel()
    assert (await rows.settled())["failed"] == 0


async def test_messages_of_the_largest_size(served: conftest.Daemon) -> None:
    """Messages of 4 MiB, 1,024 inputs at once and what is larger are nobody else's trouble."""
    words = (LONGEST_BYTES - 100) // len("w1 ") // 4
    async with politeness(served), load.wire(served) as target:
        ended = await asyncio.gather(
            *(target.call(load.request("rude", words=words, texts=4), 60) for _ in range(3)),
            target.call(load.request("rude", words=words, texts=5), 60),
            target.call(load.request("rude", words=1, texts=1024), 60),
            target.call(load.request("rude", words=1, texts=1025), 60),
        )
    codes = [each.code for each in ended]
    large = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert codes == [OK, OK, OK, large, OK, large]


async def test_one_token_and_five_hundred(served: conftest.Daemon) -> None:
    """A caller that sends rows of 3 and of 512 tokens in turns gets them all, and others theirs."""
    async with politeness(served), load.wire(served) as target:
        ended = await asyncio.gather(
            *(target.call(load.request("rude", words=n % 2 * 509 + 1), 60) for n in range(16))
        )
    assert load.codes(ended) == {"OK"}


async def test_deadlines_of_nothing_and_of_a_year(served: conftest.Daemon) -> None:
    """Deadlines of 0, of a microsecond and of a year are kept, and disturb nobody."""
    rows = load.Rows(served)
    async with politeness(served), load.wire(served) as target:
        short = [target.call(load.request("rude"), n % 2 * 1e-6) for n in range(200)]
        long = [target.call(load.request("rude"), A_YEAR_S) for _ in range(20)]
        ended = await asyncio.gather(*short, *long)
    assert load.codes(ended[:200]) == {"DEADLINE_EXCEEDED"}
    assert load.codes(ended[200:]) == {"OK"}
    assert (await rows.settled())["failed"] == 0


async def test_a_worker_that_dies_in_an_overload(served: conftest.Daemon) -> None:
    """SIGKILL of the worker while 40 callers want it: nothing fails, all rows end once (D6)."""
    rows = load.Rows(served)
    restarts = served.log.count("worker restarted")
    async with load.wire(served) as target:
        loops = [load.until_cancelled(target, load.request("rude"), 60) for _ in range(40)]
        async with politeness(served, most_s=conftest.TIMEOUT_S), load.beside(*loops):
            await load.until(lambda: len(target.ended) > 20)
            os.kill(served.worker_pid(load.MODEL), signal.SIGKILL)
            await load.until(lambda: served.log.count("worker restarted") > restarts)
            enough = len(target.ended) + 60
            await load.until(lambda: len(target.ended) > enough)
        assert load.codes(target.ended) <= {"OK", "UNAVAILABLE"}
    found = await rows.settled()
    assert found["failed"] == 0
    assert found["answered"] >= target.count(OK)


async def test_all_at_once_at_random(served: conftest.Daemon) -> None:
    """Calls of all lengths and deadlines, some given up at some moment: each row ends once (D5)."""
    rows = load.Rows(served)
    chance = random.Random(5)
    async with politeness(served), load.wire(served) as target:

        async def nuisance() -> None:
            body = load.request("rude", words=chance.randint(1, 60), texts=chance.randint(1, 4))
            asked = asyncio.create_task(target.call(body, chance.choice((0.01, 0.1, 0.5, 60))))
            await asyncio.wait([asked], timeout=chance.uniform(0, 2))
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

        await asyncio.gather(*(nuisance() for _ in range(300)))
    found = await rows.settled()
    assert found["failed"] == 0
    assert min(found["answered"], found["cancelled"], found["expired"] + found["refused"]) > 0


async def test_sigterm_under_load(served: conftest.Daemon) -> None:
    """SIGTERM under load: what was admitted is answered, the rest refused, and it exits 0 (D11)."""
    async with load.wire(served) as target:
        await target.call(load.request("polite"), 30)
        asked = [asyncio.create_task(target.call(load.request("rude"), 30)) for _ in range(60)]
        await load.until(lambda: sum(each.done() for each in asked) >= 8)
        began_s = time.monotonic()
        code = await asyncio.to_thread(served.stop)
        passed_s = time.monotonic() - began_s
        ended = await asyncio.gather(*asked)
        late = await target.call(load.request("polite"), 5)
    assert code == 0
    assert passed_s < STOPPED_S
    assert load.codes(ended) <= {"OK", "UNAVAILABLE"}
    assert sum(each.code is OK for each in ended) >= 30
    assert late.code is grpc.StatusCode.UNAVAILABLE


def test_nothing_measures_by_the_wall_clock() -> None:
    """No module reads a clock that can be set, but those that stamp for people and files."""
    package = Path(bertd.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if (of, node.attr) in WALL_CLOCKS:
                    found.add(str(path.relative_to(package)))
    assert found <= STAMPS
