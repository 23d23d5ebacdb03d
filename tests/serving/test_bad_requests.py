"""What is wrong with a call is said with the right status, and nothing is computed."""

import contextlib
import pickle
import re

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.runtime import router
from bertd.v1 import admin_pb2
from bertd.v1 import inference_pb2 as pb
from tests.serving import fakes

CLASSIFY = "/bertd.v1.Inference/Classify"


@contextlib.asynccontextmanager
async def serving(socket: str, routes=None, **guarding: object):
    """A way to send raw bytes, the usual route, and the daemon."""
    route = fakes.Route()
    async with (
        fakes.running({("english", "sst2"): route, **(routes or {})}, socket, **guarding) as daemon,
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):

        async def send(method: str, message: object, **options: object) -> bytes:
            body = message if isinstance(message, bytes) else message.SerializeToString()
            return await channel.unary_unary(method)(body, **options)

        yield send, route, daemon


def request(*inputs: pb.Input, **fields: object) -> pb.ClassifyRequest:
    """A Classify request for the usual route."""
    return pb.ClassifyRequest(**{"model": "english", "adapter": "sst2", **fields, "inputs": inputs})


TEXT = pb.Input(text="fine")
IDS = pb.Input(token_ids=pb.TokenIds(ids=[100]))


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (request(), "INVALID_ARGUMENT", "`inputs` must hold at least 1 input"),
        (request(*[TEXT] * 1025), "RESOURCE_EXHAUSTED", "at most 1024 inputs, and holds 1025"),
        (request(TEXT, pb.Input()), "INVALID_ARGUMENT", r"`inputs\[1\]` must hold `text`, `pair`"),
        (request(TEXT, IDS), "INVALID_ARGUMENT", r"`inputs\[1\].token_ids.ids` must be below 100"),
        (request(TEXT, pb.Input(text="w " * 99)), "INVALID_ARGUMENT", r"`inputs\[1\]` has 101"),
        (request(TEXT, model=""), "INVALID_ARGUMENT", "`model` must name a Model"),
        (request(TEXT, model="x" * 300), "INVALID_ARGUMENT", "at most 253 characters"),
        (request(TEXT, adapter="x" * 300), "INVALID_ARGUMENT", "at most 253 characters"),
        (request(TEXT, model="germen"), "NOT_FOUND", "no model 'germen/sst2'"),
        (request(TEXT, adapter="sst3"), "NOT_FOUND", "no model 'english/sst3'"),
        (request(TEXT, labels=["shirt"]), "NOT_FOUND", r"no label 'shirt'.*did you mean 'short'\?"),
    ],
)
async def test_a_bad_call_is_refused_as_a_whole(socket, message, code, text):
    """One bad input, name or label: the right code, a text that names it, nothing run (B9)."""
    async with serving(socket) as (send, route, _):
        error = await fakes.refusal(send(CLASSIFY, message))
        assert error.code().name == code
        assert re.search(text, error.details())
        assert route.runs == []
        assert pb.ClassifyResponse.FromString(await send(CLASSIFY, request(TEXT))).results


NOT_UTF8 = pb.ClassifyRequest(model="english", inputs=[pb.Input(text="AAAA")]).SerializeToString()


@pytest.mark.parametrize(
    "body",
    [
        NOT_UTF8.replace(b"AAAA", b"\xff\xfe\xfa\xc3"),
        pickle.dumps({"model": "english", "text": ["a"]}),
        pickle.dumps(["a"], protocol=0),
        b"\x00",
        b"\xff" * 64,
        request(TEXT).SerializeToString()[:-1],
        b'{"model": "english"}',
    ],
    ids=["not UTF-8", "pickle", "old pickle", "zero", "ones", "truncated", "JSON"],
)
async def test_a_body_that_is_no_message_is_the_callers_fault(socket, body):
    """Text that is not UTF-8, a pickle, or noise is INVALID_ARGUMENT, never INTERNAL (D14)."""
    async with serving(socket) as (send, _, _):
        error = await fakes.refusal(send(CLASSIFY, body))
    assert error.code().name == "INVALID_ARGUMENT"
    assert "must" in error.details()


