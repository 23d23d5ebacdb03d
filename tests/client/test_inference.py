"""Both clients get typed answers from a daemon."""

import asyncio
import contextlib
from hashlib import sha256

import numpy as np
import pytest

from bertd import errors
from bertd.checkpoint import adapter_file
from bertd.client import aio, failure, sync
from bertd.runtime import inline, router
from tests import inline_adapters
from tests.serving import fakes


class Blocking:
    """The blocking client, called from threads, so that one test serves both clients."""

    def __init__(self, address: str) -> None:
        self._client = sync.Client(address)

    def __getattr__(self, name: str):
        method = getattr(self._client, name)
        return lambda *args, **named: asyncio.to_thread(method, *args, **named)

    async def __aenter__(self) -> "Blocking":
        self._client.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.__exit__(None, None, None)


@pytest.fixture(name="connect", params=[Blocking, aio.AsyncClient])
def _connect(request: pytest.FixtureRequest, socket: str):
    """Starts a daemon with one route and connects to its socket."""

    @contextlib.asynccontextmanager
    async def connect(routes: object = None, **changes: object):
        routes = {("english", "sst2"): fakes.Route(**changes), **(routes or {})}
        async with fakes.running(routes, socket) as daemon, request.param(daemon.admin) as client:
            yield client, daemon

    return connect


NAMED = {"model": "english", "adapter": "sst2"}


async def test_classifications_come_in_input_order(connect):
    """Each input has a decided label, its score, and all scores."""
    async with connect() as (client, _):
        reply = await client.classify(["a", ("a b", "c"), [7, 8], np.array([1, 2])], **NAMED)
    assert (len(reply), reply.problem) == (4, "single_label")
    assert [each.label for each in reply] == ["short"] * 4
    assert reply[0].labels == ("short",)
    assert reply[0].score == reply[0].scores["short"] == max(reply[0].scores.values())
    assert list(reply[0].scores) == list(fakes.LABELS)
    assert reply[1:3] == (reply[1], reply[2])
    assert reply[0].logits == ()


async def test_a_reply_tells_who_served_it(connect):
    """Revision, digest, tokens and timings are plain values."""
    async with connect() as (client, _):
        served = (await client.classify(["a"], **NAMED)).served
    assert (served.model, served.adapter, served.revision) == ("english", "sst2", "r1")
    assert (served.adapter_digest, served.tokens) == ("d1", 3)
    assert (served.queue_s, served.inference_s) == (0.25, 0.5)


async def test_options_reach_the_daemon(connect):
    """Labels, truncation and logits are the caller's choice."""
    async with connect() as (client, daemon):
        options = {"labels": ["long"], "truncate": True, "raw_logits": True}
        reply = await client.classify(["w " * 100], **NAMED, **options)
        route = daemon.routes["english", "sst2"]
    assert list(reply[0].scores) == ["long"]
    assert reply[0].logits == (11.0,)
    assert len(route.runs[0][0].ids) == fakes.MAX_LENGTH


async def test_a_label_below_its_threshold_is_none(connect):
    """No label is None, and the score is the best one's."""
    output = router.Output(
        label_names=fakes.LABELS, problem="single_label", thresholds={"short": 1.0}
    )
    async with connect(output=output) as (client, _):
        (result,) = await client.classify(["a"], **NAMED)
    assert (result.label, result.labels) == (None, ())
    assert result.score == result.scores["short"]


async def test_a_regression_is_a_score_without_label(connect):
    """The predicted number is the score."""
    output = router.Output(label_names=("stars",), problem="regression")
    async with connect(output=output) as (client, _):
        reply = await client.classify(["a b c"], **NAMED)
    assert (reply.problem, reply[0].label, reply[0].score) == ("regression", None, 5.0)


@pytest.mark.parametrize(("normalize", "length"), [(None, 30**0.5 * 3), (True, 1.0)])
async def test_embeddings_are_an_array(connect, normalize, length):
    """One float32 row for each input, which the caller may change."""
    async with connect() as (client, _):
        vectors = await client.embed(["a", "b"], **NAMED, normalize=normalize)
    assert (vectors.shape, vectors.dtype) == ((2, fakes.DIMENSIONS), np.float32)
    assert np.linalg.norm(vectors[0]) == pytest.approx(length)
    vectors[0, 0] = 1.0


