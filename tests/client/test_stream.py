"""Streams of both clients: many calls at once, each with its own answer or its own error."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent import futures

import numpy as np
import pytest

from bertd import errors
from bertd.client import aio, channel, failure, sync
from bertd.runtime import router
from bertd.serving import stream
from tests.serving import fakes

NAMED = {"model": "english", "adapter": "sst2"}
PATIENCE_S = 20.0


class Blocking:
    """The blocking client's stream, called from threads, so that one test serves both."""

    def __init__(self, address: str, most_items: int, timeout_s: float) -> None:
        self._client = sync.Client(address, timeout_s=timeout_s)
        self._stream = self._client.stream(most_items=most_items)

    def __getattr__(self, name: str):
        method = getattr(self._stream, name)

        async def ask(*args: object, **named: object):
            future = await asyncio.to_thread(method, *args, **named)
            return await asyncio.wrap_future(future)

        return ask

    async def close(self) -> None:
        await asyncio.to_thread(self._stream.close)

    async def __aenter__(self) -> "Blocking":
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self._stream.__exit__, *error)
        self._client.close()


@contextlib.asynccontextmanager
async def _aio(address: str, most_items: int, timeout_s: float) -> AsyncIterator[object]:
    async with (
        aio.AsyncClient(address, timeout_s=timeout_s) as client,
        client.stream(most_items=most_items) as opened,
    ):
        yield opened


@pytest.fixture(name="connect", params=[Blocking, _aio], ids=["sync", "aio"])
def _connect(request: pytest.FixtureRequest, socket: str):
    """Starts a daemon with one route and opens a stream to it."""

    @contextlib.asynccontextmanager
    async def connect(
        *,
        routes: object = None,
        streams: stream.Streams | None = None,
        most_items: int = 64,
        timeout_s: float = 10.0,
        **changes: object,
    ):
        routes = {("english", "sst2"): fakes.Route(**changes), **(routes or {})}
        async with (
            asyncio.timeout(PATIENCE_S),
            fakes.running(routes, socket, streams=streams) as daemon,
            request.param(daemon.admin, most_items, timeout_s) as opened,
        ):
            yield opened, daemon

    return connect


def refusing(*refusals: errors.Error) -> Callable[[object, float], None]:
    """Work that fails so, once each, and then succeeds."""
    left = list(refusals)

    def work(rows: object, deadline_s: float) -> None:
        if left:
            raise left.pop(0)

    return work


async def test_many_calls_get_their_own_answers(connect):
    """A thousand calls, far more than fit at once: each is answered with what it asked."""
    async with connect(most_items=16) as (opened, daemon):
        texts = [" ".join("a" * (number % 9)) for number in range(1000)]
        replies = await asyncio.gather(*(opened.classify([text], **NAMED) for text in texts))
        assert daemon.count(**NAMED, method="Classify", code="OK") == 1000
    assert [reply.served.tokens for reply in replies] == [n % 9 + 2 for n in range(1000)]
    assert {reply[0].label for reply in replies} == {"short"}


async def test_every_method_is_there(connect):
    """Embed and Tag share the stream with Classify, and take the same arguments as the client's."""
    tagging = fakes.Route(output=router.Output(label_names=("O", "PER"), problem="token"))
    async with connect(routes={("english", "ner"): tagging}) as (opened, _):
        vectors, tags, reply = await asyncio.gather(
            opened.embed(["a", "b"], **NAMED, normalize=True),
            opened.tag(["a bb"], model="english", adapter="ner", raw_logits=True),
            opened.classify([[7, 8]], **NAMED, labels=["long"], priority="low"),
        )
    assert (vectors.shape, vectors.dtype) == ((2, fakes.DIMENSIONS), np.float32)
    assert tags[0][1].token == "bb"
    assert list(reply[0].scores) == ["long"]


async def test_one_failure_is_one_calls(connect):
    """A refused call raises as the client's would; its neighbours are answered."""
    async with connect() as (opened, _):
        good, bad = await asyncio.gather(
            opened.classify(["a"], **NAMED),
            opened.classify(["a"], model="english", adapter="sst3"),
            return_exceptions=True,
        )
    assert good[0].label == "short"
    assert isinstance(bad, failure.CallError)
    assert (bad.code, bad.reason, bad.retry_after_s) == ("NOT_FOUND", "NotFound", None)
    assert "no model 'english/sst3'" in str(bad)


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"adapter_bytes": 7}, "must be bytes"),
        ({"priority": "urgent"}, "'high', 'normal' or 'low', and is 'urgent'"),
        ({"inputs": "a text alone"}, "must be a list of texts"),
    ],
)
async def test_a_slip_never_leaves(connect, named, text):
    """What the caller can be told at once is not sent."""
    async with connect() as (opened, daemon):
        with pytest.raises(errors.InvalidRequest, match=text):
            await opened.classify(**{"inputs": ["a"], "model": "english", **named})
        assert daemon.routes["english", "sst2"].runs == []