async def test_an_empty_body_is_a_request_without_a_model(socket):
    """The default of every field is an answerable question: which model?"""
    async with serving(socket) as (send, _, _):
        error = await fakes.refusal(send(CLASSIFY, b""))
    assert (error.code().name, error.details()) == ("INVALID_ARGUMENT", "`model` must name a Model")


async def test_noise_never_becomes_an_internal_error(socket):
    """Whatever bytes arrive, the code is one that blames the caller (fuzzed)."""
    async with serving(socket) as (send, _, _):
        bodies: list[bytes] = []

        @settings(max_examples=150, database=None, suppress_health_check=list(HealthCheck))
        @given(st.binary(max_size=64))
        def collect(body: bytes) -> None:
            bodies.append(body)

        collect()
        for body in bodies:
            error = await fakes.refusal(send(CLASSIFY, body))
            assert error.code().name in {"INVALID_ARGUMENT", "NOT_FOUND"}


async def test_a_message_over_the_limit_is_refused_by_size(socket):
    """More than 4 MiB is RESOURCE_EXHAUSTED, and the next call is answered."""
    async with serving(socket) as (send, route, _):
        error = await fakes.refusal(send(CLASSIFY, request(pb.Input(text="x" * (4 << 20)))))
        assert error.code().name == "RESOURCE_EXHAUSTED"
        assert route.runs == []
        assert await send(CLASSIFY, request(TEXT))


async def test_an_unknown_method_is_unimplemented(socket):
    """What does not exist yet says so."""
    async with serving(socket) as (send, _, _):
        error = await fakes.refusal(send("/bertd.v1.Inference/Rank", b""))
    assert error.code().name == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("problem", "method", "text"),
    [
        ("token", "Classify", "'english/it' is for Tag, not for Classify"),
        ("single_label", "Tag", "'english/it' is for Classify, not for Tag"),
        (None, "Classify", "no head of its own, so Classify must name an `adapter`"),
        (None, "Tag", "no head of its own, so Tag must name an `adapter`"),
    ],
)
async def test_the_wrong_method_names_the_right_one(socket, problem, method, text):
    """A head is asked only for what it was trained for."""
    output = problem and router.Output(label_names=("a",), problem=problem)
    routes = {("english", "it"): fakes.Route(adapter="it", output=output)}
    async with serving(socket, routes) as (send, _, _):
        message = request(TEXT, adapter="it")  # TagRequest has the same first fields
        error = await fakes.refusal(send(f"/bertd.v1.Inference/{method}", message))
    assert error.code().name == "INVALID_ARGUMENT"
    assert text in error.details()


FINDING = [
    (errors.NotServable("broken", reason="WrongBase"), "FAILED_PRECONDITION", "WrongBase", None),
    (errors.BadArtifact("bad", reason="NotFinite"), "FAILED_PRECONDITION", "NotFinite", None),
    (errors.NotReady("loading", retry_after_s=0.5), "UNAVAILABLE", "NotReady", "500"),
    (errors.NotReady("gone", retry_after_s=-1), "UNAVAILABLE", "NotReady", "-1"),
    (errors.Overloaded("full", retry_after_s=0.125), "UNAVAILABLE", "Overloaded", "125"),
    (errors.Temporary("disk", reason="DiskFull"), "UNAVAILABLE", "DiskFull", "1000"),
    (errors.Poison("this input ends workers"), "INTERNAL", "PoisonRequest", None),
    (errors.Expired("late"), "DEADLINE_EXCEEDED", "Expired", None),
    (errors.TooLarge("big"), "RESOURCE_EXHAUSTED", "TooLarge", None),
]


@pytest.mark.parametrize(("error", "code", "reason", "pushback"), FINDING)
@pytest.mark.parametrize("where", ["find", "run"])
async def test_each_failure_has_its_code_and_trailers(socket, error, code, reason, pushback, where):
    """The documented status, its reason, and for a shed call the wait (checklist 55, D10)."""

    def work(rows: object, deadline_s: float) -> None:
        raise error

    bad = error if where == "find" else fakes.Route(adapter="bad", work=work)
    async with serving(socket, {("english", "bad"): bad}) as (send, _, daemon):
        failed = await fakes.refusal(send(CLASSIFY, request(TEXT, adapter="bad")))
        labels = {"model": "english", "method": "Classify", "code": code}
        assert daemon.count(adapter="" if where == "find" else "bad", **labels) == 1
    assert (failed.code().name, failed.details()) == (code, str(error))
    assert dict(failed.trailing_metadata()).get("grpc-retry-pushback-ms") == pushback
    info = error_details_pb2.ErrorInfo()
    assert any(each.Unpack(info) for each in rpc_status.from_call(failed).details)
    assert (info.reason, info.domain) == (reason, "bertd.dev")