async def test_tags_are_spans_of_the_text(connect):
    """Each token has its characters, its label and its score."""
    output = router.Output(label_names=("O", "PER"), problem="token")
    async with connect(output=output) as (client, _):
        reply = await client.tag(["a bb"], **NAMED, raw_logits=True)
    first, second = reply[0]
    assert (first.token, first.start, first.end, first.label) == ("a", 0, 1, "PER")
    assert (second.token, second.start, second.end, second.label) == ("bb", 2, 4, "O")
    assert (reply.label_names, second.logits) == (("O", "PER"), (3.0, 0.0))


async def test_a_call_brings_its_own_adapter(connect, tmp_path):
    """Every method takes adapter bytes; labels are the file's, and the reply names its digest."""
    base = inline_adapters.base(tmp_path)
    data = inline_adapters.adapter(base, label_names=("no", "yes"))
    route = fakes.Route(adapter="", base=base, allows_inline=True, output=None)
    token = adapter_file.Head(kind="linear", input="token", problem="token")
    async with connect({("english", ""): route}) as (client, _):
        reply = await client.classify(["a"], model="english", adapter_bytes=data)
        vectors = await client.embed(["a"], model="english", adapter_bytes=data)
        tagging = inline_adapters.adapter(base, head=token)
        tags = await client.tag(["a"], model="english", adapter_bytes=tagging)
    assert list(reply[0].scores) == ["no", "yes"]
    assert (reply.served.adapter, reply.served.adapter_digest) == ("", sha256(data).hexdigest())
    assert vectors.shape == (1, fakes.DIMENSIONS)
    assert tags.label_names == inline_adapters.LABELS


@pytest.mark.parametrize("name", ["pickled", "of another base", "not a number"])
async def test_a_refused_adapter_says_why(connect, tmp_path, name):
    """The reason is a word that a program can act on, the text names the tensor."""
    base = inline_adapters.base(tmp_path)
    make, reason, text = inline_adapters.BROKEN[name]
    route = fakes.Route(adapter="", base=base, allows_inline=True)
    async with connect({("english", ""): route}) as (client, _):
        with pytest.raises(failure.CallError, match=text) as caught:
            await client.classify(["a"], model="english", adapter_bytes=make(base))
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", reason)


@pytest.mark.parametrize("method", ["classify", "embed", "tag"])
@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"adapter": "sst2", "adapter_bytes": b"x"}, "only one of `adapter` and `adapter_bytes`"),
        ({"adapter_bytes": "UEsDBA=="}, "`adapter_bytes` must be bytes"),
        ({"adapter_bytes": 7}, "`adapter_bytes` must be bytes"),
    ],
)
async def test_a_slip_with_adapter_bytes_never_leaves(connect, method, named, text):
    """Two adapters, or something that is no file's content, are refused before anything is sent."""
    async with connect() as (client, daemon):
        with pytest.raises(errors.InvalidRequest, match=text):
            await getattr(client, method)(["a"], model="english", **named)
        assert daemon.routes["english", "sst2"].runs == []


async def test_an_empty_file_is_not_the_models_own_head(connect, tmp_path):
    """Bytes that are there and empty are a broken file, not a call without an adapter."""
    route = fakes.Route(adapter="", base=inline_adapters.base(tmp_path), allows_inline=True)
    async with connect({("english", ""): route}) as (client, _):
        with pytest.raises(failure.CallError) as caught:
            await client.classify(["a"], model="english", adapter_bytes=b"")
    assert (caught.value.reason, route.runs) == ("BadSafetensors", [])


