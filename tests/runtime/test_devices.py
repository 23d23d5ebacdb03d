"""A revision uses the permits of the device that its worker found."""

from typing import Any, ClassVar

from bertd.runtime import devices, residency, revision
from tests.runtime import fakes


class OnGpu(fakes.FakeWorker):
    """A worker that found a GPU."""

    facts: ClassVar[dict[str, Any]] = fakes.FakeWorker.facts | {"device": "cuda:0"}


class SmallTable(fakes.FakeWorker):
    """A worker whose table has room for few adapters beside those that callers read."""

    facts: ClassVar[dict[str, Any]] = OnGpu.facts | {"slots": 10 + revision.SPARE_SLOTS}


async def test_a_gpu_runs_two_batches_however_many_cores_there_are() -> None:
    """One core or eight: two batches are in flight, and the CPU's permits stay free."""
    for lanes in (1, 8):
        bench = await fakes.started(lanes, kind=OnGpu)
        calls = [bench.call(n, length=200) for n in range(4)]
        await fakes.turn()
        assert len(bench.process.running) == devices.GPU_PERMITS
        assert bench.revision.lanes == devices.GPU_PERMITS
        for call in calls:
            call.cancel()


async def test_models_on_one_gpu_share_its_permits() -> None:
    """A second revision on the same GPU waits for a permit that the first one holds."""
    bench = await fakes.started(4, kind=OnGpu)
    other = bench.another("n")
    await other.start()
    calls = [bench.call(n, length=200) for n in range(2)]
    await fakes.turn()
    late = bench.call(9, target=other)
    await fakes.turn()
    assert not bench.workers[1].running
    bench.workers[0].finish(next(iter(bench.workers[0].running)))
    await fakes.turn()
    assert len(bench.workers[1].running) == 1
    for call in (*calls, late):
        call.cancel()


async def test_a_worker_that_comes_back_on_the_cpu_uses_its_permits() -> None:
    """`auto` on a GPU that died goes on where the next worker runs."""
    bench = await fakes.started(1, kind=OnGpu)
    bench.use(fakes.FakeWorker)
    bench.process.die()
    await fakes.until(lambda: bench.revision.serving)
    calls = [bench.call(n, length=200) for n in range(3)]
    await fakes.turn()
    assert len(bench.process.running) == 1
    assert bench.revision.lanes == 1
    for call in calls:
        call.cancel()


async def test_a_small_table_holds_fewer_adapters_than_memory_would() -> None:
    """What has no slot stays on disk, and no adapter is sent beyond the table's end."""
    bench = await fakes.started(kind=SmallTable)
    for number in range(60):
        bench.declare(str(number))
    await bench.revision.adapters.settled()
    assert 1 <= len(bench.process.loaded) <= 10 + residency.GROUP_ADAPTERS
