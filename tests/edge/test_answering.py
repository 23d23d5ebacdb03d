"""The service of an edge is the front's own, started again when a route was stale."""

import asyncio
from collections.abc import AsyncIterator
from concurrent import futures
from pathlib import Path

import pytest

from bertd import errors
from bertd.edge import answering, reports
from bertd.serving import guard, stream
from bertd.v1 import inference_pb2 as pb
from tests.edge import fakes

TEXTS = [pb.Input(text="w1 w2")]


@pytest.fixture(name="pair")
async def _pair(tokenizer: Path) -> AsyncIterator[fakes.Pair]:
    async with fakes.paired(tokenizer) as pair:
        yield pair


async def classify(pair: fakes.Pair, **fields: object) -> pb.ClassifyResponse:
    """One call of the service, without grpc."""
    with futures.ThreadPoolExecutor(1) as executor:
        service = answering.Inference(
            pair.routes, adapters=pair.brought, executor=executor, streams=stream.Streams()
        )
        request = pb.ClassifyRequest(**{"model": "english", "inputs": TEXTS, **fields})
        call = guard.Call(
            method="Classify",
            peer=lambda: "ipv4:127.0.0.1:5",
            began_s=0.0,
            deadline_s=1e9,
            own_deadline=True,
            limit_s=None,
        )
        return pb.ClassifyResponse.FromString(await service.classify(request, call))


@pytest.mark.parametrize("changes", [1, answering.TRIES - 1])
async def test_a_name_that_changed_is_found_and_encoded_again(
    pair: fakes.Pair, changes: int
) -> None:
    """A call that meets a change is answered by what came after it, with its length and labels."""
    pair.publish("x", digest="old")
    await pair.routes.search("english", "x")

    left = changes

    def find(model: str, adapter: str) -> fakes.Route:
        nonlocal left
        if left:
            left -= 1
            pair.publish("x", digest=f"new{left}")
        return type(pair.router).find(pair.router, model, adapter)

    pair.router.find = find  # type: ignore[method-assign]
    reply = await classify(pair, adapter="x")
    assert reply.served.adapter_digest == "new0"
    assert left == 0


async def test_a_name_that_never_rests_is_refused_in_the_end(pair: fakes.Pair) -> None:
    """A route that is stale each time is tried so often, and then the caller may come again."""
    pair.publish("x")
    found = fakes.Router.find

    def find(model: str, adapter: str) -> fakes.Route:
        pair.publish("x")
        return found(pair.router, model, adapter)

    pair.router.find = find  # type: ignore[method-assign]
    with pytest.raises(errors.NotReady, match="changes faster") as refused:
        await classify(pair, adapter="x")
    assert refused.value.retry_after_s > 0


async def test_a_base_replaced_under_a_brought_adapter_costs_no_call(pair: fakes.Pair) -> None:
    """The adapter is brought again, for the base that serves now."""
    pair.publish(revision="r1")
    await classify(pair, adapter_bytes=b"mine")
    pair.publish(revision="r2")
    reply = await classify(pair, adapter_bytes=b"mine")
    assert reply.served.revision == "r2"
    assert [score.label for score in reply.results[0].scores] == ["a", "b"]
    assert pair.inline.brought == [(b"mine", "ipv4:127.0.0.1")] * 2


async def test_many_calls_meet_a_change_together(pair: fakes.Pair) -> None:
    """A hundred calls with a stale route ask the front a few times, not a hundred."""
    pair.publish("x")
    await pair.routes.search("english", "x")
    pair.publish("x", digest="new")
    replies = await asyncio.gather(*(classify(pair, adapter="x") for _ in range(100)))
    assert {reply.served.adapter_digest for reply in replies} == {"new"}
    assert pair.router.searches <= 3


async def test_reports_arrive_together_and_soon(pair: fakes.Pair) -> None:
    """Whatever the guard records is counted by the front, in a report each 100 ms at most."""
    told = reports.Reports(pair.owner)
    for _ in range(3):
        told.request(model="m", adapter="a", method="Embed", code="OK", seconds=0.1234567891)
    told.request_parts(model="m", method="Embed", tokenize_s=0.5, queue_s=0.25, inference_s=0.125)
    told.call_without_deadline(method="Embed")
    told.shed(model="", reason="InFlight")
    labels = {"model": "m", "adapter": "a", "method": "Embed", "code": "OK"}
    assert pair.counted("requests_total", **labels) == 0
    async with asyncio.timeout(10 * reports.REPORT_S):
        await fakes.until(lambda: pair.counted("requests_total", **labels) == 3)
    assert pair.counted("request_duration_seconds_sum", model="m", method="Embed") == (
        pytest.approx(0.37037, abs=1e-5)
    )
    assert pair.counted("request_queue_duration_seconds_sum", model="m", method="Embed") == 0.25
    assert pair.counted("calls_without_deadline_total", method="Embed") == 1
    assert pair.counted("shed_total", model="", reason="InFlight") == 1


async def test_many_events_are_not_kept(pair: fakes.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report leaves when it is full, and at the end with what is left."""
    monkeypatch.setattr(reports, "EVENTS_MAX", 10)
    told = reports.Reports(pair.owner)
    for _ in range(25):
        told.call_without_deadline(method="Tag")
    await fakes.until(lambda: pair.counted("calls_without_deadline_total", method="Tag") == 20)
    told.send()
    told.send()
    await fakes.until(lambda: pair.counted("calls_without_deadline_total", method="Tag") == 25)


def test_the_front_counts_whatever_a_guard_records() -> None:
    """No method of the metrics that `serving` calls is missing between edge and front."""
    source = Path(guard.__file__).read_text()
    called = {part.partition("(")[0] for part in source.split("self._metrics.")[1:]}
    assert called <= {name for name in vars(reports.Reports) if not name.startswith("_")}
