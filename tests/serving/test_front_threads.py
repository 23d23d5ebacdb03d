"""What grpc does beside the event loop: its threads and what it holds back."""

import asyncio
import os
import subprocess
import sys

import grpc.aio

from bertd.serving import server
from bertd.v1 import inference_pb2_grpc
from tests.serving import fakes, test_deadlines

NICE = """
import asyncio, os
from bertd.serving import server

async def main():
    before = set(os.listdir("/proc/self/task"))  # numpy may have threads of its own
    server._server([])
    server._server([])
    for thread in set(os.listdir("/proc/self/task")) - before:
        print(os.getpriority(os.PRIO_PROCESS, int(thread)))
    print("loop", os.getpriority(os.PRIO_PROCESS, 0))

asyncio.run(main())
"""


def test_grpcs_threads_give_way_to_the_event_loop():
    """Every thread that grpc starts ranks below the loop's, however many servers there are."""
    found = subprocess.run(
        [sys.executable, "-c", NICE], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert found.pop() == f"loop {usual}"
    assert set(found) == {str(min(usual + server.THREADS_NICE, 19))}


async def test_calls_that_wait_for_python_are_not_ended_by_grpc(socket):
    """A burst of thousands is answered or refused by us; grpc's own bound would cancel (D10)."""
    gate = test_deadlines.Gate()
    calls = 3000
    async with (
        fakes.running(
            {("english", "sst2"): fakes.Route(work=gate)}, socket, most_calls=8
        ) as daemon,
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)

        async def code() -> str:
            try:
                await stub.Classify(test_deadlines.request(), timeout=60)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        waiting = [asyncio.ensure_future(code()) for _ in range(calls)]
        while daemon.series("shed_total", model="", reason="InFlight") < calls - 8:
            await asyncio.sleep(0.01)
        gate.opened.set()
        codes = await asyncio.gather(*waiting)
    assert (codes.count("OK"), codes.count("UNAVAILABLE")) == (8, calls - 8)