async def test_an_overloaded_daemon_is_asked_again(connect):
    """A shed item is sent again after the daemon's pushback, as a call would be."""
    work = refusing(*[errors.Overloaded("full", retry_after_s=0.001)] * 3)
    async with connect(work=work) as (opened, _):
        assert (await opened.classify(["a"], **NAMED))[0].label == "short"


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (errors.Overloaded("full", retry_after_s=0.001), 4),
        (errors.NotReady("draining", retry_after_s=-1), 1),
        (errors.Overloaded("full", retry_after_s=60.0), 1),  # longer than there is time
        (errors.NotServable("broken", reason="WrongBase"), 1),
    ],
)
async def test_what_cannot_help_is_not_tried(connect, error, times):
    """Four times at most, never after a negative pushback, nor what no retry mends."""
    asked = []

    def work(rows: object, deadline_s: float) -> None:
        asked.append(rows)
        raise error

    async with connect(work=work) as (opened, _):
        with pytest.raises(failure.CallError, match=error.message):
            await opened.classify(["a"], **NAMED)
    assert len(asked) == times


async def test_streams_that_end_are_followed_by_others(connect):
    """The daemon ends each stream after 20 ms: every one of many calls is answered all the same."""
    streams = stream.Streams(stream.Bounds(items=4, life_s=0.02))

    async def work() -> None:
        await asyncio.sleep(0.001)

    options = {"streams": streams, "most_items": 8, "work": lambda rows, deadline_s: work()}
    async with connect(**options) as (opened, daemon):
        replies = await asyncio.gather(*(opened.classify(["a"], **NAMED) for _ in range(300)))
        assert daemon.count(**NAMED, method="Classify", code="OK") == 300
    assert len(replies) == 300


async def test_a_daemon_that_leaves_is_said_so(connect):
    """Where every new stream is refused, a call fails in the end, and the caller does not hang."""
    streams = stream.Streams()
    async with connect(streams=streams) as (opened, _):
        streams.drain()
        with pytest.raises(failure.CallError, match="never begun") as caught:
            await opened.classify(["a"], **NAMED)
    assert (caught.value.code, caught.value.unreachable) == ("UNAVAILABLE", False)


async def test_nobody_answers_at_a_wrong_address(tmp_path):
    """A stream to nowhere fails each call with a hint."""
    async with aio.AsyncClient(str(tmp_path / "none.sock")) as client, client.stream() as opened:
        with pytest.raises(failure.CallError, match="no daemon answers at") as caught:
            await opened.classify(["a"], **NAMED)
    assert caught.value.unreachable


async def test_a_call_that_takes_too_long_is_given_up(connect):
    """The client's deadline holds for each call, and the stream lives on."""
    stuck = []

    def work(rows: object, deadline_s: float) -> Awaitable[None] | None:
        stuck.append(rows)
        return asyncio.Event().wait() if len(stuck) == 1 else None

    async with connect(work=work, timeout_s=0.3) as (opened, _):
        with pytest.raises(failure.CallError, match="not answered within") as caught:
            await opened.classify(["a"], **NAMED)
        assert (await opened.classify(["a"], **NAMED))[0].label == "short"
    assert caught.value.code == "DEADLINE_EXCEEDED"


async def test_a_closed_stream_takes_nothing(connect):
    """A call after the end is the caller's mistake; closing twice is none."""
    async with connect() as (opened, _):
        await opened.close()
        await opened.close()
        with pytest.raises(errors.InvalidRequest, match="the stream is closed"):
            await opened.classify(["a"], **NAMED)


async def test_leaving_waits_for_what_was_asked(socket):
    """Calls that were made before the end of the block are answered."""
    opened = asyncio.Event()
    route = fakes.Route(work=lambda rows, deadline_s: opened.wait())
    async with (
        fakes.running({("english", "sst2"): route}, socket) as daemon,
        aio.AsyncClient(daemon.admin) as client,
    ):
        async with client.stream(most_items=3) as talk:
            asked = [asyncio.ensure_future(talk.embed(["a"], **NAMED)) for _ in range(9)]
            while len(route.runs) < 3:
                await asyncio.sleep(0)
            opened.set()
        assert [each for each in asked if not each.done()] == []
    assert len(await asyncio.gather(*asked)) == 9


