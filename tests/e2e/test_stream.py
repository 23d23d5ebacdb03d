"""Many calls over one stream, against the real daemon."""

import json
import subprocess
from concurrent import futures

import pytest

from bertd.client import sync
from tests.e2e import conftest, test_quickstart

pytestmark = pytest.mark.e2e


def test_a_stream_answers_what_calls_do(quickstart: conftest.Daemon) -> None:
    """Items of several adapters share a stream, and each gets its own adapter's label."""
    asked = list(test_quickstart.EXPECTED.items()) * 20
    with sync.Client(quickstart.data) as client, client.stream(most_items=32) as stream:
        answers = [
            (stream.classify([text], model="quickstart", adapter=adapter), label)
            for (adapter, text), label in asked
        ]
        futures.wait([future for future, _ in answers])
    assert [future.result()[0].label for future, _ in answers] == [label for _, label in answers]


def test_buf_curl_speaks_it_by_reflection(quickstart: conftest.Daemon) -> None:
    """An independent client sends two items; one is answered, the other fails alone."""
    text = {"inputs": [{"text": "Who wrote Hamlet?"}]}
    items = [
        {"id": 1, "classify": {"model": "quickstart", "adapter": "trec", **text}},
        {"id": 2, "timeout": "2s", "classify": {"model": "quickstart", "adapter": "no", **text}},
    ]
    done = subprocess.run(
        [
            *(str(test_quickstart.BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("--unix-socket", quickstart.socket, "-d", json.dumps({"items": items})),
            "http://localhost/bertd.v1.Inference/Stream",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    replies = conftest.json_lines("".join(done.stdout.splitlines()).replace("}{", "}\n{"))
    answers = {each["id"]: each for reply in replies for each in reply["answers"]}
    assert answers["1"]["classify"]["results"][0]["labels"] == ["human"]
    assert (answers["2"]["error"]["code"], answers["2"]["error"]["reason"]) == (5, "NotFound")
