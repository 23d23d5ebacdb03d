"""An edge asks, the front answers: rows, refusals, changes of what is served, callers who leave."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from bertd import errors, frames
from bertd.edge import owner as owners
from bertd.edge import routes as remote
from bertd.runtime import desk, router, slots
from bertd.tokenization import tokenizer as tokenization
from tests.edge import fakes


@pytest.fixture(name="pair")
async def _pair(tokenizer: Path, tmp_path: Path) -> AsyncIterator[fakes.Pair]:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer.read_bytes())
    async with fakes.paired(path) as pair:
        yield pair


async def test_a_route_arrives_with_everything_that_serving_uses(pair: fakes.Pair) -> None:
    """What an edge knows of a route is what the front knows, and its tokenizer makes the same."""
    output = router.Output(
        label_names=("a", "ü"), problem="multi_label", temperature=1.5, thresholds={"ü": 0.25}
    )
    there = pair.publish("x", output=output, digest="d", revision="r9", truncate=False)
    route = await pair.routes.search("english", "x")
    names = ("model", "adapter", "revision", "digest", "output", "truncate", "normalize")
    assert all(getattr(route, name) == getattr(there, name) for name in (*names, "dimensions"))
    assert route.content is None
    own = tokenization.Tokenizer.load(
        pair.path, max_length=fakes.MAX_LENGTH, vocab=fakes.VOCAB, token_types=2
    )
    texts = ["w1 w2", ("w3", "w4 " * 20)]
    for got, expected in zip(
        route.tokenizer.encode(texts, truncate=True),
        own.encode(texts, truncate=True),
        strict=True,
    ):
        assert got.ids.tolist() == expected.ids.tolist()
        assert got.type_ids.tolist() == expected.type_ids.tolist()
    pair.publish("none", output=None)
    assert (await pair.routes.search("english", "none")).output is None


async def test_a_name_is_asked_for_once(pair: fakes.Pair) -> None:
    """A thousand calls of a name cost the front one search, and the file one load."""
    pair.publish("x")
    routes = await asyncio.gather(*(pair.routes.search("english", "x") for _ in range(1000)))
    assert pair.router.searches == 1
    assert all(route is routes[0] for route in routes)
    pair.publish("y")
    assert (await pair.routes.search("english", "y")).tokenizer is routes[0].tokenizer


async def test_rows_are_answered_in_order(pair: fakes.Pair) -> None:
    """Each row of each call gets its own answer, with the task, deadline and priority asked for."""
    there = pair.publish()
    route = await pair.routes.search("english", "")
    rows = route.tokenizer.encode(["w1", "w1 w2 w3", ""], truncate=True)
    ran = await route.run(rows, frames.Task.EMBED, 123.5, priority=16.0)
    sums = [[len(row.ids), int(row.ids.sum())] for row in rows]
    assert [vector.tolist() for vector in ran.vectors] == [[each] for each in sums]
    assert (ran.queue_s, ran.inference_s) == (0.25, 0.5)
    assert there.asked == [(frames.Task.EMBED, 123.5, 16.0)]
    many = await asyncio.gather(*(pair.run(text="w1 " * n) for n in range(12)))
    assert [ran.vectors[0][0, 0] for ran in many] == [n + 2 for n in range(12)]


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("too much", retry_after_s=0.25),
        errors.Expired("too late"),
        errors.Poison("it kills"),
        errors.TooLarge("too many", hint="send less"),
        errors.Bug("an invariant"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_refused_call_is_refused_as_in_the_front(
    pair: fakes.Pair, error: errors.Error
) -> None:
    """An error of the run reaches the edge with its class, text, hint and time to wait."""

    async def fail(route: fakes.Route, rows: object) -> None:
        raise error

    pair.publish(work=fail)
    with pytest.raises(type(error)) as got:
        await pair.run()
    assert vars(got.value) == vars(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotServable("broken", reason="WrongBase", hint="mend it"),
        errors.NotReady("loading", retry_after_s=0.5),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_name_that_does_not_serve_says_why(pair: fakes.Pair, error: errors.Error) -> None:
    """Each caller gets an error of its own; when the name serves, the next call is answered."""
    pair.router.routes["english", "x"] = error
    found = await asyncio.gather(*(pair.run("x") for _ in range(3)), return_exceptions=True)
    assert all(type(each) is type(error) and vars(each) == vars(error) for each in found)
    assert len({id(each) for each in found}) == 3
    with pytest.raises(errors.NotFound, match=r"no 'english/z' .*did you mean"):
        await pair.run("z")
    pair.publish("x")
    await pair.run("x")


async def test_what_nobody_foresaw_stays_in_the_log_of_the_front(pair: fakes.Pair) -> None:
    """A bug of the front reaches the edge as a Bug with an id, without its text."""

    async def fail(route: fakes.Route, rows: object) -> None:
        raise RuntimeError("secret path")

    pair.publish(work=fail)
    with pytest.raises(errors.Bug, match="the front failed; its log has the details") as got:
        await pair.run()
    assert "secret" not in str(got.value)
    assert pair.desk.calls == 0


@pytest.mark.parametrize("change", ["replaced", "deleted", "broken"])
async def test_a_route_that_is_not_published_is_stale(pair: fakes.Pair, change: str) -> None:
    """Whatever became of a name, the front runs nothing under what it was before."""
    there = pair.publish("x")
    route = await pair.routes.search("english", "x")
    if change == "replaced":
        pair.publish("x", digest="new")
    elif change == "deleted":
        del pair.router.routes["english", "x"]
    else:
        pair.router.routes["english", "x"] = errors.NotReady("loading")
    rows = route.tokenizer.encode(["w1"], truncate=True)
    with pytest.raises(owners.Stale) as stale:
        await route.run(rows, frames.Task.CLASSIFY, 1e9)
    assert there.asked == []
    pair.routes.forget("english", "x", stale.value.number + 1)  # somebody found the next one
    assert await pair.routes.search("english", "x") is route
    pair.routes.forget("english", "x", stale.value.number)
    if change == "replaced":
        assert (await pair.routes.search("english", "x")).digest == "new"
    else:
        with pytest.raises((errors.NotFound, errors.NotReady)):
            await pair.routes.search("english", "x")


async def test_an_edge_holds_no_route_of_the_front(pair: fakes.Pair) -> None:
    """A replaced route is gone though edges know its number, so that its revision can close."""
    ends = []
    for n in range(50):
        there = pair.publish("x", digest=str(n))
        ends.append(weakref.ref(there))
        await pair.routes.search("english", "x")
        await pair.run("x")
        pair.routes.forget("english", "x", (await pair.routes.search("english", "x")).told.number)
    del there
    gc.collect()
    assert [end() is not None for end in ends] == [False] * 49 + [True]


async def test_a_caller_who_leaves_frees_his_rows(pair: fakes.Pair) -> None:
    """A cancelled call is cancelled in the front within 10 ms; calls beside it go on."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(route: fakes.Route, rows: object) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    pair.publish("slow", work=wait)
    pair.publish("quick")
    call = asyncio.create_task(pair.run("slow"))
    await began.wait()
    call.cancel()
    async with asyncio.timeout(0.01):
        await ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await call
    await pair.run("quick")
    assert pair.desk.calls == 0


