"""A reply that nobody would take is refused before it is computed."""

import numpy as np
import pytest

from bertd import errors
from bertd.runtime import router
from bertd.serving import replies
from bertd.v1 import inference_pb2 as pb
from tests.serving import fakes, test_bad_requests

NAMES = tuple(f"label {number}" for number in range(40))


def output(problem: str, names: tuple[str, ...] = NAMES) -> router.Output:
    """What a head of these labels means."""
    return router.Output(label_names=names, problem=problem)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
@pytest.mark.parametrize("raw_logits", [False, True])
@pytest.mark.parametrize("name", ["a", "é" * 256])
def test_a_classification_is_never_larger_than_predicted(problem, raw_logits, name):
    """What is refused by prediction is an upper bound of what a reply really takes."""
    names = tuple(f"{name}{number}" for number in range(1 if problem == "regression" else 40))
    meant, columns = output(problem, names), range(len(names))
    logits_NL = np.full((64, len(names)), 9.0, np.float32)
    options = {"columns": columns, "raw_logits": raw_logits}
    body = replies.classified(logits_NL, meant, served=pb.Served(), **options)
    each = replies.each_class(meant, columns, raw_logits=raw_logits)
    assert len(body) - 8 <= 64 * each.reply_bytes
    assert each.reply_bytes <= 3 * len(body) / 64 + replies.TAG_BYTES


@pytest.mark.parametrize("raw_logits", [False, True])
def test_tags_are_never_larger_than_predicted(raw_logits):
    """So are tags, and the logits of each token."""
    meant = output("token")
    row = fakes.WordTokenizer().encode(["a bb ccc " * 4], truncate=True, offsets=True)[0]
    logits_TL = np.full((len(row.ids), 40), 9.0, np.float32)
    each = replies.each_tag(meant, raw_logits=raw_logits)
    body = replies.tagged(logits_TL, [row], meant, raw_logits=raw_logits, served=pb.Served())
    names = sum(len(name) + 2 for name in NAMES)
    assert each.logits == 40
    assert len(body) - names <= len(row.ids) * each.reply_bytes


def test_usual_calls_fit():
    """A full call of texts, of few labels or of named entities, is far from the limits."""
    meant = output("multi_label")
    replies.check_size(1024, lambda: replies.each_class(meant, range(40), raw_logits=True))
    replies.check_size(1024 * 512, lambda: replies.each_tag(output("token"), raw_logits=False))
    replies.check_size(1024, lambda: replies.each_vector(4096))


@pytest.mark.parametrize(
    ("method", "kind", "problem"),
    [("Classify", pb.ClassifyRequest, "single_label"), ("Tag", pb.TagRequest, "token")],
)
async def test_a_reply_that_nobody_takes_is_refused_unrun(socket, method, kind, problem):
    """Many inputs times many labels: RESOURCE_EXHAUSTED, and no worker is asked."""
    names = tuple(f"{'x' * 200}{number}" for number in range(10_000))
    route = fakes.Route(adapter="wide", output=output(problem, names))
    async with test_bad_requests.serving(socket, {("english", "wide"): route}) as (send, _, _):
        inputs = [test_bad_requests.TEXT] * 1024
        message = kind(model="english", adapter="wide", inputs=inputs, raw_logits=True)
        error = await fakes.refusal(send(f"/bertd.v1.Inference/{method}", message))
        one = kind(model="english", adapter="wide", inputs=inputs[:1])
        assert await send(f"/bertd.v1.Inference/{method}", one)
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert "send fewer inputs" in error.details()
    assert len(route.runs) == 1


def test_the_text_says_what_the_call_costs():
    """The numbers of the call and the limits stand in the message."""
    each = replies.Each(logits=1000, reply_bytes=10)
    with pytest.raises(errors.TooLarge, match="100000 results of up to 10 bytes for 1000 labels"):
        replies.check_size(100_000, lambda: each)
