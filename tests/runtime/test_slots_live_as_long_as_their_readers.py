"""A slot is given to another adapter only when nobody can read it any more."""

import asyncio
import gc

from bertd import errors
from tests.runtime import fakes


async def test_a_forgotten_adapter_answers_those_who_run_on_it() -> None:
    """Rows queued before an adapter was replaced run on its slot, which is free afterwards."""
    bench = await fakes.started()
    busy = bench.call(0)
    await fakes.turn()
    old = await bench.load("one")
    old_slot = bench.slot("one")
    before = bench.call(1, by=old)
    await fakes.turn()
    bench.revision.adapters.forget("one")
    new = await bench.load("two")
    assert bench.slot("two") != old_slot
    after = bench.call(2, by=new)
    await fakes.turn()
    assert bench.process.loaded == {old_slot: "one", bench.slot("two"): "two"}
    while bench.process.running:
        bench.process.finish(0)
        await fakes.turn()
    await busy
    assert (await before).vectors[0][0, 1] == old_slot
    assert (await after).vectors[0][0, 1] == bench.slot("two")
    del before
    gc.collect()
    await fakes.turn()
    assert set(bench.process.loaded.values()) == {"two"}


async def test_a_forgotten_adapter_is_loaded_for_a_caller_still_tokenising() -> None:
    """Whoever found an adapter may still run on it after it was removed, and its file stays."""
    bench = await fakes.started()
    content = await bench.load("a")
    bench.revision.adapters.forget("a")
    await fakes.turn()
    assert bench.process.loaded == {}
    assert bench.revision.adapters.held == {"a"}
    call = bench.call(3, by=content)
    await fakes.until(lambda: bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 3
    del call, content
    await fakes.turn()
    assert bench.process.loaded == {}
    assert bench.revision.adapters.held == set()


async def test_free_slots_are_used_again() -> None:
    """Adding and removing adapters for ever does not grow the table."""
    bench = await fakes.started()
    slots = set()
    for number in range(50):
        await bench.load(str(number))
        slots.add(bench.slot(str(number)))
        bench.revision.adapters.forget(str(number))
        await fakes.turn()
    assert len(slots) <= 2


async def test_a_failed_call_lets_go_of_its_slot() -> None:
    """A slot is free as soon as its last call failed or was cancelled, with no garbage collection.

    Else tables would grow, and revisions close late, whenever calls expire.
    """
    bench = await fakes.started()
    content = await bench.load("a")
    gc.collect()
    gc.disable()
    try:
        busy = bench.call(0)
        await fakes.turn()
        late, gone = bench.call(1, by=content, deadline_s=1), bench.call(2, by=content)
        await fakes.turn()
        gone.cancel()
        await fakes.turn()
        bench.clock.now_s += 2
        bench.process.finish(0)
        await asyncio.wait((busy, late, gone))
        assert isinstance(late.exception(), errors.Expired)
        bench.revision.adapters.forget("a")
        del late, gone, content
        await fakes.turn()
        assert bench.process.loaded == {}
    finally:
        gc.enable()