async def test_callers_may_leave_at_any_moment(pair: fakes.Pair) -> None:
    """Thousands of calls, cancelled after any number of turns: none is left, none disturbs."""
    pair.publish(work=lambda route, rows: asyncio.sleep(0))
    await pair.run()
    calls = [asyncio.create_task(pair.run()) for _ in range(2000)]
    for turns, call in enumerate(calls):
        if turns % 3:
            call.cancel()
        if turns % 7 == 0:
            await asyncio.sleep(0)
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert not any(isinstance(each, BaseException) for each in found[::3])
    cancelled = sum(isinstance(each, asyncio.CancelledError) for each in found)
    assert 0 < cancelled == sum(isinstance(each, BaseException) for each in found)
    await fakes.until(lambda: pair.desk.calls == 0)


async def test_an_edge_that_dies_takes_its_calls_with_it(pair: fakes.Pair) -> None:
    """When the socket closes, the front cancels what the edge asked for, and the edge refuses."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(route: fakes.Route, rows: object) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    pair.publish(work=wait)
    call = asyncio.create_task(pair.run())
    await began.wait()
    pair.ends[1].close()
    with pytest.raises(errors.NotReady, match="going away"):
        await call
    await fakes.until(lambda: len(pair.lost) == 2)
    pair.desk.close()
    await ended.wait()
    with pytest.raises(errors.NotReady, match="going away"):
        await pair.run()


async def test_an_adapter_that_a_call_brought_is_used_once(pair: fakes.Pair) -> None:
    """Its bytes and its caller reach the front; its route runs with its content, one time."""
    seen: list[slots.Content | None] = []
    pair.publish(work=lambda route, rows: seen.append(route.content))
    base = await pair.routes.search("english", "")
    route = await pair.brought.route(base, b"mine", "ipv4:1.2.3.4")
    assert pair.inline.brought == [(b"mine", "ipv4:1.2.3.4")]
    assert route.output is not None
    assert route.output.label_names == ("a", "b")
    assert route.content is not None
    assert route.content.inline
    rows = route.tokenizer.encode(["w1"], truncate=True)
    ran = await route.run(rows, frames.Task.CLASSIFY, 1e9)
    assert np.array_equal(ran.vectors[0], [[3, 2 + 6 + 3]])
    assert [content and content.digest for content in seen] == ["mine"]
    with pytest.raises(owners.Stale):
        await route.run(rows, frames.Task.CLASSIFY, 1e9)


async def test_a_brought_adapter_does_not_outlive_its_base(pair: fakes.Pair) -> None:
    """When the base is replaced, its adapters are stale, and bringing one on it is as well."""
    pair.publish()
    base = await pair.routes.search("english", "")
    route = await pair.brought.route(base, b"mine", "")
    pair.publish(digest="new")
    with pytest.raises(owners.Stale):
        await route.run([], frames.Task.CLASSIFY, 1e9)
    with pytest.raises(owners.Stale) as stale:
        await pair.brought.route(base, b"mine", "")
    assert stale.value.number == base.told.number


async def test_a_bad_adapter_is_refused_as_in_the_front(pair: fakes.Pair) -> None:
    """Why the bytes are no adapter crosses with its reason."""
    pair.publish()
    base = await pair.routes.search("english", "")
    with pytest.raises(errors.InvalidRequest) as got:
        await pair.brought.route(base, b"bad", "")
    assert (got.value.reason, got.value.hint) == ("WrongBase", "train it")


async def test_adapters_that_nobody_uses_are_forgotten(
    pair: fakes.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front keeps so many adapters for calls that are still being encoded, and no more."""
    monkeypatch.setattr(desk, "BROUGHT_MAX", 3)
    pair.publish()
    base = await pair.routes.search("english", "")
    routes = [await pair.brought.route(base, b"%d" % n, "") for n in range(5)]
    rows = base.tokenizer.encode(["w1"], truncate=True)
    for at, route in enumerate(routes):
        if at < 2:
            with pytest.raises(owners.Stale):
                await route.run(rows, frames.Task.CLASSIFY, 1e9)
        else:
            await route.run(rows, frames.Task.CLASSIFY, 1e9)


