"""The face for threads: any thread may ask, none waits for ever."""

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures

import pytest

from bertd import errors
from bertd.batcher.aio import Batcher
from bertd.batcher.hooks import Hooks
from bertd.batcher.limits import Limits
from bertd.batcher.sync import SyncBatcher

CALLS = 100_000
ONE_BY_ONE = 20_000
IN_FLIGHT = 50
THREADS = 8
PATIENCE_S = 30.0


def in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Runs `work(0)` ... `work(count - 1)` side by side; raises what one of them raised."""
    with futures.ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, at) for at in range(count)]:
            future.result()


class Gate:
    """A sync function that ends when the test lets it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        return [10 * item for item in items]


def test_an_answer_that_comes_before_the_wait_is_not_lost() -> None:
    """1e5 calls of an instant function from 8 threads: each has its own answer (D12).

    Callers of the predecessor hung when the answer was there before they waited.
    """

    async def instant(items: list[int]) -> list[int]:
        return items

    with SyncBatcher(Batcher(instant)) as batcher:

        def ask(thread: int) -> None:
            for item in range(thread, ONE_BY_ONE, THREADS):
                assert batcher.predict(item) == item
            # Here most answers are there long before anybody waits for them.
            for first in range(ONE_BY_ONE, CALLS, THREADS * IN_FLIGHT):
                items = range(first + thread, first + THREADS * IN_FLIGHT, THREADS)
                futures_of = [(item, batcher.submit(item)) for item in items]
                assert all(future.result(PATIENCE_S) == item for item, future in futures_of)

        in_threads(ask)
        counts = batcher.counts
    assert (counts.submitted, counts.answered, counts.pending) == (CALLS, CALLS, 0)


def test_threads_share_batches_of_a_sync_function() -> None:
    """What threads ask while a batch runs is one batch, and each thread has its own answer."""
    function = Gate()
    with SyncBatcher(Batcher(function)) as batcher:
        first = batcher.submit(0)
        assert function.entered.wait(PATIENCE_S)
        rest = [batcher.submit(item) for item in range(1, 9)]
        function.open.set()
        assert [future.result(PATIENCE_S) for future in (first, *rest)] == [
            10 * item for item in range(9)
        ]
    assert function.batches == [[0], list(range(1, 9))]


def test_refusals_and_errors_reach_the_thread_that_asked() -> None:
    """Errors of the function, of `size` and of admission are raised where `predict` was called."""

    def function(items: list[int]) -> list[int]:
        if 3 in items:
            raise StopIteration
        return items

    with SyncBatcher(Batcher(function, limits=Limits(max_tokens=10), size=abs)) as batcher:
        for item, error in ((3, RuntimeError), (0, errors.InvalidRequest), (11, errors.TooLarge)):
            with pytest.raises(error):
                batcher.predict(item)
        with pytest.raises(errors.Expired):
            batcher.predict(1, timeout_s=0)
        assert batcher.predict(1, timeout_s=PATIENCE_S, flow="b", weight=2.0) == 1


@pytest.mark.parametrize("option", ["timeout_s", "weight"])
def test_senseless_arguments_hurt_only_the_thread_that_gives_them(option: str) -> None:
    """What is not even a number is a TypeError, and the neighbours in the hand-over are served."""

    async def instant(items: list[int]) -> list[int]:
        return items

    def ask(thread: int) -> None:
        for item in range(100):
            if thread == 0:
                with pytest.raises(TypeError):
                    batcher.predict(item, **{option: "soon"})  # type: ignore[arg-type]  # tested
            else:
                assert batcher.submit(item).result(PATIENCE_S) == item

    with SyncBatcher(Batcher(instant)) as batcher:
        in_threads(ask)


def test_a_cancelled_future_frees_its_place() -> None:
    """A future that is cancelled while it waits never runs; its neighbours are answered (D5)."""
    function = Gate()
    with SyncBatcher(Batcher(function)) as batcher:
        first = batcher.submit(0)
        assert function.entered.wait(PATIENCE_S)
        leaves, stays = batcher.submit(1), batcher.submit(2)
        assert leaves.cancel()
        function.open.set()
        assert (first.result(PATIENCE_S), stays.result(PATIENCE_S)) == (0, 20)
        with pytest.raises(futures.CancelledError):
            leaves.result()
    assert function.batches == [[0], [2]]


def test_a_deadline_frees_a_thread_whose_batch_hangs() -> None:
    """`timeout_s` holds while the function runs."""
    function = Gate()
    with SyncBatcher(Batcher(function)) as batcher:
        with pytest.raises(errors.Expired):
            batcher.predict(1, timeout_s=0.01)
        function.open.set()


