"""A function that fails, lies or exits costs its own item an error and nobody else anything."""

import asyncio
import math
from collections.abc import Callable, Iterator

import pytest

from bertd import errors
from bertd.batcher.aio import Batcher
from bertd.batcher.limits import Limits
from tests.batcher import virtual
from tests.batcher.functions import together


class Poisoned:
    """Raises for batches that hold a poison item; remembers the sizes of its calls."""

    def __init__(self, *poison: int) -> None:
        self.poison = set(poison)
        self.calls: list[int] = []

    async def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(len(items))
        if bad := self.poison.intersection(items):
            raise ValueError(f"cannot compute {min(bad)}")
        return items


@pytest.mark.parametrize("poison", [0, 13, 31])
def test_only_the_poison_item_has_the_error(poison: int) -> None:
    """One bad item of 32 is found in two more calls per halving; its 31 mates are answered (D6)."""

    async def main() -> None:
        function = Poisoned(poison)
        async with Batcher(function) as batcher:
            results = await together(batcher, range(32))
        assert isinstance(results[poison], ValueError)
        assert [r for i, r in enumerate(results) if i != poison] == [
            i for i in range(32) if i != poison
        ]
        assert len(function.calls) <= 1 + 2 * math.log2(32)

    virtual.run(main())


def test_a_function_that_always_fails_is_called_at_most_twice_per_item() -> None:
    """A broken model gives every caller an exception of its own, in fewer than 2n calls (D6)."""

    async def main() -> None:
        function = Poisoned(*range(8))
        async with Batcher(function) as batcher:
            results = await together(batcher, range(8))
            assert [str(r) for r in results] == [f"cannot compute {i}" for i in range(8)]
            assert len({id(r) for r in results}) == 8
            assert len(function.calls) == 15
            function.poison.clear()
            assert await batcher.submit(5) == 5
        assert batcher.counts.failed == 8

    virtual.run(main())


def test_a_failure_that_passes_is_seen_by_nobody() -> None:
    """A batch that fails once and then works is answered by its second run."""

    async def main() -> None:
        failures = iter([RuntimeError("out of memory")])

        async def function(items: list[int]) -> list[int]:
            for error in failures:
                raise error
            return items

        async with Batcher(function) as batcher:
            assert await together(batcher, range(4)) == [0, 1, 2, 3]

    virtual.run(main())


def lazy(items: list[int]) -> Iterator[int]:
    """Fails when it is read, not when it is called."""
    yield from items
    raise ValueError("too late")


WRONG: dict[str, Callable[[list[int]], object]] = {
    "short": lambda items: items[:-1],
    "empty": lambda items: [],
    "long": lambda items: [*items, 0],
    "none": lambda items: None,
    "number": lambda items: 3,
    "string": lambda items: "x" * len(items),
    "mapping": dict.fromkeys,
    "set": set,
}


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_wrong_number_of_results_is_an_error_and_never_a_hang(
    wrong: Callable[[list[int]], list[int]], is_async: bool
) -> None:
    """Results that do not match the items are nobody's: all are told, the next is served (D6)."""
    is_wrong = True

    def function(items: list[int]) -> list[int]:
        return wrong(items) if is_wrong else items

    async def async_function(items: list[int]) -> list[int]:
        return function(items)

    async with Batcher(async_function if is_async else function) as batcher:
        results = await together(batcher, range(5))
        assert [getattr(r, "reason", r) for r in results] == ["WrongResults"] * 5
        is_wrong = False
        assert await batcher.submit(1) == 1
    assert (batcher.counts.failed, batcher.counts.answered) == (5, 1)


@pytest.mark.parametrize("is_async", [True, False])
async def test_results_may_be_lazy_and_fail_late(is_async: bool) -> None:
    """A generator is read before anyone is answered, and its error is the function's."""

    async def async_lazy(items: list[int]) -> Iterator[int]:
        return lazy(items)

    async with Batcher(async_lazy if is_async else lazy) as batcher:
        results = await together(batcher, range(3))
    assert [str(r) for r in results] == ["too late"] * 3


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError, ValueError),
        (StopIteration, RuntimeError),
        (asyncio.CancelledError, errors.Temporary),
        (TimeoutError, TimeoutError),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_no_exception_ends_a_lane(
    raised: type[BaseException], expected: type[Exception], is_async: bool
) -> None:
    """Whatever a call raises, even what futures cannot carry, its caller hears of it (D6)."""

    def function(items: list[int]) -> list[int]:
        if -1 in items:
            raise raised
        return items

    async def async_function(items: list[int]) -> list[int]:
        return function(items)

    async with Batcher(async_function if is_async else function) as batcher:
        results = await together(batcher, [1, -1, 2])
        assert [type(r) for r in results] == [int, expected, int]
        assert await batcher.submit(3) == 3


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_a_thread_that_exits_fails_its_item(raised: type[BaseException]) -> None:
    """A model that calls `sys.exit` in its thread ends neither the program nor the lane."""

    def function(items: list[int]) -> list[int]:
        if -1 in items:
            raise raised
        return items

    async with Batcher(function) as batcher:
        results = await together(batcher, [1, -1])
        assert results[0] == 1
        assert isinstance(results[1], errors.Temporary)
        assert raised.__name__ in str(results[1])


def test_a_function_may_spoil_the_list_it_is_given() -> None:
    """Items belong to the batcher: emptying the list, and failing or not, loses nobody."""

    async def main() -> None:
        failures = iter([ValueError()])

        async def function(items: list[int]) -> list[int]:
            results = [items.pop(0) for _ in range(len(items))]
            for error in failures:
                raise error
            return results

        async with Batcher(function) as batcher:
            assert await together(batcher, [1, 2]) == [1, 2]

    virtual.run(main())


def test_items_whose_callers_left_do_not_run_again() -> None:
    """Halves of a failed batch hold only what somebody still waits for."""

    async def main() -> None:
        seen: list[list[int]] = []

        async def function(items: list[int]) -> list[int]:
            seen.append(items)
            await asyncio.sleep(1)
            if len(items) > 2:
                raise ValueError
            return items

        async with Batcher(function, limits=Limits(max_rows=8)) as batcher:
            stays = [batcher.schedule(i) for i in (0, 1)]
            leaves = batcher.schedule(2)
            expires = batcher.schedule(3, timeout_s=0.5)
            await asyncio.sleep(0.1)
            leaves.cancel()
            assert await asyncio.gather(*stays) == [0, 1]
            with pytest.raises(errors.Expired):
                await expires
        assert seen == [[3, 0, 1, 2], [0], [1]]

    virtual.run(main())


async def test_a_lane_that_somebody_cancels_loses_no_caller() -> None:
    """Who cancels every task of the loop frees the callers of the batch; the rest is served."""
    entered = asyncio.Event()

    async def function(items: list[int]) -> list[int]:
        entered.set()
        await asyncio.sleep(0 if 2 in items else 3600)
        return items

    before = asyncio.all_tasks()
    async with Batcher(function) as batcher:
        future = batcher.schedule(1)
        await entered.wait()
        for task in asyncio.all_tasks() - before:
            task.cancel()
        with pytest.raises(errors.NotReady):
            await future
        assert await batcher.submit(2) == 2
    assert (batcher.counts.dropped, batcher.counts.answered) == (1, 1)
