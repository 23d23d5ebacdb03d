"""One stream carries many calls: each is answered, or fails, alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
import pytest
from google.protobuf import duration_pb2
from hypothesis import given
from hypothesis import strategies as st

from bertd import errors
from bertd.runtime import router
from bertd.serving import guard, requests, status, stream
from bertd.v1 import inference_pb2 as pb
from bertd.v1 import inference_pb2_grpc
from tests.serving import fakes

PATIENCE_S = 10.0
NAMED = {"model": "english", "adapter": "sst2"}
COUNTED = {**NAMED, "method": "Classify"}
YEAR_S = 365 * 24 * 3600


class Gate:
    """Work that waits until it is let go; texts of one word pass."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.running = 0
        self.deadlines_s: list[float] = []

    async def __call__(self, rows: Sequence[object], deadline_s: float) -> None:
        """The work of a fake route."""
        self.deadlines_s.append(deadline_s)
        if len(rows[0].ids) == 3:
            return
        self.running += 1
        try:
            await self.opened.wait()
        finally:
            self.running -= 1

    async def holds(self, number: int) -> None:
        """Waits until so many calls wait here."""
        while self.running != number:
            await asyncio.sleep(0)


class Talk:
    """A caller's side of one stream."""

    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:
        self.call = call
        self._unread: list[pb.StreamAnswer] = []

    async def ask(self, id_: int, *texts: str, **fields: object) -> None:
        """Sends a Classify item."""
        await self.send(pb.StreamItem(id=id_, classify=classify(*texts), **fields))

    async def send(self, *items: pb.StreamItem) -> None:
        await self.call.write(pb.StreamRequest(items=items).SerializeToString())

    async def read(self) -> pb.StreamAnswer:
        """The next answer."""
        while not self._unread:
            body = await self.call.read()
            assert body is not grpc.aio.EOF
            self._unread += pb.StreamResponse.FromString(body).answers
        return self._unread.pop(0)

    async def error(self) -> pb.StreamError:
        """The next answer, which must be an error."""
        answer = await self.read()
        assert answer.WhichOneof("kind") == "error"
        return answer.error

    async def refusal(self) -> grpc.aio.AioRpcError:
        """How the stream ends, which must not be OK."""
        return await fakes.refusal(self.call.read())


def classify(*texts: str, **fields: object) -> pb.ClassifyRequest:
    """A request for the usual route."""
    inputs = [pb.Input(text=text) for text in texts]
    return pb.ClassifyRequest(**{**NAMED, "inputs": inputs, **fields})


@contextlib.asynccontextmanager
async def talking(
    socket: str, route: fakes.Route | Exception | None = None, **options: object
) -> AsyncIterator[tuple[Talk, fakes.Daemon]]:
    """An open stream to a daemon with one route, unless `options` name others."""
    routes = options.pop("routes", {("english", "sst2"): route or fakes.Route()})
    async with (
        fakes.running(routes, socket, **options) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
        asyncio.timeout(PATIENCE_S),
    ):
        yield another(channel), daemon


def another(channel: grpc.aio.Channel) -> Talk:
    """One more stream, of raw bytes."""
    return Talk(channel.stream_stream("/bertd.v1.Inference/Stream")())


async def test_every_kind_of_item_is_answered_under_its_id(socket):
    """Classify, Embed and Tag share a stream; ids are the caller's, 0 and the largest included."""
    tagging = fakes.Route(output=router.Output(label_names=("O", "PER"), problem="token"))
    routes = {("english", "sst2"): fakes.Route(), ("english", "ner"): tagging}
    inputs = [pb.Input(text="a bb")]
    tag = pb.TagRequest(model="english", adapter="ner", inputs=inputs)
    async with talking(socket, routes=routes) as (talk, _):
        await talk.ask(0, "a", "b")
        await talk.send(pb.StreamItem(id=7, embed=pb.EmbedRequest(**NAMED, inputs=inputs)))
        await talk.send(pb.StreamItem(id=2**64 - 1, tag=tag))
        answers = {each.id: each for each in [await talk.read() for _ in range(3)]}
    assert len(answers[0].classify.results) == 2
    assert answers[0].classify.served.model == "english"
    assert answers[7].embed.dimensions == fakes.DIMENSIONS
    assert [tag.token for tag in answers[2**64 - 1].tag.results[0].tokens] == ["a", "bb"]


