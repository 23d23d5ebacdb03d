"""A call may bring its own adapter: it is answered by it, or told what is wrong with it."""

import asyncio
import contextlib
import hashlib
import re
import threading
import time

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bertd.checkpoint import adapter_file
from bertd.runtime import inline
from bertd.v1 import inference_pb2 as pb
from bertd.v1 import inference_pb2_grpc
from tests import inline_adapters
from tests.serving import fakes

LONGEST_WAIT_S = 20.0
TEXTS = [pb.Input(text="a b")]


@pytest.fixture(name="base", scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory):
    return inline_adapters.base(tmp_path_factory.mktemp("base"))


def request(
    data: bytes | None, kind: type = pb.ClassifyRequest, **fields: object
) -> pb.ClassifyRequest | pb.EmbedRequest | pb.TagRequest:
    """A request that brings these bytes."""
    return kind(**{"model": "english", "inputs": TEXTS, "adapter_bytes": data, **fields})


@contextlib.asynccontextmanager
async def serving(base, socket: str, *, clock=time.monotonic, **changes: object):
    """A stub, the route of the base, and the daemon."""
    route = fakes.Route(
        **{"adapter": "", "base": base, "allows_inline": True, "digest": "", **changes}
    )
    routes = {("english", ""): route, ("english", "sst2"): fakes.Route()}
    async with (
        fakes.running(routes, socket, clock=clock) as daemon,
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):
        yield inference_pb2_grpc.InferenceStub(channel), route, daemon


def reason(error: grpc.aio.AioRpcError) -> str:
    """The word of a refusal's ErrorInfo."""
    info = error_details_pb2.ErrorInfo()
    assert any(each.Unpack(info) for each in rpc_status.from_call(error).details)
    assert info.domain == "bertd.dev"
    return info.reason


def pushback(error: grpc.aio.AioRpcError) -> str | None:
    """When the caller shall come again, in milliseconds."""
    return dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")


async def test_a_call_is_answered_by_the_adapter_that_it_brings(base, socket):
    """Labels, problem and digest are the file's, though the base has no head at all."""
    data = inline_adapters.adapter(base, label_names=("no", "yes"), thresholds={"no": 0.999})
    async with serving(base, socket, output=None) as (stub, _, _):
        reply = await stub.Classify(request(data, raw_logits=True))
        (result,) = reply.results
    assert [score.label for score in result.scores] == ["no", "yes"]
    assert (list(result.labels), list(result.logits)) == ([], [4.0, -1.0])
    assert (reply.served.model, reply.served.adapter, reply.served.revision) == (
        "english",
        "",
        "r1",
    )
    assert reply.served.adapter_digest == hashlib.sha256(data).hexdigest()


async def test_every_method_takes_one(base, socket):
    """Embed and Tag are asked like Classify."""
    token = adapter_file.Head(kind="linear", input="token", problem="token")
    data = inline_adapters.adapter(base, head=token)
    async with serving(base, socket) as (stub, _, _):
        tags = await stub.Tag(request(data, pb.TagRequest))
        vectors = await stub.Embed(request(data, pb.EmbedRequest, as_floats=True))
    assert tuple(tags.label_names) == inline_adapters.LABELS
    assert list(vectors.embeddings[0].values) == [4.0, 8.0, 12.0, 16.0]
    for reply in (tags, vectors):
        assert reply.served.adapter_digest == hashlib.sha256(data).hexdigest()


async def test_what_came_for_one_model_is_not_the_models_own(base, socket):
    """The next call without bytes is answered by the base again."""
    data = inline_adapters.adapter(base, label_names=("no", "yes"))
    async with serving(base, socket) as (stub, _, _):
        await stub.Classify(request(data))
        plain = await stub.Classify(request(None))
    assert [score.label for score in plain.results[0].scores] == list(fakes.LABELS)
    assert plain.served.adapter_digest == ""


