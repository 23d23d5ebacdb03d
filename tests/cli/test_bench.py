"""`bertd bench`: load on a model, and what is printed of it."""

import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
import time

import grpc
import pytest

from bertd.cli import load_report
from bertd.load import outcome

QUICK = ("--duration", "200ms", "--warm-up", "0", "--concurrency", "2")
FIELDS = {
    *("ok", "failed", "refused", "expired", "sent", "rps", "goodput_rps", "duration_s"),
    *("latency_ms", "refusal_ms", "server_ms", "tokens_per_s", "lag_ms"),
}


def test_json_has_these_fields_and_adds_up(bertd, daemon):
    """One object: counts that sum to what was sent, percentiles in order, and the concurrency."""
    ran = bertd("bench", "english/sst2", *QUICK, "-o", "json")
    told = json.loads(ran.out)
    assert ran.code == 0
    assert told.keys() == FIELDS | {"concurrency"}
    assert told["concurrency"] == 2
    assert told["ok"] == told["sent"] > 0
    assert told["failed"] == told["refused"] == told["expired"] == 0
    assert told["duration_s"] == 0.2
    latency = told["latency_ms"]
    assert list(latency) == ["p50", "p90", "p99", "p999", "mean", "max"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert told["refusal_ms"] == {"p50": None, "p99": None}
    assert told["server_ms"].keys() == {"tokenize", "queue", "inference"}
    first = daemon.requests[0]
    assert (first.model, first.adapter, len(first.inputs)) == ("english", "sst2", 1)


def test_an_open_loop_tells_its_rate(bertd, daemon):
    """With `--rate` the JSON has that instead of a concurrency, and calls come at about it."""
    ran = bertd("bench", "english", "--rate", "100", "--duration", "500ms", "--warm-up", "100ms",
                "-o", "json")  # fmt: skip
    told = json.loads(ran.out)
    assert told.keys() == FIELDS | {"rate"}
    assert told["rate"] == 100.0
    assert told["sent"] == pytest.approx(50, abs=25)
    assert told["lag_ms"] >= 0
    assert len(daemon.requests) == pytest.approx(60 + 1, abs=30)


def test_a_table_for_people(bertd, daemon):
    """What was measured, a row for each way to end, and what replies and generator say."""
    ran = bertd("bench", "english", *QUICK, "--deadline", "2s", "--inputs", "3")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "english, classify: closed loop, 2 callers, 3 texts a call, deadline 2s"
    assert lines[2].split()[:4] == ["CALLS", "COUNT", "PER", "SECOND"]
    assert [line.split()[0] for line in lines[3:8]] == [
        *("ok", "refused", "expired", "failed", "sent"),
    ]
    facts = {line.partition(":")[0] for line in lines[9:]}
    assert facts == {"texts", "span", "goodput", "tokens", "server", "revision", "generator"}
    assert "english-1a2b" in ran.out
    assert {len(each.inputs) for each in daemon.requests} == {3}


def test_what_a_daemon_says_cannot_steer_the_terminal(bertd, daemon):
    """Names and messages come from elsewhere: control characters are not printed."""
    assert "\x1b" not in bertd("bench", "a\x1b[2J", *QUICK).out


def test_refusals_are_results(bertd, daemon):
    """A daemon that refuses every call: exit code 0, each counted once and none sent again."""
    daemon.refusal = (grpc.StatusCode.UNAVAILABLE, "overloaded")
    ran = bertd("bench", "english", *QUICK, "-o", "json")
    told = json.loads(ran.out)
    assert ran.code == 0
    assert told["refused"] == told["sent"] > 0
    assert told["refusal_ms"]["p50"] > 0
    assert told["latency_ms"]["p50"] is None
    assert len(daemon.requests) == told["sent"] + 1


def test_late_calls_are_results(bertd, daemon):
    """A daemon that says DEADLINE_EXCEEDED: expired, exit code 0."""
    daemon.refusal = (grpc.StatusCode.DEADLINE_EXCEEDED, "late")
    ran = bertd("bench", "english", *QUICK, "-o", "json")
    assert ran.code == 0
    assert json.loads(ran.out)["expired"] > 0


def test_failures_are_told_and_leave_with_one(bertd, daemon):
    """A daemon that breaks under the load: exit code 1, and why on stderr."""
    plain = daemon._may_refuse

    def breaks(request: object, context: grpc.ServicerContext) -> None:
        if len(daemon.requests) == 3:
            daemon.refusal = (grpc.StatusCode.INTERNAL, "error 4711")
        plain(request, context)

    daemon._may_refuse = breaks
    ran = bertd("bench", "english", *QUICK, "-o", "json")
    assert ran.code == 1
    assert json.loads(ran.out)["failed"] > 0
    assert "calls failed: INTERNAL: error 4711" in ran.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.NOT_FOUND, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_load(bertd, daemon, status, code):
    """An unknown model, one without a head: the daemon's words, one call, and no table."""
    daemon.refusal = (status, "there is no model 'english'")
    ran = bertd("bench", "english", *QUICK)
    assert (ran.code, ran.out) == (code, "")
    assert "there is no model 'english'" in ran.err
    assert len(daemon.requests) == 1


def test_without_a_daemon_it_says_so_at_once(bertd, address):
    """Exit code 5 in under two seconds, with the address that was tried (checklist 40)."""
    began_s = time.monotonic()
    ran = bertd("bench", "english")
    assert time.monotonic() - began_s < 2.0
    assert (ran.code, ran.out) == (5, "")
    assert address in ran.err
    assert "hint: start it with `bertd serve`" in ran.err


def test_the_server_can_be_named(bertd, daemon, address, monkeypatch):
    """`--server` goes before BERTD_SERVER, for the load and for the list of adapters."""
    monkeypatch.setenv("BERTD_SERVER", "unix:/nonexistent")
    daemon.add("Adapter", "sst2", {"model": "english"})
    path = address.removeprefix("unix:")
    assert bertd("bench", "english", "--server", path, "--adapters", "all", *QUICK).code == 0


def test_a_mix_of_adapters(bertd, daemon):
    """Calls name all that were listed; each was asked once before the load."""
    ran = bertd("bench", "english", *QUICK, "--adapters", "a, b")
    assert ran.code == 0
    assert [each.adapter for each in daemon.requests[:2]] == ["a", "b"]
    assert {each.adapter for each in daemon.requests} == {"a", "b"}
    assert "adapters:   2, drawn at random" in ran.out


def test_all_adapters_of_a_model(bertd, daemon):
    """`all` is what is declared for that model, inline ones of the Model by their own name."""
    for name, spec in {
        "acme": {"model": "english"},
        "english/inline": {},
        "x": {"model": "m"},
    }.items():
        daemon.add("Adapter", name, spec)
    assert bertd("bench", "english", *QUICK, "--adapters", "all").code == 0
    asked = [each for each in daemon.requests if hasattr(each, "inputs")]
    assert {each.adapter for each in asked} == {"acme", "inline"}


def test_all_of_none(bertd, daemon):
    """A model without adapters has no mix: exit code 1."""
    ran = bertd("bench", "english", *QUICK, "--adapters", "all")
    assert (ran.code, ran.out) == (1, "")
    assert "no adapters are declared for model 'english'" in ran.err


def test_tagging(bertd, daemon):
    """`--method tag` asks for tags, and reads those replies."""
    ran = bertd("bench", "english/ner", *QUICK, "--method", "tag")
    assert ran.code == 0
    assert "revision:   e-1" in ran.out


def test_texts_of_a_file(bertd, daemon, tmp_path):
    """Every line is a text; blank ones are left out."""
    file = tmp_path / "texts"
    file.write_text("one\n\n  \nzwei 中\n")
    assert bertd("bench", "english", *QUICK, "--texts", str(file)).code == 0
    assert {each.inputs[0].text for each in daemon.requests} == {"one", "zwei 中"}


def test_texts_of_drawn_lengths(bertd, daemon):
    """`--lengths 16` is 14 words and two special tokens."""
    ran = bertd("bench", "english", *QUICK, "--lengths", "16")
    assert "texts:      common English words, 16 tokens" in ran.out
    assert {len(each.inputs[0].text.split()) for each in daemon.requests} == {14}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`bertd bench` must be told what to measure"),
        (["x", "--peak"], "`--peak` measures the machine"),
        (["x", "--rate", "5", "--concurrency", "5"], "only one of `--concurrency` and `--rate`"),
        (["x", "--duration", "0"], "`--duration` must be longer than 0"),
        (["x", "--duration", "soon"], "`--duration` must be a duration"),
        (["x", "--deadline", "301s"], "`--deadline` must be longer than 0 and at most 300 s"),
        (["x", "--warm-up", "-1s"], "`--warm-up` must be a duration"),
        (["x", "--lengths", "many"], "`--lengths` must be tokens"),
        (["x", "--lengths", "16", "--texts", "f"], "only one of `--texts` and `--lengths`"),
        (["x", "--texts", "/nonexistent"], "`--texts` cannot be read"),
        (["x", "--texts", "/dev/null"], "must have at least one line of text"),
        (["x/y", "--adapters", "a"], "`--adapters` must not be given with MODEL/ADAPTER"),
        (["x", "--adapters", "a,,b"], "`--adapters` must be names with commas"),
        (["x", "--plot", "picture.exe"], "`--plot` must end in .svg, .png, .pdf"),
        (["x", "--plot", "/nonexistent/p.svg"], "there is no directory"),
        (["x", "--lengths", "4096", "--inputs", "1024"], "at most 4194304 are taken"),
        (["x", "--concurrency", "0"], "Usage:"),
        (["x", "--rate", "0"], "Usage:"),
        (["x", "--inputs", "1025"], "Usage:"),
        (["x", "--method", "guess"], "Usage:"),
    ],
)
def test_a_wrong_command_line_makes_no_load(bertd, daemon, words, message):
    """Exit code 2, what is wrong on stderr, and the daemon is not called."""
    ran = bertd("bench", *words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert not daemon.requests


def test_texts_must_be_utf_8(bertd, daemon, tmp_path):
    """Bytes that are no text are an error of the file."""
    file = tmp_path / "texts"
    file.write_bytes(b"caf\xe9\n")
    ran = bertd("bench", "x", "--texts", str(file))
    assert ran.code == 2
    assert "must be UTF-8" in ran.err


def test_a_plot(bertd, daemon, tmp_path):
    """`--plot` draws a file after the load and says so on stderr."""
    pytest.importorskip("matplotlib")
    file = tmp_path / "load.svg"
    ran = bertd("bench", "english", *QUICK, "--plot", str(file))
    assert ran.code == 0
    assert file.read_text().startswith("<?xml")
    assert f"drew {file}" in ran.err


def test_a_plot_of_refusals_alone(bertd, daemon, tmp_path):
    """Without a single answer there is still a plot, of what there was."""
    pytest.importorskip("matplotlib")
    daemon.refusal = (grpc.StatusCode.UNAVAILABLE, "overloaded")
    file = tmp_path / "load.png"
    assert bertd("bench", "english", *QUICK, "--plot", str(file)).code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib(bertd, daemon, monkeypatch):
    """It is refused before the load, with what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = bertd("bench", "english", "--plot", "load.svg")
    assert (ran.code, ran.out) == (2, "")
    assert "hint: pip install matplotlib" in ran.err
    assert not daemon.requests


def test_progress_on_a_terminal_alone(daemon, address):
    """On a terminal stderr has a line that is renewed; stdout has the result and no escapes."""
    ours, theirs = pty.openpty()
    code = "from bertd.cli import main; main.run()"
    words = ["bench", "english", "--duration", "600ms", "--warm-up", "0", "--concurrency", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "BERTD_SERVER": address},
        check=True,
    )
    os.close(theirs)
    assert b"under way" in os.read(ours, 65536)
    os.close(ours)
    assert b"\x1b" not in done.stdout
    assert b"goodput:" in done.stdout


def test_an_interrupt_ends_the_span_and_prints(daemon, address):
    """Ctrl-C during a load of an hour: what was measured, in time, and exit code 0."""
    code = "from bertd.cli import main; main.run()"
    words = ["bench", "english", "--duration", "1h", "--warm-up", "0", "-o", "json"]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--concurrency", "1"],
        stdout=subprocess.PIPE,
        env={**os.environ, "BERTD_SERVER": address},
    )
    while len(daemon.requests) < 20:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    told = json.loads(running.communicate(timeout=30)[0])
    assert running.returncode == 0
    assert told["ok"] == told["sent"] > 0
    assert 0 < told["duration_s"] < 60


def test_a_late_generator_warns():
    """Where the generator was behind its schedule by more than 10 ms, the numbers say so."""
    tally = outcome.Tally()
    for _ in range(100):
        tally.lag.record(0.050)
    (warning,) = load_report.warnings(tally)
    assert "the generator itself was late" in warning
    assert "50 ms or more" in warning
    assert list(load_report.warnings(outcome.Tally())) == []
