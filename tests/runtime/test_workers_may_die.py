"""A worker that fails, lies or dies costs no row that another run can save."""

import asyncio

import pytest

from bertd import errors
from bertd.runtime import revision
from tests.runtime import fakes


async def test_rows_of_a_dead_worker_run_again() -> None:
    """A worker that dies with rows in flight is replaced and its rows are answered."""
    bench = await fakes.started()
    calls = [bench.call(1)]
    await fakes.turn()
    calls += [bench.call(2), bench.call(3)]
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    while bench.process.running:
        bench.process.finish(0)
        await fakes.turn()
    assert [(await call).vectors[0][0, 0] for call in calls] == [1, 2, 3]
    assert bench.counter("bertd_worker_restarts_total", model="m") == 1


async def test_adapters_are_there_again_after_a_restart() -> None:
    """The new worker holds every adapter in the slot that queued rows name."""
    bench = await fakes.started()
    entry = await bench.load("a")
    call = bench.call(5, entry=entry)
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    assert bench.process.loaded == {entry.slot: "/d"}
    bench.process.finish(0)
    assert (await call).vectors[0].tolist() == [[5.0, float(entry.slot)]]


async def test_an_input_that_kills_workers_is_found_and_refused() -> None:
    """The row that kills every worker is refused as poison; its batch mates are answered (D6)."""
    bench = await fakes.started()
    first = bench.call(0)
    await fakes.turn()
    mates = [bench.call(1), bench.call(666), bench.call(2)]
    await fakes.turn()
    bench.process.finish(0)
    await first
    runs = 0
    while not all(task.done() for task in mates):
        await fakes.until(lambda: bool(bench.process.running) or all(t.done() for t in mates))
        if bench.process.running:
            runs += 1
            poisoned = 666 in bench.process.running[0].ids_T
            bench.process.die() if poisoned else bench.process.finish(0)
            await fakes.turn()
    assert (await mates[0]).vectors[0][0, 0] == 1
    assert (await mates[2]).vectors[0][0, 0] == 2
    with pytest.raises(errors.Poison):
        await mates[1]
    assert runs <= 4  # together, then each alone


async def test_a_lone_row_survives_one_death() -> None:
    """A row that ran alone when its worker was killed runs once more: the kill may be no fault."""
    bench = await fakes.started()
    call = bench.call(1)
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 1


@pytest.mark.parametrize("how", ["raises", "answers too little"])
async def test_a_failing_batch_fails_only_the_bad_row(how: str) -> None:
    """A worker raises or answers short: no hang, only the bad row fails, few extra runs (D6)."""
    bench = await fakes.started()
    first = bench.call(0)
    await fakes.turn()
    mates = [bench.call(1), bench.call(13), bench.call(2)]
    await fakes.turn()
    bench.process.finish(0)
    await first
    runs = 0
    while bench.process.running:
        runs += 1
        if 13 not in bench.process.running[0].ids_T:
            bench.process.finish(0)
        elif how == "raises":
            bench.process.fail(0)
        else:
            bench.process.finish(0, rows=0)
        await fakes.turn()
    assert (await mates[0]).vectors[0][0, 0] == 1
    assert (await mates[2]).vectors[0][0, 0] == 2
    with pytest.raises(errors.Bug):
        await mates[1]
    assert runs == 4


async def test_a_closing_revision_answers_what_it_has() -> None:
    """Retiring a revision drains its queue first and refuses newcomers."""
    bench = await fakes.started()
    call = bench.call(1)
    await fakes.turn()
    closing = asyncio.ensure_future(bench.revision.close())
    await fakes.turn()
    with pytest.raises(errors.NotReady):
        await bench.call(2)
    bench.process.finish(0)
    await closing
    assert (await call).vectors[0][0, 0] == 1


async def test_a_base_that_the_worker_refuses_never_serves() -> None:
    """A start that fails raises its reason and leaves nothing running."""
    bench = fakes.Bench()

    async def refuse(lanes: int, listener: object) -> fakes.FakeWorker:
        broken = fakes.FakeWorker(bench.revision)
        broken.refuse = errors.BadArtifact("no such shape", reason="WrongShape")
        bench.workers.append(broken)
        return broken

    bench.revision._spawn = refuse
    with pytest.raises(errors.BadArtifact, match="no such shape"):
        await bench.revision.start()
    assert bench.process.lost
    assert not bench.revision.serving


@pytest.mark.parametrize(("attempt", "delay_s"), [(0, 0.0), (1, 0.1), (2, 0.2), (5, 1.6), (99, 30)])
def test_restarts_back_off(attempt: int, delay_s: float) -> None:
    """The first replacement starts at once, later ones wait twice as long each, up to 30 s."""
    assert revision.restart_delay_s(attempt) == pytest.approx(delay_s)