async def test_answers_pass_those_that_take_longer(socket):
    """An item that waits does not hold up the next one; half-close answers it all the same."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate)) as (talk, _):
        await talk.ask(1, "slow one")
        await gate.holds(1)
        await talk.ask(2, "quick")
        assert (await talk.read()).id == 2
        await talk.call.done_writing()
        gate.opened.set()
        assert (await talk.read()).id == 1
        assert await talk.call.read() is grpc.aio.EOF
        assert await talk.call.code() is grpc.StatusCode.OK


async def test_an_empty_stream_ends_well(socket):
    """Who sends nothing is answered nothing."""
    async with talking(socket) as (talk, _):
        await talk.call.done_writing()
        assert await talk.call.read() is grpc.aio.EOF
        assert await talk.call.code() is grpc.StatusCode.OK


async def test_generated_stubs_speak_it(socket):
    """Plain stubs need nothing of ours: an iterator in, an iterator out."""

    async def items() -> AsyncIterator[pb.StreamRequest]:
        for id_ in range(100):
            yield pb.StreamRequest(items=[pb.StreamItem(id=id_, classify=classify("a"))])

    async with (
        fakes.running({("english", "sst2"): fakes.Route()}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        answers = [each async for reply in stub.Stream(items()) for each in reply.answers]
    assert sorted(each.id for each in answers) == list(range(100))
    assert {each.WhichOneof("kind") for each in answers} == {"classify"}


async def test_items_count_as_calls(socket):
    """Every item is one request in the metrics, under its own method, model and code."""
    async with talking(socket) as (talk, daemon):
        await talk.ask(1, "a")
        await talk.ask(2)
        for _ in range(2):
            await talk.read()
        assert daemon.count(**COUNTED, code="OK") == 1
        assert daemon.count(**COUNTED, code="INVALID_ARGUMENT") == 1
        assert daemon.series("request_duration_seconds_count", model="english", method="Classify")


async def test_items_that_come_together_are_answered_each_when_it_is_ready(socket):
    """A message of several items is no batch: one that waits does not hold up its neighbours."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate)) as (talk, _):
        texts = ["quick", "slow one", "quick", "also slow", "quick"]
        items = [pb.StreamItem(id=at, classify=classify(text)) for at, text in enumerate(texts)]
        await talk.send(*items)
        assert {(await talk.read()).id for _ in range(3)} == {0, 2, 4}
        gate.opened.set()
        assert {(await talk.read()).id for _ in range(2)} == {1, 3}


async def test_what_is_ready_together_travels_together(socket):
    """Answers of one batch share messages, each within a bound that plain clients take."""
    gate = Gate()
    wide = fakes.Route(work=gate)
    wide.output = router.Output(label_names=("l" * 30_000, "m"), problem="single_label")
    async with talking(socket, wide) as (talk, _):
        for id_ in range(10):
            await talk.ask(id_, "slow one")
        await gate.holds(10)
        gate.opened.set()
        sizes, seen = [], []
        while len(seen) < 10:
            body = await talk.call.read()
            sizes.append(len(body))
            seen += [each.id for each in pb.StreamResponse.FromString(body).answers]
    assert sorted(seen) == list(range(10))
    assert len(sizes) < 10
    assert max(sizes) <= stream.TOGETHER_BYTES


async def test_an_empty_message_is_nothing(socket):
    """No items are no mistake, and no answer."""
    async with talking(socket) as (talk, _):
        await talk.send()
        await talk.ask(1, "a")
        assert (await talk.read()).id == 1


# What is wrong with an item is that item's.


