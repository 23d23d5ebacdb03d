"""What the benchmark of servers sends, counts, sums up and stops."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.engine import machine, workloads
from benchmarks.serving import (
    calls,
    contenders,
    generator,
    loads,
    processes,
    report,
    results,
    texts,
    transports,
)
from bertd.v1 import inference_pb2

ANSWERED, REFUSED, EXPIRED = map(int, list(transports.Outcome)[:3])
RECORDED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("serving-*.json"))


def row(
    contender: str, rounds: Sequence[float], load: str = results.C64, **more: Any
) -> dict[str, Any]:
    """A row of BERT-base with a throughput for each round."""
    kept = {str(number): {"texts_per_s": rate, **more} for number, rate in enumerate(rounds)}
    place = {"model": results.MODEL, "load": load, "contender": contender}
    return {**place, **loads.medians(kept), "rounds": kept}


def result(*rows: Mapping[str, Any]) -> results.Result:
    """Results that hold these rows."""
    empty = {
        "date": "2026-11-20", "command": "python -m benchmarks.serving", "rows": [], "summary": {},
        "machine": {"cpu": "a processor", "features": ["avx2"]},
        "versions": {"triton": {"nvidia-pytriton": "0.7.0"}}, "left_out": [],
    }  # fmt: skip
    left_out = {"model": results.MODEL, "contender": "litserve", "reason": "it fell over"}
    return results.put(empty, rows, [left_out])


def test_texts_have_the_lengths_of_cola_sentences(tmp_path: Path) -> None:
    """A text for each sentence of CoLA's development set, of as many tokens; always the same."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*specials, *map(_word, range(500))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    found = texts.make(tmp_path / "tokenizer.json")
    assert sorted(found.rows.lengths_B) == sorted(workloads.cola_lengths())
    assert [len(text.split()) + 2 for text in found.texts] == found.rows.lengths_B.tolist()
    assert found.texts == texts.make(tmp_path / "tokenizer.json").texts


def _word(number: int) -> str:
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(3))


def test_bertd_is_asked_in_its_own_messages() -> None:
    """The request names model and adapter and holds the texts; the second label's score is read."""
    sent = inference_pb2.ClassifyRequest.FromString(calls.BERTD.request(["one", "two"], 1.0))
    assert (sent.model, sent.adapter) == (calls.MODEL, calls.ADAPTER)
    assert [each.text for each in sent.inputs] == ["one", "two"]
    scores = [inference_pb2.Score(score=0.25), inference_pb2.Score(score=0.75)]
    reply = inference_pb2.ClassifyResponse(results=[inference_pb2.Classification(scores=scores)])
    assert calls.BERTD.read(reply.SerializeToString()).tolist() == [0.75]


def test_triton_is_asked_in_the_open_inference_protocol() -> None:
    """Bytes written by hand are what a protobuf library reads: names, shape, timeout, texts."""
    request = _open_inference()
    sent = request.FromString(calls.KSERVE.request(["one", "twelve" * 40], 0.5))
    assert sent.model_name == calls.MODEL
    assert sent.parameters["timeout"].int64_param == 500_000
    (tensor,) = sent.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("TEXT", "BYTES", [2, 1])
    assert sent.raw_input_contents[0][:7] == b"\x03\x00\x00\x00one"
    content = np.array([0.25, 0.75], np.float32).tobytes()
    reply = b"\x0a\x01x\x32" + bytes([len(content)]) + content  # a name, a raw output
    assert calls.KSERVE.read(reply).tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="unpack"):
        calls.KSERVE.read(reply + b"\x32\x00")  # two outputs, where there is one