async def test_the_series_name_no_adapter_of_a_caller(base, socket):
    """However many files callers bring, they are one label value; hits and new ones are counted."""
    async with serving(base, socket) as (stub, _, daemon):
        for seed in (1, 2, 1, 1):
            await stub.Classify(request(inline_adapters.adapter(base, seed)))
        await fakes.refusal(stub.Classify(request(b"rubbish")))
        served = {"model": "english", "adapter": "(inline)", "method": "Classify"}
        assert daemon.count(**served, code="OK") == 4
        assert daemon.count(**served, code="INVALID_ARGUMENT") == 1
        named = {"hit": 2, "new": 2, "refused": 1, "limited": 0}
        for result, calls in named.items():
            series = {"model": "english", "result": result}
            assert daemon.series("inline_adapters_total", **series) == calls


@pytest.mark.parametrize("name", inline_adapters.BROKEN)
async def test_what_is_wrong_with_an_adapter_is_said_by_name(base, socket, name):
    """Hostile or mistaken bytes: INVALID_ARGUMENT, the reason, the tensor; nothing runs (B8)."""
    make, wanted, text = inline_adapters.BROKEN[name]
    async with serving(base, socket) as (stub, route, _):
        error = await fakes.refusal(stub.Classify(request(make(base))))
        assert route.runs == []
        assert (await stub.Classify(request(inline_adapters.adapter(base)))).results
    assert (error.code().name, reason(error)) == ("INVALID_ARGUMENT", wanted)
    assert text in error.details()
    assert pushback(error) is None


@pytest.mark.parametrize(
    ("fields", "code", "wanted", "text"),
    [
        ({"adapter": "sst2"}, "INVALID_ARGUMENT", "InvalidRequest", "only one of `adapter` and"),
        ({"adapter_bytes": bytes((2 << 20) + 1)}, "INVALID_ARGUMENT", "TooLarge", "has 2097153"),
        ({"model": "germen"}, "NOT_FOUND", "NotFound", "no model 'germen/'"),
        ({"inputs": []}, "INVALID_ARGUMENT", "InvalidRequest", "`inputs` must hold at least 1"),
        ({"labels": ["shirt"]}, "NOT_FOUND", "NotFound", "did you mean 'short'"),
    ],
)
async def test_a_bad_call_is_refused_with_a_good_adapter(base, socket, fields, code, wanted, text):
    """The adapter is no excuse for the rest of the call."""
    async with serving(base, socket) as (stub, route, _):
        call = stub.Classify(request(**{"data": inline_adapters.adapter(base), **fields}))
        error = await fakes.refusal(call)
        assert route.runs == []
    assert (error.code().name, reason(error)) == (code, wanted)
    assert text in error.details()


async def test_a_model_that_takes_none_refuses_before_reading(base, socket):
    """Where the Model does not allow it the hint says how, and declared adapters still answer."""
    async with serving(base, socket, allows_inline=False) as (stub, _, _):
        error = await fakes.refusal(stub.Classify(request(b"rubbish")))
        named = pb.ClassifyRequest(model="english", adapter="sst2", inputs=TEXTS)
        assert (await stub.Classify(named)).results
    assert error.code().name == "FAILED_PRECONDITION"
    assert reason(error) == "InlineAdaptersNotAllowed"
    assert re.search(r"'english' takes no .*allowInlineAdapters: true", error.details())


async def test_the_wrong_method_for_a_brought_adapter_names_the_right_one(base, socket):
    """A head is asked only for what it was trained for."""
    async with serving(base, socket) as (stub, _, _):
        call = stub.Tag(request(inline_adapters.adapter(base), pb.TagRequest))
        error = await fakes.refusal(call)
    assert error.code().name == "INVALID_ARGUMENT"
    assert "`adapter_bytes` is for Classify, not for Tag" in error.details()