@pytest.mark.parametrize(
    ("error", "code", "reason", "pushback_ms"),
    [
        (errors.Overloaded("full", retry_after_s=0.25), "UNAVAILABLE", "Overloaded", 250),
        (errors.NotReady("leaving", retry_after_s=-1), "UNAVAILABLE", "NotReady", -1),
        (errors.Temporary("disk"), "UNAVAILABLE", "Temporary", 1000),
        (
            errors.NotServable("broken", reason="WrongBase"),
            "FAILED_PRECONDITION",
            "WrongBase",
            None,
        ),
        (errors.Expired("too late"), "DEADLINE_EXCEEDED", "Expired", None),
        (errors.TooLarge("too much"), "RESOURCE_EXHAUSTED", "TooLarge", None),
        (errors.Poison("never again"), "INTERNAL", "PoisonRequest", None),
        (ValueError("a secret"), "INTERNAL", "Internal", None),
        (asyncio.CancelledError(), "INTERNAL", "Internal", None),
    ],
)
async def test_an_item_fails_alone(socket, error, code, reason, pushback_ms):
    """Code, text, reason and pushback are those of a call; the stream goes on."""

    def work(rows: Sequence[object], deadline_s: float) -> None:
        if len(rows[0].ids) > 3:
            raise error

    async with talking(socket, fakes.Route(work=work)) as (talk, _):
        await talk.ask(5, "bad one")
        answer = await talk.read()
        await talk.ask(6, "good")
        assert (await talk.read()).WhichOneof("kind") == "classify"
    failed = answer.error
    assert (answer.id, failed.code, failed.reason) == (5, grpc.StatusCode[code].value[0], reason)
    assert failed.HasField("retry_pushback_ms") == (pushback_ms is not None)
    assert failed.retry_pushback_ms == (pushback_ms or 0)
    assert "secret" not in failed.message


@pytest.mark.parametrize(
    ("item", "code", "text"),
    [
        (pb.StreamItem(), "INVALID_ARGUMENT", "one of `classify`, `embed`, `tag`"),
        (pb.StreamItem(classify=pb.ClassifyRequest()), "INVALID_ARGUMENT", "must name a Model"),
        (pb.StreamItem(classify=classify("a", model="x")), "NOT_FOUND", "no model 'x/sst2'"),
        (pb.StreamItem(classify=classify()), "INVALID_ARGUMENT", "at least 1 input"),
        (pb.StreamItem(classify=classify(*["a"] * 1025)), "RESOURCE_EXHAUSTED", "at most 1024"),
        (pb.StreamItem(tag=pb.TagRequest(**NAMED)), "INVALID_ARGUMENT", "is for Classify"),
        # A field of a newer client, which says what to do, is no known kind.
        (pb.StreamItem.FromString(b"\x32\x00"), "INVALID_ARGUMENT", "holds none"),
    ],
)
async def test_a_bad_item_is_explained(socket, item, code, text):
    """Nothing that a well-formed message can say ends the stream."""
    async with talking(socket) as (talk, _):
        await talk.send(item)
        error = await talk.error()
        await talk.ask(1, "a")
        assert (await talk.read()).id == 1
    assert error.code == grpc.StatusCode[code].value[0]
    assert text in error.message


async def test_an_id_that_is_in_flight_is_refused(socket):
    """The second of two equal ids is DuplicateId, the first is answered, and then it is free."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate)) as (talk, _):
        await talk.ask(3, "slow one")
        await talk.ask(3, "quick")
        error = await talk.error()
        gate.opened.set()
        assert (await talk.read()).WhichOneof("kind") == "classify"
        await talk.ask(3, "quick")
        assert (await talk.read()).WhichOneof("kind") == "classify"
    assert (error.code, error.reason) == (3, "DuplicateId")
    assert "the id 3" in error.message


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"\x0a\x05hello", b"\x0a\x07\x1a\x05\n\x03\xff\xfe\xfd"]
)
async def test_a_malformed_message_ends_the_stream(socket, body):
    """What is no StreamRequest is INVALID_ARGUMENT for all, and gives up what was in flight."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate)) as (talk, daemon):
        await talk.ask(1, "slow one")
        await gate.holds(1)
        await talk.call.write(body)
        error = await talk.refusal()
        await gate.holds(0)
        assert daemon.count(**COUNTED, code="CANCELLED") == 1
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "bertd.v1.StreamRequest" in error.details()


# Bounds.