def _open_inference() -> Any:
    """The published request of the protocol, as far as it is used."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="oip.proto", package="oip", syntax="proto3")

    def message(name: str, *fields: tuple[int, str, int, bool, str]) -> Any:
        made = file.message_type.add(name=name)
        for number, field, kind, many, of in fields:
            label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            made.field.add(name=field, number=number, type=kind, label=label)
            if of:
                made.field[-1].type_name = of
        return made

    message("Parameter", (2, "int64_param", kinds.TYPE_INT64, False, ""))
    message(
        "Tensor",
        (1, "name", kinds.TYPE_STRING, False, ""),
        (2, "datatype", kinds.TYPE_STRING, False, ""),
        (3, "shape", kinds.TYPE_INT64, True, ""),
    )
    request = message(
        "Request",
        (1, "model_name", kinds.TYPE_STRING, False, ""),
        (4, "parameters", kinds.TYPE_MESSAGE, True, ".oip.Request.Entry"),
        (5, "inputs", kinds.TYPE_MESSAGE, True, ".oip.Tensor"),
        (7, "raw_input_contents", kinds.TYPE_BYTES, True, ""),
    )
    entry = request.nested_type.add(name="Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL,
        type_name=".oip.Parameter",
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oip.Request"))


@pytest.mark.parametrize("name", contenders.NAMES)
def test_every_contender_has_a_colour_and_a_wire(name: str) -> None:
    """Whoever is measured can be asked and drawn."""
    assert contenders.wire(name).request(["a text"], 1.0)
    assert name in report.COLOURS


def test_a_closed_loop_counts_what_ended_after_warming_up() -> None:
    """Answers before the warm-up's end and after the load's are left out; texts are counted."""
    made = [(0.0, 1.0, ANSWERED), (1.0, 2.0, ANSWERED), (3.0, 0.5, REFUSED), (3.0, 3.0, ANSWERED)]
    found = loads.closed_figures(made, seconds=4.0, texts=16)
    assert found["texts_per_s"] == pytest.approx((16 * 2) / 3.0)
    assert (found["answered"], found["refused"]) == (2, 1)
    assert found["p50_ms"] == pytest.approx(1500)


def test_goodput_counts_answers_within_the_deadline_alone() -> None:
    """Late answers, refusals and what expired are offered, not good; refusals have times apart."""
    made = [
        (0.5, 0.1, ANSWERED), (1.0, 0.1, ANSWERED), (1.2, 2.5, ANSWERED), (1.4, 0.004, REFUSED),
        (1.6, 2.0, EXPIRED), (3.0, 0.1, ANSWERED),
    ]  # fmt: skip
    found = loads.open_figures(made, 1.0, 3.0, deadline_s=2.0)
    assert (found["offered_per_s"], found["goodput_per_s"]) == (2.0, 0.5)
    assert found["refused_p99_ms"] == pytest.approx(4.0)
    assert found["accepted_p50_ms"] == pytest.approx(2000)


@pytest.mark.parametrize(("slow_s", "recovery_s"), [(0.0, 0.0), (1.2, 1.0), (99.0, None)])
def test_recovery_is_told_by_windows(slow_s: float, recovery_s: float | None) -> None:
    """Latency is back when a window's median is near the one before the overload, or never."""
    phases = loads.overload_phases(peak=100.0, seconds=20.0)
    assert phases == [(50.0, 5.0), (200.0, 20.0), (50.0, 5.0)]
    made = [
        (due, 0.5 if 5 <= due < 25 + slow_s else 0.01, ANSWERED) for due in np.arange(0, 30, 0.02)
    ]
    found = loads.overload_figures(made, phases, deadline_s=2.0)
    assert found["baseline_p50_ms"] == pytest.approx(10)
    assert found["recovery_s"] == recovery_s


def test_the_summary_has_exactly_the_keys_of_the_bars() -> None:
    """Every key is there, None where it was not measured, and every one has a bar."""
    summary = results.summary(result())
    assert set(summary) == set(report.BARS)
    assert set(summary.values()) == {None}


def test_ratios_are_of_paired_rounds_against_the_fastest_of_a_family() -> None:
    """Medians of round by round ratios; a family is as fast as its best member."""
    found = result(
        row("bertd", [100, 200, 300]), row("engine", [100, 250, 300]),
        row("triton", [10, 10, 10]), row("triton-sorted", [50, 50, 50]),
        row("fastapi-torch", [20, 20, 20]),
    )["summary"]  # fmt: skip
    assert found["share_of_engine_c64"] == 1.0
    assert found["vs_triton_c64"] == 4.0
    assert found["vs_one_at_a_time_c64"] == 10.0
    assert found["vs_infinity_c64"] is None


def test_goodput_is_told_as_a_share_of_the_closed_loops_peak() -> None:
    """The best closed loop is the peak; engine's own time is taken from a lone caller's."""
    over = row("bertd", [0.0], results.OVERLOAD, goodput_per_s=190.0, refused_p99_ms=4.0)
    found = result(
        row("bertd", [100], p50_ms=9.0), row("bertd", [200], "closed-150"), over,
        row("bertd", [100], results.C1, p50_ms=9.0), row("engine", [100], results.C1, p50_ms=8.0),
    )["summary"]  # fmt: skip
    assert found["goodput_share_at_2x"] == pytest.approx(0.95)
    assert found["p50_above_engine_ms_c1"] == pytest.approx(1.0)
    assert found["refusal_p99_ms"] == 4.0


def test_rows_take_the_place_of_their_like() -> None:
    """A block that is measured again is not there twice; the others stay."""
    before = result(row("bertd", [1]), row("triton", [1]))
    after = results.put(before, [row("bertd", [2])], [])
    assert [each["contender"] for each in after["rows"]] == ["triton", "bertd"]
    assert len(after["left_out"]) == 1