async def test_no_retry_is_asked_for_that_the_deadline_forbids(socket):
    """A wait longer than what is left of the caller's own deadline becomes: do not retry."""
    busy = {("english", "busy"): errors.Overloaded("full", retry_after_s=30.0)}
    async with serving(socket, busy) as (send, _, _):
        message = request(TEXT, adapter="busy")
        short = await fakes.refusal(send(CLASSIFY, message, timeout=5))
        none = await fakes.refusal(send(CLASSIFY, message))
    assert dict(short.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    assert dict(none.trailing_metadata())["grpc-retry-pushback-ms"] == "30000"


async def test_a_name_that_does_not_exist_makes_no_series(socket):
    """Callers cannot fill the metrics with names of their own."""
    async with serving(socket) as (send, _, daemon):
        for number in range(3):
            await fakes.refusal(send(CLASSIFY, request(TEXT, model=f"made-up-{number}")))
        assert daemon.count(model="", adapter="", method="Classify", code="NOT_FOUND") == 3


async def test_a_manifest_with_a_thousand_errors_still_arrives(socket):
    """A status too long for trailers is cut, not turned into another error."""
    async with serving(socket) as (send, _, _):
        message = admin_pb2.ApplyRequest(manifest="broken", file_name="é" * 30_000)
        error = await fakes.refusal(send("/bertd.v1.Admin/Apply", message))
    assert error.code().name == "INVALID_ARGUMENT"
    assert error.details().endswith("(cut: a gRPC status holds no more)")
    assert rpc_status.from_call(error).message == error.details()


class PanicException(BaseException):
    """What a panic in Rust code becomes: not even an Exception."""


SECRETS = [
    PanicException("index 7 out of bounds in lane.rs"),
    KeyError("/srv/models/secret.safetensors"),
    RuntimeError("CUDA error at 0xdeadbeef in bertd.engine.lane"),
    errors.Bug("slot 17 of table 3 is free"),
    ValueError("\x00\n%s%n"),
    OSError(2, "No such file", "/etc/shadow"),
    UnicodeDecodeError("utf-8", b"secret", 0, 1, "bad"),
    TimeoutError("engine.lane"),
    StopAsyncIteration("engine.lane"),
]


@pytest.mark.parametrize("secret", SECRETS, ids=[type(each).__name__ for each in SECRETS])
@pytest.mark.parametrize("where", ["find", "run"])
async def test_an_unforeseen_exception_leaks_nothing(socket, secret, where, capsys):
    """No path, type, traceback or identifier leaves: only an id that is logged (checklist 54)."""

    def work(rows: object, deadline_s: float) -> None:
        raise secret

    bad = secret if where == "find" else fakes.Route(adapter="bad", work=work)
    async with serving(socket, {("english", "bad"): bad}) as (send, _, _):
        error = await fakes.refusal(send(CLASSIFY, request(TEXT, adapter="bad")))
        assert await send(CLASSIFY, request(TEXT))
    found = re.fullmatch(
        r"internal error ([0-9a-f]{16}) \(hint: the daemon's log has the details under this id\)",
        error.details(),
    )
    assert error.code().name == "INTERNAL"
    assert found
    logged = "".join(capsys.readouterr())
    assert found[1] in logged
    assert type(secret).__name__ in logged
    trailers = repr(tuple(error.trailing_metadata()))
    for word in ("secret", "engine", "lane", "slot", "shadow", type(secret).__name__, "Traceback"):
        assert word not in trailers


async def test_a_result_that_is_no_number_is_an_internal_error(socket):
    """A worker that answers NaN is not believed."""
    bad = fakes.Route(adapter="bad", dimensions=3)  # its vectors have 4 values
    async with serving(socket, {("english", "bad"): bad}) as (send, _, _):
        error = await fakes.refusal(send("/bertd.v1.Inference/Embed", request(TEXT, adapter="bad")))
    assert error.code().name == "INTERNAL"
    assert "values" not in error.details()