async def test_items_beyond_the_bound_wait_unread(socket):
    """Of 50 items 4 begin; as they are answered the others do, and none is lost."""
    gate = Gate()
    streams = stream.Streams(stream.Bounds(items=4))
    async with talking(socket, fakes.Route(work=gate), streams=streams) as (talk, _):
        for id_ in range(50):
            await talk.ask(id_, "slow one")
        await gate.holds(4)
        for _ in range(100):
            await asyncio.sleep(0)
            assert gate.running == 4
        gate.opened.set()
        answers = [await talk.read() for _ in range(50)]
    assert sorted(each.id for each in answers) == list(range(50))
    assert len(gate.deadlines_s) == 50


async def test_inputs_are_bounded_beside_items(socket):
    """A few items with many texts fill a stream as many with one do."""
    gate = Gate()
    streams = stream.Streams(stream.Bounds(inputs=10))
    async with talking(socket, fakes.Route(work=gate), streams=streams) as (talk, _):
        for id_ in range(9):
            await talk.ask(id_, *["slow one"] * 6)
        await gate.holds(2)
        for _ in range(100):
            await asyncio.sleep(0)
            assert gate.running == 2
        gate.opened.set()
        assert len([await talk.read() for _ in range(9)]) == 9


class Context:
    """The daemon's side of a call whose caller sends for ever and takes nothing."""

    def __init__(self, items: int = 1) -> None:
        self.items = items
        self.reads = 0
        self.stuck = asyncio.Event()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        self.reads += 1
        item = pb.StreamItem(id=self.reads, classify=classify("a"))
        return pb.StreamRequest(items=[item] * self.items).SerializeToString()

    async def write(self, body: bytes) -> None:
        self.stuck.set()
        await asyncio.Event().wait()


class Uncounted:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str):
        return lambda **_: None


async def test_a_caller_that_never_reads_holds_the_bound_and_no_more():
    """Answers that nobody takes count as unanswered: nothing more is read or computed."""
    ran = []

    async def handle(request: pb.ClassifyRequest, call: guard.Call) -> bytes:
        ran.append(request)
        return b""

    context = Context()
    streams = stream.Streams(stream.Bounds(items=8))
    watch = guard.Guard(metrics=Uncounted())
    serve = streams.method(watch, {"classify": stream.Kind("Classify", handle)}).stream_stream
    serving = asyncio.ensure_future(serve(None, context))
    await context.stuck.wait()
    while context.reads < 8:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert (context.reads, len(ran)) == (8, 8)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    for _ in range(100):
        await asyncio.sleep(0)
    assert context.reads == 8


async def test_one_message_of_many_items_holds_the_bound_too():
    """Items of a message that do not fit wait in it, unbegun."""
    ran = []

    async def handle(request: pb.ClassifyRequest, call: guard.Call) -> bytes:
        ran.append(request)
        return b""

    context = Context(items=1000)
    streams = stream.Streams(stream.Bounds(items=8))
    watch = guard.Guard(metrics=Uncounted())
    serve = streams.method(watch, {"classify": stream.Kind("Classify", handle)}).stream_stream
    serving = asyncio.ensure_future(serve(None, context))
    await context.stuck.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    # Of the eight the seven with the same id are refused, and count all the same.
    assert (context.reads, len(ran)) == (1, 1)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_items_beyond_the_daemons_bound_are_refused_one_by_one(socket):
    """The bound on calls in flight counts items, and refuses them with the same pushback."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate), most_calls=2) as (talk, _):
        for id_ in range(5):
            await talk.ask(id_, "slow one")
        refused = [await talk.error() for _ in range(3)]
        gate.opened.set()
        assert {(await talk.read()).id for _ in range(2)} == {0, 1}
    assert {(each.code, each.reason, each.retry_pushback_ms) for each in refused} == {
        (14, "Overloaded", 100)
    }


async def test_bytes_beyond_the_daemons_bound_are_refused(socket):
    """A large item is refused, and a small one after it is not."""
    async with talking(socket, fakes.Route(truncate=True), most_bytes=1000) as (talk, _):
        await talk.ask(1, "w " * 1000)
        assert (await talk.error()).code == 14
        await talk.ask(2, "a")
        assert (await talk.read()).id == 2


# Deadlines and cancellation.


@pytest.mark.parametrize(
    ("timeout_s", "wanted_s"), [(None, 110.0), (60.0, 160.0), (YEAR_S, 400.0), (2.5, 102.5)]
)
async def test_an_item_carries_its_own_deadline(socket, timeout_s, wanted_s):
    """The queue gets it, up to a bound; without one the default counts (checklist 57)."""
    gate = Gate()
    fields = {} if timeout_s is None else {"timeout": duration(timeout_s)}
    options = {"clock": lambda: 100.0}
    async with talking(socket, fakes.Route(work=gate), **options) as (talk, _):
        await talk.ask(1, "a", **fields)
        await talk.read()
    assert gate.deadlines_s == [pytest.approx(wanted_s)]


def duration(seconds: float) -> duration_pb2.Duration:
    """A message of it."""
    made = duration_pb2.Duration()
    made.FromNanoseconds(int(seconds * 1e9))
    return made


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, -YEAR_S])
async def test_what_is_late_when_it_comes_is_never_run(socket, timeout_s):
    """A deadline that has passed is DEADLINE_EXCEEDED, and nothing is computed (checklist 56)."""
    route = fakes.Route()
    async with talking(socket, route) as (talk, daemon):
        await talk.ask(1, "a", timeout=duration(timeout_s))
        assert (await talk.error()).code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert daemon.count(**COUNTED, code="DEADLINE_EXCEEDED") == 1
    assert route.runs == []


async def test_an_item_whose_deadline_passes_is_given_up(socket):
    """It is answered so, its place is free, and its neighbours still wait (checklist 56)."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate)) as (talk, _):
        await talk.ask(1, "slow one")
        await talk.ask(2, "slow two", timeout=duration(0.02))
        answer = await talk.read()
        await gate.holds(1)
        gate.opened.set()
        assert (await talk.read()).id == 1
    assert (answer.id, answer.error.code, answer.error.reason) == (2, 4, "Expired")
    assert "within 0.02 s" in answer.error.message