def test_the_report_tells_everything(tmp_path: Path) -> None:
    """Tables and plot are made of whatever was measured, and say who was left out, and why."""
    latency = dict.fromkeys(("p50_ms", "p99_ms"), 1.0)
    measured = result(row("bertd", [100], **latency), row("triton", [50], **latency))
    written = report.write(tmp_path / "serving.json", measured)
    assert [path.suffix for path in written] == [".md", ".svg"]
    text = written[0].read_text()
    assert "| **bertd** | 100.0 (1, 1) |" in text
    assert "litserve on bert-base: it fell over" in text


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_tables_are_those_of_the_recorded_results(path: Path) -> None:
    """What is committed as a table follows from what is committed as results."""
    recorded = json.loads(path.read_text())
    assert recorded["summary"] == results.summary(recorded)
    assert path.with_suffix(".md").read_text() == report.markdown(recorded)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_predecessors_table_is_recorded_in_its_shape(path: Path) -> None:
    """1, 5, 100 and 150 calls at once, for bertd and for the batching predecessor (D15)."""
    rows = json.loads(path.read_text())["rows"]
    for contender in ("bertd", "batch-inference"):
        loads = {row["load"] for row in rows if row["contender"] == contender}
        assert {f"burst-{calls}" for calls in (1, 5, 100, 150)} <= loads


class Canned(asyncio.Protocol):
    """A server of HTTP that always says the same, in two parts, as a network may cut it."""

    def __init__(self, reply: bytes, delay_s: float) -> None:
        self.reply, self.delay_s = reply, delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps what to write to."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Requests here are small enough to come whole."""
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay_s, self.transport.write, self.reply[:10])
        loop.call_later(self.delay_s + 0.01, self.transport.write, self.reply[10:])


@asynccontextmanager
async def serving(reply: bytes, delay_s: float = 0.0) -> AsyncIterator[int]:
    """Serves; yields the port."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Canned(reply, delay_s), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "ANSWERED"), (429, "REFUSED"), (408, "EXPIRED"), (500, "FAILED")]
)
async def test_http_answers_are_read_whole(status: int, outcome: str) -> None:
    """An answer that comes in parts is one answer, and its status says how the call ended."""
    reply = f"HTTP/1.1 {status} X\r\ncontent-length: 5\r\n\r\nhello".encode()
    async with serving(reply) as port:
        client = transports.connect("http", port, "/generate")
        request = calls.PASSAGES.request(["a text"], 1.0)
        for _ in range(2):  # the second on the same connection
            assert await client.call(request, 5.0) == (transports.Outcome[outcome], b"hello")
        await client.close()


async def test_a_caller_whose_time_is_over_hangs_up() -> None:
    """The call expires; a server that is not there fails it instead."""
    async with serving(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n", delay_s=30) as port:
        client = transports.connect("http", port, "/generate")
        outcome, _ = await client.call(calls.PASSAGES.request(["a text"], 1.0), 0.05)
        assert outcome == transports.Outcome.EXPIRED
    gone = transports.connect("http", processes.free_port(), "/generate")
    assert (await gone.call(b"", 1.0))[0] == transports.Outcome.FAILED


class Instant:
    """A transport that answers at once."""

    async def call(self, request: bytes, timeout_s: float) -> tuple[transports.Outcome, bytes]:
        """Answers with what it was asked."""
        del timeout_s
        return transports.Outcome.ANSWERED, request

    async def close(self) -> None:
        """Has nothing to let go of."""


async def test_loads_keep_their_shape() -> None:
    """Arrivals are as many as the rates say, in order, the same for a seed; bursts are whole."""
    load = generator.Load(Instant(), [b"1", b"2"])
    await generator.opened(load, [(400.0, 0.25), (800.0, 0.25)], timeout_s=1.0, seed=3)
    due = [call[0] for call in load.calls]
    assert due == sorted(due)
    assert 60 < sum(at < 0.25 for at in due) < 140 < sum(at >= 0.25 for at in due) < 260
    bursts = generator.Load(Instant(), [b"1"])
    assert len(await generator.burst(bursts, size=7, repeats=3, timeout_s=1.0)) == 3
    assert len(bursts.calls) == 21


def test_a_tree_of_processes_stops_and_ends_as_one() -> None:
    """A server's children are stopped with it, and none of them survives its end."""
    child = "import subprocess; subprocess.run(['sleep', '60'])"
    process = subprocess.Popen([sys.executable, "-c", child])
    tree = processes.Tree(process.pid)
    while len(tree.pids()) < 2:
        assert process.poll() is None
    tree.stop()
    pids = tree.pids()
    assert {machine.state(pid) for pid in pids} == {"T"}
    tree.send(signal.SIGCONT)
    processes.end(process)
    assert process.returncode == -signal.SIGTERM
    assert all(not Path(f"/proc/{pid}").exists() or machine.state(pid) == "Z" for pid in pids)