@pytest.mark.parametrize("fails", [False, True])
def test_a_cancellation_that_crosses_the_answer_is_quiet(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A future that is cancelled when its outcome is known, but not told, ends once."""

    class Crossing(Hooks):
        def on_batch_complete(self, items: object, results: object) -> None:
            answers[0].cancel()

        def on_exception(self, error: Exception) -> None:
            answers[0].cancel()

    async def function(items: list[int]) -> list[int]:
        return [] if fails else items

    answers: list[futures.Future[int]] = []
    with SyncBatcher(
        Batcher(function, limits=Limits(max_delay_s=0.05), hooks=[Crossing()])
    ) as asked:
        answers.append(asked.submit(1))
    with pytest.raises(futures.CancelledError):
        answers[0].result(PATIENCE_S)
    assert not caplog.records


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_function_that_exits_loses_nobody() -> None:
    """`sys.exit` in an async function ends the loop; all have an answer or a refusal, later too."""

    async def function(items: list[int]) -> list[int]:
        if 0 in items:
            raise SystemExit
        return items

    batcher = SyncBatcher(Batcher(function, limits=Limits(max_rows=1)))
    (thread,) = (each for each in threading.enumerate() if each.name == "batcher-loop")
    waiting = [batcher.submit(item) for item in range(20)]
    with pytest.raises(errors.NotReady):
        waiting[0].result(PATIENCE_S)
    for item, future in enumerate(waiting[1:], 1):
        error = future.exception(PATIENCE_S)
        assert isinstance(error, errors.NotReady) or future.result() == item
    thread.join(PATIENCE_S)
    with pytest.raises(errors.NotReady):
        batcher.predict(1)
    batcher.close()
    assert batcher.counts.pending == 0


def test_closing_answers_what_was_accepted() -> None:
    """A close from another thread waits for the answers, and refuses what comes after."""
    function = Gate()
    batcher = SyncBatcher(Batcher(function, limits=Limits(max_rows=2)))
    waiting = [batcher.submit(item) for item in range(5)]
    assert function.entered.wait(PATIENCE_S)
    closers = [threading.Thread(target=batcher.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    function.open.set()
    for closer in closers:
        closer.join(PATIENCE_S)
        assert not closer.is_alive()
    assert [future.result(0) for future in waiting] == [0, 10, 20, 30, 40]
    batcher.close()
    with pytest.raises(errors.NotReady):
        batcher.predict(1)


def test_a_close_that_gives_up_frees_every_thread() -> None:
    """After `grace_s` all futures are refused, and the close returns while the function hangs."""
    function = Gate()
    batcher = SyncBatcher(Batcher(function, limits=Limits(max_rows=2)))
    waiting = [batcher.submit(item) for item in range(5)]
    assert function.entered.wait(PATIENCE_S)
    batcher.close(grace_s=0)
    for future in waiting:
        with pytest.raises(errors.NotReady):
            future.result(0)
    function.open.set()


@pytest.mark.parametrize("grace_s", [None, 0.0])
def test_closing_under_load_loses_nobody(grace_s: float | None) -> None:
    """Threads that ask as long as they are served all end with an answer or a refusal."""

    async def instant(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return items

    for warm in (0, 1, 50):
        batcher = SyncBatcher(Batcher(instant, limits=Limits(max_rows=3)))
        started = threading.Barrier(THREADS + 1)
        served = threading.Semaphore(0)

        def ask(
            thread: int,
            batcher: SyncBatcher[int, int] = batcher,
            started: threading.Barrier = started,
            served: threading.Semaphore = served,
        ) -> None:
            started.wait(PATIENCE_S)
            try:
                while True:
                    assert batcher.submit(thread).result(PATIENCE_S) == thread
                    served.release()
            except errors.NotReady:
                return

        with futures.ThreadPoolExecutor(THREADS) as pool:
            asking = [pool.submit(ask, thread) for thread in range(THREADS)]
            started.wait(PATIENCE_S)
            for _ in range(warm):
                assert served.acquire(timeout=PATIENCE_S)
            batcher.close(grace_s)
            for future in asking:
                future.result(PATIENCE_S)
        assert batcher.counts.pending == 0


def test_cancelling_from_many_threads_loses_nobody() -> None:
    """Futures that are cancelled at any moment end once: cancelled or answered, never both."""

    async def instant(items: list[int]) -> list[int]:
        return items

    with SyncBatcher(Batcher(instant)) as batcher:

        def ask(thread: int) -> None:
            for item in range(500):
                future = batcher.submit(item)
                if not future.cancel():
                    assert future.result(PATIENCE_S) == item

        in_threads(ask)
    counts = batcher.counts
    assert counts.pending == 0
    assert counts.answered + counts.cancelled == counts.submitted


def test_whoever_would_wait_for_itself_is_told_so() -> None:
    """A batch function, or a hook, that asks its own batcher has an error instead of a deadlock."""
    caught: list[Exception] = []

    class Asking(Hooks):
        def on_start(self) -> None:
            started.append(True)

        def on_batch_start(self, items: object) -> None:
            try:
                batcher.predict(9)
            except errors.InvalidRequest as error:
                caught.append(error)

    started: list[bool] = []

    def function(items: list[int]) -> list[int]:
        for ask in (lambda: batcher.predict(9), batcher.close):
            with pytest.raises(errors.InvalidRequest, match="own batcher"):
                ask()
        return items

    with SyncBatcher(Batcher(function, hooks=[Asking()])) as batcher:
        assert batcher.predict(1) == 1
    assert started == [True]
    assert len(caught) == 1


async def test_only_a_new_batcher_can_be_given_to_threads() -> None:
    """A batcher that lives on a loop cannot live on another."""

    async def instant(items: list[int]) -> list[int]:
        return items

    async with Batcher(instant) as batcher:
        with pytest.raises(errors.Conflict):
            SyncBatcher(batcher)


def test_no_thread_is_left_behind() -> None:
    """A closed batcher has no thread, whether its function was sync or not."""
    before = set(threading.enumerate())

    def function(items: list[int]) -> list[int]:
        workers.update(threading.enumerate())
        return items

    workers: set[threading.Thread] = set()
    with SyncBatcher(Batcher(function, lanes=2)) as batcher:
        batcher.predict(1)
    for thread in workers - before:
        thread.join(PATIENCE_S)
    assert set(threading.enumerate()) <= before