async def test_one_address_is_slowed_down_and_another_is_served(base, socket):
    """A hundred new ones at once: past the burst UNAVAILABLE, for all calls from its address."""
    async with serving(base, socket, clock=lambda: 1000.0) as (stub, _, daemon):
        target, own = daemon.data, [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(target, options=own) as first,
            grpc.aio.insecure_channel(target, options=own) as second,
        ):
            greedy = [inference_pb2_grpc.InferenceStub(each) for each in (first, second)]
            calls = [
                greedy[seed % 2].Classify(request(inline_adapters.adapter(base, seed)))
                for seed in range(100)
            ]
            reply = await stub.Classify(request(inline_adapters.adapter(base, 1000)))
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert reply.results
    refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
    assert len(results) - len(refused) == 20
    assert {each.code().name for each in refused} == {"UNAVAILABLE"}
    assert {reason(each) for each in refused} == {"Overloaded"}
    assert {pushback(each) for each in refused} == {"100"}


async def test_fifty_calls_with_the_same_bytes_are_all_answered(base, socket):
    """They cost one proof, and each gets its own answer."""
    data = inline_adapters.adapter(base)
    async with serving(base, socket) as (stub, _, daemon):
        replies = await asyncio.gather(*(stub.Classify(request(data)) for _ in range(50)))
        new = daemon.series("inline_adapters_total", model="english", result="new")
    assert new == 1
    assert {each.served.adapter_digest for each in replies} == {hashlib.sha256(data).hexdigest()}


async def test_a_running_call_keeps_its_file(base, socket, monkeypatch):
    """Others push the adapter out of the cache: the call that runs on it is answered by it."""
    monkeypatch.setattr(inline, "KEPT_OF_A_BASE_MAX", 1)
    running, go_on = asyncio.Event(), asyncio.Event()

    async def work(rows: object, deadline_s: float) -> None:
        if not running.is_set():
            running.set()
            await go_on.wait()

    first = inline_adapters.adapter(base, 1)
    async with serving(base, socket, work=work) as (stub, _, daemon):
        slow = stub.Classify(request(first))
        await running.wait()
        for seed in (2, 3):
            await stub.Classify(request(inline_adapters.adapter(base, seed)))
        assert len(daemon.stored) == 2  # the one that runs, and the one that is kept
        go_on.set()
        served = (await slow).served
        assert daemon.stored == [hashlib.sha256(inline_adapters.adapter(base, 3)).hexdigest()]
    assert served.adapter_digest == hashlib.sha256(first).hexdigest()


async def test_a_caller_that_leaves_disturbs_nobody(base, socket, monkeypatch):
    """A call is cancelled while its adapter is proved: the proof goes on, for whoever asks next."""
    proving, go_on = asyncio.Event(), threading.Event()
    loop, prove = asyncio.get_running_loop(), adapter_file.prove

    def slowly(*args: object, **named: object) -> adapter_file.AdapterInfo:
        loop.call_soon_threadsafe(proving.set)
        assert go_on.wait(LONGEST_WAIT_S)
        return prove(*args, **named)

    monkeypatch.setattr(adapter_file, "prove", slowly)
    data = inline_adapters.adapter(base)
    async with serving(base, socket) as (stub, _, daemon):
        gone = stub.Classify(request(data))
        await proving.wait()
        gone.cancel()
        cancelled = {"model": "english", "adapter": "(inline)", "method": "Classify"}
        while not daemon.count(**cancelled, code="CANCELLED"):
            await asyncio.sleep(0.001)
        waiting = stub.Classify(request(data))
        go_on.set()
        assert (await waiting).results
        assert (await stub.Classify(request(data))).results
        found = {"model": "english"}
        assert daemon.series("inline_adapters_total", **found, result="new") == 0
        assert daemon.series("inline_adapters_total", **found, result="hit") == 2
        assert len(daemon.stored) == 1


def test_the_bytes_are_the_same_field_everywhere():
    """A proxy finds the adapter of any request in one place, and can tell empty from absent."""
    methods = pb.DESCRIPTOR.services_by_name["Inference"].methods
    for method in [each for each in methods if not each.client_streaming]:
        field = method.input_type.fields_by_name["adapter_bytes"]
        assert (field.number, field.has_presence) == (7, True)
