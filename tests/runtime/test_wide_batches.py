"""A row that cannot be split takes the lanes that nobody else wants, and gives them all back."""

import asyncio
from typing import Any, ClassVar

import pytest

from bertd import errors
from bertd.batching import policy
from bertd.runtime import revision
from tests.runtime import fakes

LIMITS = policy.Limits(max_tokens=4096, max_rows=256)


class WideWorker(fakes.FakeWorker):
    """A worker whose kernels run a batch on several threads, and that knows its peak."""

    facts: ClassVar[dict[str, Any]] = {
        "slotBytes": fakes.SLOT_BYTES,
        "wide": True,
        "precision": "fp32",
        "peakOperationsPerSecond": {"fp32": 1e7},
    }


async def wide(lanes: int = 2, limits: policy.Limits = LIMITS) -> fakes.Bench:
    """A bench whose worker runs wide batches."""
    return await fakes.started(lanes, limits, WideWorker)


def threads(process: fakes.FakeWorker) -> list[int]:
    """Threads of the batches that run."""
    return sorted(each.threads for each in process.running.values())


async def all_free(bench: fakes.Bench, lanes: int) -> bool:
    """Whether a lone row gets every permit again."""
    call = bench.call(1)
    await fakes.turn()
    found = threads(bench.process)
    for lane in list(bench.process.running):
        bench.process.finish(lane)
    await asyncio.wait((call,))
    return found == [lanes]


async def test_a_lone_row_runs_on_all_idle_lanes() -> None:
    """With nothing else waiting, one row is computed by every thread, and all permits return."""
    bench = await wide(lanes=3)
    call = bench.call(7)
    await fakes.turn()
    assert threads(bench.process) == [3]
    bench.process.finish(*bench.process.running)
    assert (await call).vectors[0][0, 0] == 7
    assert await all_free(bench, 3)


async def test_rows_that_come_meanwhile_wait_for_this_batch_at_most() -> None:
    """While a wide batch runs nothing starts; when it ends, what waits runs at once, together."""
    bench = await wide()
    first = bench.call(1)
    await fakes.turn()
    later = [bench.call(token) for token in (2, 3)]
    await fakes.turn()
    assert len(bench.process.running) == 1
    bench.process.finish(*bench.process.running)
    await first
    assert [len(each.lengths_B) for each in bench.process.running.values()] == [2]
    assert threads(bench.process) == [2]
    bench.process.finish(*bench.process.running)
    assert [(await call).vectors[0][0, 0] for call in later] == [2, 3]
    assert await all_free(bench, 2)


async def test_many_rows_are_split_and_not_wide() -> None:
    """Rows enough for every lane run side by side on one thread each."""
    bench = await wide()
    call = bench.call(*range(100))
    await fakes.turn()
    assert threads(bench.process) == [1, 1]
    for lane in list(bench.process.running):
        bench.process.finish(lane)
    await call
    assert await all_free(bench, 2)


async def test_only_free_lanes_are_taken() -> None:
    """A row that comes while a lane is busy gets the rest."""
    bench = await wide(lanes=4)
    calls = [bench.call(*range(7), length=512)]  # in parts of 2, 2, 2 and 1
    await fakes.turn()
    assert threads(bench.process) == [1, 1, 1, 1]
    for lane in list(bench.process.running)[:2]:
        bench.process.finish(lane)
    calls.append(bench.call(8))
    await fakes.turn()
    assert threads(bench.process) == [1, 1, 2]
    for lane in list(bench.process.running):
        bench.process.finish(lane)
    await asyncio.gather(*calls)
    assert await all_free(bench, 4)


async def test_a_row_leaves_lanes_to_rows_that_wait_behind_it() -> None:
    """When a limit keeps other rows out of the batch, it takes one thread and leaves the rest."""
    bench = await wide(limits=policy.Limits(max_tokens=4096, max_rows=1))
    call = bench.call(1, 2)
    await fakes.turn()
    assert threads(bench.process) == [1, 1]
    for lane in list(bench.process.running):
        bench.process.finish(lane)
    await call


async def test_another_model_that_waits_gets_its_lane() -> None:
    """Two models with a row each run side by side, not one after the other on all threads."""
    bench = await wide()
    other = bench.another("n", LIMITS)
    await other.start()
    first, second = bench.workers
    running = bench.call(1)
    await fakes.turn()
    calls = [bench.call(2), bench.call(3, target=other)]
    await fakes.turn()
    first.finish(*first.running)
    await fakes.turn()
    assert (threads(first), threads(second)) == ([1], [1])
    first.finish(*first.running)
    second.finish(*second.running)
    await asyncio.gather(running, *calls)


async def test_torch_alone_never_runs_wide() -> None:
    """A worker without native code keeps one thread for each lane: no team of OpenMP spins."""
    bench = await fakes.started(lanes=2, limits=LIMITS)
    call = bench.call(1)
    await fakes.turn()
    assert threads(bench.process) == [1]
    bench.process.finish(*bench.process.running)
    await call


async def test_permits_of_a_lost_wide_batch_come_back() -> None:
    """When the worker dies under a wide batch its row runs again, on all permits."""
    bench = await wide()
    call = bench.call(5)
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    assert threads(bench.process) == [2]
    bench.process.finish(*bench.process.running)
    assert (await call).vectors[0][0, 0] == 5
    assert await all_free(bench, 2)


async def test_permits_of_a_failed_wide_batch_come_back() -> None:
    """A batch that cannot be computed fails its call and frees every lane."""
    bench = await wide()
    call = bench.call(5)
    await fakes.turn()
    bench.process.fail(*bench.process.running)
    with pytest.raises(errors.Bug):
        await call
    assert await all_free(bench, 2)


async def test_permits_of_a_revision_that_closes_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a closing revision still runs gives its permits to the others."""
    monkeypatch.setattr(revision, "DRAIN_GRACE_S", 0.0)
    bench = await wide()
    other = bench.another("n", LIMITS)
    await other.start()
    call = bench.call(5)
    await fakes.turn()
    call.cancel()
    await bench.revision.close()
    later = bench.call(6, target=other)
    await fakes.turn()
    assert threads(bench.process) == [2]
    bench.process.finish(*bench.process.running)
    await later


async def test_a_wide_batch_counts_as_busy_lanes() -> None:
    """A row that comes while one batch holds every lane is told to wait for it."""
    bench = await wide()
    for _ in range(2):
        call = bench.call(1)
        await fakes.turn()
        bench.process.finish(*bench.process.running)  # a batch takes 1 ms, on two lanes
        await call
    running = bench.call(2)
    await fakes.turn()
    assert bench.counter("bertd_queue_delay_seconds", model="m") == pytest.approx(0.001)
    bench.process.finish(*bench.process.running)
    await running
    assert bench.counter("bertd_queue_delay_seconds", model="m") == 0


async def test_efficiency_counts_every_thread() -> None:
    """8,000 operations in 1 ms on two threads of 10 M/s are 40 % of the peak."""
    bench = await wide()
    assert bench.revision.efficiency == 0
    call = bench.call(1)
    await fakes.turn()
    bench.process.finish(*bench.process.running)
    await call
    assert bench.revision.efficiency == pytest.approx(0.4)
    assert bench.counter("bertd_compute_efficiency", model="m") == pytest.approx(0.4)
