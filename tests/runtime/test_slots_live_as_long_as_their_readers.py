"""A slot is given to another adapter only when nobody can read it any more."""

import asyncio
import gc
from pathlib import Path

import pytest

from bertd import errors
from tests.runtime import fakes


async def test_a_replaced_adapter_answers_those_who_found_it() -> None:
    """Rows queued before a replacement run on the old slot, later ones on the new."""
    bench = await fakes.started()
    busy = bench.call(0)
    await fakes.turn()
    old = await bench.load("a", "one")
    old_slot = old.slot
    before = bench.call(1, entry=old)
    await fakes.turn()
    new = await bench.load("a", "two")
    assert new.slot != old_slot
    after = bench.call(2, entry=new)
    del old
    await fakes.turn()
    assert bench.process.loaded == {old_slot: "/one", new.slot: "/two"}
    while bench.process.running:
        bench.process.finish(0)
        await fakes.turn()
    await busy
    assert (await before).vectors[0][0, 1] == old_slot
    assert (await after).vectors[0][0, 1] == new.slot
    del before
    gc.collect()
    await fakes.turn()
    assert bench.process.loaded == {new.slot: "/two"}


async def test_an_unloaded_adapter_stays_for_a_caller_still_tokenising() -> None:
    """Whoever holds an entry may still run on it after the adapter was removed."""
    bench = await fakes.started()
    entry = await bench.load("a")
    bench.revision.unload_adapter("a")
    await fakes.turn()
    assert entry.slot in bench.process.loaded
    call = bench.call(3, entry=entry)
    await fakes.turn()
    bench.process.finish(0)
    assert (await call).vectors[0].tolist() == [[3.0, float(entry.slot)]]


async def test_free_slots_are_used_again() -> None:
    """Adding and removing adapters for ever does not grow the table."""
    bench = await fakes.started()
    slots = set()
    for number in range(50):
        slots.add((await bench.load("a", str(number))).slot)
        bench.revision.unload_adapter("a")
        await fakes.turn()
    assert len(slots) <= 2


async def test_a_refused_adapter_leaves_the_old_one() -> None:
    """When the worker refuses a replacement, the name keeps its adapter and no slot leaks."""
    bench = await fakes.started()
    entry = await bench.load("a", "one")
    bench.process.refuse = errors.BadArtifact("not finite", reason="NotFinite")
    with pytest.raises(errors.BadArtifact, match="not finite"):
        await bench.revision.load_adapter("a", "two", Path("/two"))
    assert bench.revision.entries["a"] is entry
    bench.process.refuse = None
    gc.collect()
    await fakes.turn()
    assert (await bench.load("b")).slot == entry.slot + 1


async def test_a_failed_call_lets_go_of_its_slot() -> None:
    """A slot is free as soon as its last call failed or was cancelled, with no garbage collection.

    Else tables would grow, and revisions close late, whenever calls expire.
    """
    bench = await fakes.started()
    entry = await bench.load("a")
    gc.collect()
    gc.disable()
    try:
        busy = bench.call(0)
        await fakes.turn()
        late, gone = bench.call(1, entry=entry, deadline_s=1), bench.call(2, entry=entry)
        await fakes.turn()
        gone.cancel()
        await fakes.turn()
        bench.clock.now_s += 2
        bench.process.finish(0)
        await asyncio.wait((busy, late, gone))
        assert isinstance(late.exception(), errors.Expired)
        bench.revision.unload_adapter("a")
        del late, gone, entry
        await fakes.turn()
        assert bench.process.loaded == {}
    finally:
        gc.enable()