@pytest.mark.parametrize(
    "inputs",
    [
        "a text alone",
        [5],
        [None],
        [("a", "b", "c")],
        [["a"]],
        [[1.5, "x"]],
        [[2**40]],
        [b"a text"],
        [["1984", "2001"]],
        [[7.5]],
    ],
)
async def test_inputs_of_a_wrong_type_never_leave(connect, inputs):
    """A slip of the caller is explained before anything is sent: lists are no pairs (B9)."""
    async with connect() as (client, daemon):
        with pytest.raises(errors.InvalidRequest, match="must be"):
            await client.classify(inputs, **NAMED)
        assert daemon.routes["english", "sst2"].runs == []


async def test_a_lone_surrogate_never_leaves(connect):
    """Text that cannot be UTF-8 is named by its index."""
    async with connect() as (client, _):
        with pytest.raises(errors.InvalidRequest, match=r"`inputs\[1\]` must be valid Unicode"):
            await client.embed(["a", "b\ud800"], **NAMED)


@pytest.mark.parametrize(
    ("named", "code", "text"),
    [
        ({"model": "english", "adapter": "sst3"}, "NOT_FOUND", "no model 'english/sst3'"),
        ({"model": "", "adapter": ""}, "INVALID_ARGUMENT", "`model` must name a Model"),
    ],
)
async def test_a_refused_call_raises_its_status(connect, named, code, text):
    """The code by name, the daemon's text, and its reason."""
    async with connect() as (client, _):
        with pytest.raises(failure.CallError, match=text) as caught:
            await client.classify(["a"], **named)
    assert (caught.value.code, caught.value.unreachable) == (code, False)
    assert caught.value.reason in {"NotFound", "InvalidRequest"}
    assert caught.value.retry_after_s is None
    assert isinstance(caught.value, errors.Error)


async def test_an_overloaded_daemon_is_asked_again(connect):
    """A shed call is sent again after the daemon's pushback, and succeeds unseen."""
    refusals = [errors.Overloaded("full", retry_after_s=0.001)] * 2

    def work(rows: object, deadline_s: float) -> None:
        if refusals:
            raise refusals.pop()

    async with connect(work=work) as (client, _):
        reply = await client.classify(["a"], **NAMED)
    assert reply[0].label == "short"
    assert refusals == []


async def test_a_call_with_a_large_adapter_is_asked_again(connect, tmp_path):
    """What a call brings is kept until it is answered, so that a shed one can be sent again."""
    base = inline_adapters.base(tmp_path)
    names = tuple(f"{number:03} {'é' * 252}" for number in range(inline.LABELS_MAX))
    data = inline_adapters.adapter(base, label_names=names)
    assert len(data) > 256 * 1024
    refusals = [errors.Overloaded("full", retry_after_s=0.001)] * 2

    def work(rows: object, deadline_s: float) -> None:
        if refusals:
            raise refusals.pop()

    route = fakes.Route(adapter="", base=base, allows_inline=True, work=work)
    async with connect({("english", ""): route}) as (client, _):
        reply = await client.classify(["a"], model="english", adapter_bytes=data)
    assert tuple(reply[0].scores) == names
    assert refusals == []


async def test_a_daemon_that_says_never_is_asked_once(connect):
    """A negative pushback ends the retries at once, and the caller is told so."""
    asked = []

    def work(rows: object, deadline_s: float) -> None:
        asked.append(rows)
        raise errors.NotReady("draining", retry_after_s=-1)

    async with connect(work=work) as (client, _):
        with pytest.raises(failure.CallError, match="draining") as caught:
            await client.classify(["a"], **NAMED)
    assert (len(asked), caught.value.reason) == (1, "NotReady")
    assert caught.value.retry_after_s < 0


async def test_nothing_else_is_asked_again(connect):
    """A bad request is bad once."""
    asked = []

    def work(rows: object, deadline_s: float) -> None:
        asked.append(rows)
        raise errors.NotServable("broken", reason="WrongBase")

    async with connect(work=work) as (client, _):
        with pytest.raises(failure.CallError) as caught:
            await client.classify(["a"], **NAMED)
    assert (len(asked), caught.value.code) == (1, "FAILED_PRECONDITION")
    assert caught.value.reason == "WrongBase"
