"""Bytes of requests, and what replies tell."""

import collections
import random

import pytest

from bertd import errors
from bertd.load import requests
from bertd.v1 import inference_pb2 as pb

KINDS = {"Classify": pb.ClassifyRequest, "Embed": pb.EmbedRequest, "Tag": pb.TagRequest}
REPLIES = {"Classify": pb.ClassifyResponse, "Embed": pb.EmbedResponse, "Tag": pb.TagResponse}


@pytest.mark.parametrize("method", requests.METHODS)
def test_what_is_joined_is_a_request_of_every_method(method):
    """Head and body together parse as the method's message: model, adapter, texts in order."""
    pool = requests.Requests("english", ["sst2"], [["a", "b c"]], random.Random(0))
    asked = KINDS[method].FromString(pool.draw())
    assert (asked.model, asked.adapter) == ("english", "sst2")
    assert [each.text for each in asked.inputs] == ["a", "b c"]
    assert asked == KINDS[method].FromString(pool.first(pool.heads[0]))


def test_adapters_and_texts_are_mixed_evenly():
    """Every adapter is asked every text, and none much more often than another."""
    pool = requests.Requests("m", ["a", "b", ""], [["x"], ["y"]], random.Random(5))
    drawn = (pb.ClassifyRequest.FromString(pool.draw()) for _ in range(6000))
    seen = collections.Counter((each.adapter, each.inputs[0].text) for each in drawn)
    assert len(seen) == 6
    assert min(seen.values()) > 850


def test_a_call_that_no_daemon_takes_is_refused_before_the_load():
    """More than the daemon's 4 MiB a message is an error that says what to do."""
    with pytest.raises(errors.InvalidRequest, match="at most 4194304 are taken"):
        requests.Requests("m", [""], [["x" * 1024] * 5000], random.Random(0))


def test_the_pool_is_bounded(monkeypatch):
    """Large calls are fewer different ones, but at least one."""
    monkeypatch.setattr(requests, "MAX_POOL_BYTES", 2500)
    pool = requests.Requests("m", [""], ([str(n) * 1000] for n in range(9)), random.Random(0))
    drawn = {pool.draw()[-1:] for _ in range(100)}
    assert drawn == {b"0", b"1"}


@pytest.mark.parametrize("method", requests.METHODS)
def test_a_reply_tells_where_its_time_went(method):
    """Tokens, times and the revision are read from the replies of every method."""
    timings = pb.Timings(tokenize_seconds=0.1, queue_seconds=0.2, inference_seconds=0.3)
    served = pb.Served(tokens=7, revision="r1", timings=timings)
    told = requests.reader(method)(REPLIES[method](served=served).SerializeToString())
    assert told == requests.Told(
        tokens=7, tokenize_s=0.1, queue_s=0.2, inference_s=0.3, revision="r1"
    )