async def test_routes_are_bounded(pair: fakes.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest name is asked for again."""
    monkeypatch.setattr(remote, "ROUTES_MAX", 2)
    for name in "abc":
        pair.publish(name)
        await pair.routes.search("english", name)
    await pair.routes.search("english", "c")
    assert pair.router.searches == 3
    await pair.routes.search("english", "a")
    assert pair.router.searches == 4


async def test_numbers_of_routes_do_not_pile_up(pair: fakes.Pair) -> None:
    """A route that edges ask for again has the number that it had, and dead ones leave nothing."""
    published = desk.Published(pair.router)  # type: ignore[arg-type]
    there = pair.publish("x")
    number, _ = await published.search("english", "x")
    assert (await published.search("english", "x"))[0] == number
    assert published.at(number) is there
    for n in range(100):
        there = pair.publish("x", digest=str(n))
        await published.search("english", "x")
    gc.collect()
    assert len(published._numbers) < 5
    assert published.at(number) is None
    assert published.at(12345) is None


async def test_a_lost_tokenizer_file_is_no_bug(pair: fakes.Pair) -> None:
    """A file that has gone is a temporary trouble; a broken one says what is wrong."""
    pair.publish(path=Path("/nowhere/tokenizer.json"))
    with pytest.raises(errors.Temporary, match="cannot be read"):
        await pair.run()
    broken = pair.path.with_name("broken.json")
    broken.write_text("{}")
    pair.publish(path=broken)
    with pytest.raises(errors.BadArtifact, match="tokenizer"):
        await pair.run()


async def test_an_answer_too_large_for_a_frame_is_refused(
    pair: fakes.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front refuses it by name, and the socket lives."""
    pair.publish()
    await pair.run()
    monkeypatch.setattr(desk, "LONGEST_ANSWER_BYTES", 4)
    with pytest.raises(errors.TooLarge, match="8 bytes"):
        await pair.run()
    monkeypatch.undo()
    await pair.run()