async def test_an_exception_gives_up_what_was_asked(socket):
    """Leaving by an exception ends every call, the waiting ones too, and frees the daemon."""
    route = fakes.Route(work=lambda rows, deadline_s: asyncio.Event().wait())
    asked: list[asyncio.Future] = []

    async def use(client: aio.AsyncClient) -> None:
        async with client.stream(most_items=3) as talk:
            asked.extend(asyncio.ensure_future(talk.embed(["a"], **NAMED)) for _ in range(9))
            while len(route.runs) < 3:
                await asyncio.sleep(0)
            raise ZeroDivisionError

    async with (
        fakes.running({("english", "sst2"): route}, socket) as daemon,
        aio.AsyncClient(daemon.admin) as client,
    ):
        with pytest.raises(ZeroDivisionError):
            await use(client)
        ended = await asyncio.gather(*asked, return_exceptions=True)
        while daemon.count(**NAMED, method="Embed", code="CANCELLED") < 3:
            await asyncio.sleep(0)
    assert {each.code for each in ended} == {"CANCELLED"}


async def test_a_cancelled_call_leaves_the_others(connect):
    """Giving up one call neither ends the stream nor loses a place in it."""
    gate = asyncio.Event()
    asked = []

    def work(rows: object, deadline_s: float) -> Awaitable[bool]:
        asked.append(rows)
        return gate.wait()

    async with connect(work=work, most_items=2) as (opened, _):
        calls = [asyncio.ensure_future(opened.classify(["a"], **NAMED)) for _ in range(2)]
        while len(asked) < 2:
            await asyncio.sleep(0.001)
        calls[0].cancel()
        gate.set()
        assert (await calls[1])[0].label == "short"
        replies = await asyncio.gather(*(opened.classify(["a"], **NAMED) for _ in range(10)))
    assert len(replies) == 10


async def test_a_full_blocking_stream_makes_its_caller_wait(socket):
    """`most_items` futures are out at once, never more, whoever asks for them."""
    gate = threading.Event()
    running = []

    async def work() -> None:
        running.append(1)
        await asyncio.to_thread(gate.wait, PATIENCE_S)

    route = fakes.Route(work=lambda rows, deadline_s: work())

    def use(address: str) -> int:
        with sync.Client(address) as client, client.stream(most_items=2) as opened:
            asked = [opened.embed(["a"], **NAMED) for _ in range(2)]
            third = threading.Thread(target=lambda: asked.append(opened.embed(["a"], **NAMED)))
            third.start()
            assert len(asked) == 2
            gate.set()
            third.join(PATIENCE_S)
            return len([each.result(PATIENCE_S) for each in asked])

    async with fakes.running({("english", "sst2"): route}, socket) as daemon:
        assert await asyncio.to_thread(use, daemon.admin) == 3


async def test_callbacks_may_ask_and_may_not_close(socket):
    """A callback that asks again, on a full stream, waits for nothing: no deadlock."""
    later: list[futures.Future] = []
    slips: list[BaseException] = []
    done = threading.Event()

    def use(address: str) -> list[object]:
        with sync.Client(address) as client, client.stream(most_items=1) as opened:

            def again(_: futures.Future) -> None:
                later.extend(opened.embed(["a"], **NAMED) for _ in range(3))
                try:
                    opened.close()
                except errors.InvalidRequest as error:
                    slips.append(error)
                done.set()

            opened.embed(["a"], **NAMED).add_done_callback(again)
            assert done.wait(PATIENCE_S)
        return [each.result(0) for each in later]

    async with fakes.running({("english", "sst2"): fakes.Route()}, socket) as daemon:
        assert len(await asyncio.to_thread(use, daemon.admin)) == 3
    assert "callback" in str(slips[0])


async def test_the_blocking_streams_thread_ends(socket):
    """Nothing is left behind: threads are as before, also after an exception."""
    before = threading.active_count()

    def use(address: str) -> None:
        for _ in range(3):
            with (
                contextlib.suppress(ZeroDivisionError),
                sync.Client(address) as client,
                client.stream() as opened,
            ):
                opened.embed(["a"], **NAMED).result(PATIENCE_S)
                raise ZeroDivisionError

    async with fakes.running({("english", "sst2"): fakes.Route()}, socket) as daemon:
        await asyncio.to_thread(use, daemon.admin)
        names = [each.name for each in threading.enumerate()]
    assert "bertd-stream" not in names
    assert threading.active_count() <= before + 2


@pytest.mark.parametrize(
    ("code", "pushback_s", "attempt", "wait_s"),
    [
        ("UNAVAILABLE", 0.25, 1, 0.25),
        ("UNAVAILABLE", 0.0, 3, 0.0),
        ("UNAVAILABLE", None, 1, 0.1),
        ("UNAVAILABLE", None, 3, 0.4),
        ("UNAVAILABLE", 0.25, 4, None),
        ("UNAVAILABLE", -1.0, 1, None),
        ("INTERNAL", 0.25, 1, None),
        ("DEADLINE_EXCEEDED", None, 1, None),
    ],
)
def test_the_policy_of_retries(code, pushback_s, attempt, wait_s):
    """Only UNAVAILABLE, four attempts, the daemon's wait or an own one that doubles."""
    assert channel.retry_wait_s(code, pushback_s, attempt=attempt) == wait_s