async def test_no_item_outlives_the_streams_own_deadline(socket):
    """The deadline of the call itself bounds every item in it."""
    gate = Gate()
    options = {"clock": lambda: 100.0}
    async with (
        talking(socket, fakes.Route(work=gate), **options) as (_, daemon),
        grpc.aio.insecure_channel(daemon.data) as channel,
    ):
        late = Talk(channel.stream_stream("/bertd.v1.Inference/Stream")(timeout=5.0))
        await late.ask(1, "a", timeout=duration(60))
        await late.read()
    assert 104.0 < gate.deadlines_s[0] <= 105.1  # grpc rounds what it is told


async def test_a_cancelled_stream_frees_all_its_places(socket):
    """Whatever waited for a caller that left is given up within 10 ms (checklist 56)."""
    gate, took_s = Gate(), []
    loop = asyncio.get_running_loop()
    async with (
        fakes.running({("english", "sst2"): fakes.Route(work=gate)}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
        asyncio.timeout(PATIENCE_S),
    ):
        for round_ in range(1, 6):
            talk = another(channel)
            for id_ in range(100):
                await talk.ask(id_, "slow one")
            await gate.holds(100)
            began_s = loop.time()
            talk.call.cancel()
            await gate.holds(0)
            took_s.append(loop.time() - began_s)
            while daemon.count(**COUNTED, code="CANCELLED") < 100 * round_:
                await asyncio.sleep(0)
        healthy = another(channel)
        await healthy.ask(1, "a")
        assert (await healthy.read()).id == 1
    assert min(took_s) < 0.01


async def test_a_connection_that_breaks_frees_all_its_places(socket):
    """A caller that vanishes without a word is as one that cancels."""
    gate = Gate()
    async with talking(socket, fakes.Route(work=gate)) as (_, daemon):
        async with grpc.aio.insecure_channel(daemon.data) as channel:
            lost = another(channel)
            for id_ in range(20):
                await lost.ask(id_, "slow one")
            await gate.holds(20)
        await gate.holds(0)
        while daemon.count(**COUNTED, code="CANCELLED") < 20:
            await asyncio.sleep(0)


# Leaving in order.


async def test_a_daemon_that_stops_answers_what_was_begun(socket):
    """Draining: what is in flight is answered, the stream ends UNAVAILABLE, and so do new ones."""
    gate = Gate()
    route = fakes.Route(work=gate)
    streams = stream.Streams()
    async with talking(socket, route, streams=streams) as (talk, daemon):
        await talk.ask(1, "slow one")
        await gate.holds(1)
        streams.drain()
        await talk.ask(2, "a")
        gate.opened.set()
        assert (await talk.read()).id == 1
        errors_ = [await talk.refusal()]
        async with grpc.aio.insecure_channel(daemon.data) as channel:
            errors_.append(await another(channel).refusal())
    for error in errors_:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1
        assert "never begun" in error.details()
    assert len(route.runs) == 1


async def test_who_had_finished_is_not_told_of_the_end(socket):
    """A stream whose every item was read ends with OK, also while the daemon stops."""
    gate = Gate()
    streams = stream.Streams()
    async with talking(socket, fakes.Route(work=gate), streams=streams) as (talk, _):
        await talk.ask(1, "slow one")
        await gate.holds(1)
        await talk.call.done_writing()
        streams.drain()
        gate.opened.set()
        assert (await talk.read()).id == 1
        assert await talk.call.read() is grpc.aio.EOF
        assert await talk.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("items", [0, 3])
async def test_a_stream_ends_before_its_connection_does(socket, items):
    """After its life a stream takes nothing more, answers, and tells the caller to open another."""
    streams = stream.Streams(stream.Bounds(life_s=0.05))
    async with talking(socket, streams=streams) as (talk, _):
        for id_ in range(items):
            await talk.ask(id_, "a")
        assert [(await talk.read()).id for _ in range(items)] == list(range(items))
        error = await talk.refusal()
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_the_last_items_of_a_stream_have_time_for_an_answer():
    """A stream stops taking items well before the longest deadline cuts its connection."""
    assert stream.LIFE_S + 6 * guard.DEFAULT_DEADLINE_S <= guard.LONGEST_DEADLINE_S


# Pure parts.


@given(st.integers(0, 2**64 - 1), st.integers(0, 40_000), st.sampled_from(["classify", "tag"]))
def test_an_answer_is_packed_as_protobuf_would(id_, size, name):
    """A serialised reply put into its answer is the message that protobuf makes of it."""
    reply = {"classify": pb.ClassifyResponse, "tag": pb.TagResponse}[name]()
    reply.served.model = "m" * size
    packed = stream.packed(id_, name, reply.SerializeToString())
    answer = pb.StreamAnswer(id=id_, **{name: reply})
    assert pb.StreamResponse.FromString(packed) == pb.StreamResponse(answers=[answer])
    assert len(pb.StreamResponse.FromString(packed * 2).answers) == 2


def test_a_failure_is_packed_whole():
    """Code, text, reason and pushback; no pushback where there is none."""
    failure = status.failure(errors.Overloaded("full", retry_after_s=2), remaining_s=None)
    answer = pb.StreamResponse.FromString(stream.packed(9, "embed", failure))
    error = pb.StreamError(code=14, message="full", reason="Overloaded", retry_pushback_ms=2000)
    assert list(answer.answers) == [pb.StreamAnswer(id=9, error=error)]


def test_questions_and_answers_have_the_same_fields():
    """A kind's field has one number in both, small enough for one byte of key."""
    asked = {each.name: each.number for each in pb.StreamItem.DESCRIPTOR.fields}
    answered = {each.name: each.number for each in pb.StreamAnswer.DESCRIPTOR.fields}
    both = asked.keys() & answered.keys()
    assert both == {"id", "classify", "embed", "tag"}
    assert all(asked[name] == answered[name] < 16 for name in both)


@pytest.mark.parametrize(
    ("name", "factor"),
    [("UNSPECIFIED", 1.0), ("HIGH", 16.0), ("NORMAL", 1.0), ("LOW", 0.0625)],
)
def test_a_priority_is_a_share(name, factor):
    """Shares of 16 : 1 : 1/16, and 1 where nothing is said."""
    assert requests.priority(pb.Options(priority=f"PRIORITY_{name}")) == factor
    assert requests.priority(pb.Options()) == 1.0


@pytest.mark.parametrize("number", [4, -1, 2**31 - 1])
def test_a_number_that_is_no_priority_is_refused(number):
    """Enums are open on the wire: what means nothing here is the caller's to mend."""
    with pytest.raises(errors.InvalidRequest, match=f"and is {number}"):
        requests.priority(pb.Options(priority=number))
