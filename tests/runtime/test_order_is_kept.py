"""A call's rows travel in many batches over many lanes, and come back in the order of its texts."""

import asyncio
import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors, frames
from bertd.runtime import calls
from bertd.tokenization import tokenizer
from tests.runtime import fakes

MOST_TEXTS = 1024
LONGEST = 512
CALLER = 10_000  # the first token of a caller's first row; the next row's is one more
LANES = st.integers(1, 4)
LIMITS = st.builds(
    lambda tokens, rows: dataclasses.replace(fakes.LIMITS, max_tokens=tokens, max_rows=rows),
    tokens=st.sampled_from([1, 64, 1000, 16_384]),
    rows=st.integers(1, 256),
)
RANDOM = st.integers(0, 2**32).map(random.Random)  # thousands of draws, of which none matters alone


def rows(caller: int, count: int, chance: random.Random) -> list[tokenizer.Encoded]:
    """So many rows of random lengths, most of them short, each with a first token of its own."""
    lengths = [min(LONGEST, 1 + int(chance.expovariate(1 / 24))) for _ in range(count)]
    made = [np.full(length, caller * CALLER + at, np.int32) for at, length in enumerate(lengths)]
    return [tokenizer.Encoded(ids, np.zeros(len(ids), np.uint8)) for ids in made]


async def start(
    bench: fakes.Bench, counts: list[int], chance: random.Random
) -> list[asyncio.Task[calls.Ran]]:
    """One call for each count, queued in this order."""
    run, base = bench.revision.run, bench.revision.base
    made = [rows(caller, count, chance) for caller, count in enumerate(counts, 1)]
    deadline_s = bench.clock() + 60
    task = frames.Task.CLASSIFY
    asked = [asyncio.ensure_future(run(each, base, task, deadline_s)) for each in made]
    await fakes.turn()
    return asked


def order(ran: calls.Ran) -> list[int]:
    """The first token of every answer's row."""
    return [int(vector[0, 0]) for vector in ran.vectors]


def wanted(caller: int, count: int) -> list[int]:
    """What `order` must be."""
    return list(range(caller * CALLER, caller * CALLER + count))


async def finish(bench: fakes.Bench, chance: random.Random, failures: int = 0) -> int:
    """Answers the lanes in random order until none runs; some batches of several rows fail first.

    Returns how many did.
    """
    failed = 0
    while running := bench.process.running:
        lane = chance.choice(sorted(running))
        if failed < failures and len(running[lane].lengths_B) > 1 and chance.random() < 0.5:
            bench.process.fail(lane)
            failed += 1
        else:
            bench.process.finish(lane)
        await asyncio.sleep(0)
    return failed


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, MOST_TEXTS), min_size=1, max_size=3), lanes=LANES,
       limits=LIMITS, chance=RANDOM)  # fmt: skip
def test_answers_come_in_the_order_of_the_texts(counts, lanes, limits, chance):
    """Whatever is split and however lanes finish, every caller gets its rows in its order (D2)."""

    async def run() -> None:
        bench = await fakes.started(lanes, limits)
        asked = await start(bench, counts, chance)
        await finish(bench, chance)
        for caller, (count, each) in enumerate(zip(counts, asked, strict=True), 1):
            assert order(await each) == wanted(caller, count)
        assert bench.counter("bertd_queue_rows", model="m") == 0
        assert bench.counter("bertd_batch_rows_sum", model="m") == sum(counts)

    asyncio.run(run())


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(2, 64), min_size=1, max_size=3), lanes=LANES, chance=RANDOM)
def test_rows_that_run_again_keep_their_place(counts, lanes, chance):
    """A batch that fails is run again row by row, and nobody's order changes."""

    async def run() -> None:
        bench = await fakes.started(lanes)
        asked = await start(bench, counts, chance)
        await finish(bench, chance, failures=3)
        for caller, (count, each) in enumerate(zip(counts, asked, strict=True), 1):
            assert order(await each) == wanted(caller, count)

    asyncio.run(run())


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 64), min_size=1, max_size=3), lanes=LANES, chance=RANDOM)
def test_a_worker_that_dies_changes_no_order(counts, lanes, chance):
    """What a dead worker had is run by the next one; every row is answered once, in its place."""

    async def run() -> None:
        bench = await fakes.started(lanes)
        asked = await start(bench, counts, chance)
        bench.process.die()
        await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
        while not all(each.done() for each in asked):
            await finish(bench, chance)
            await asyncio.sleep(0)
        for caller, (count, each) in enumerate(zip(counts, asked, strict=True), 1):
            assert order(await each) == wanted(caller, count)

    asyncio.run(run())


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 64), min_size=2, max_size=4), lanes=LANES, chance=RANDOM)
def test_a_caller_that_leaves_shifts_nobody(counts, lanes, chance):
    """Rows that are withdrawn while others of their batches run leave the others' order alone."""

    async def run() -> None:
        bench = await fakes.started(lanes)
        asked = await start(bench, counts, chance)
        left = chance.randrange(len(asked))
        asked[left].cancel()
        await fakes.turn()
        await finish(bench, chance)
        for caller, (count, each) in enumerate(zip(counts, asked, strict=True), 1):
            if caller - 1 != left:
                assert order(await each) == wanted(caller, count)
        with pytest.raises(asyncio.CancelledError):
            await asked[left]

    asyncio.run(run())


async def test_a_call_with_one_bad_row_fails_whole():
    """All or nothing: when one of many rows cannot be computed, no partial answer is made."""
    bench = await fakes.started()
    (asked,) = await start(bench, [5], random.Random(1))
    while not asked.done():
        bench.process.fail(next(iter(bench.process.running)))
        await fakes.turn()
    with pytest.raises(errors.Bug):
        await asked
