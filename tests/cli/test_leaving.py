"""How every verb starts and how it leaves: speed, exit codes, streams and colour."""

import os
import pty
import subprocess
import sys
import time

import pytest

from bertd import errors
from bertd.cli import exits, table, terminal
from bertd.client import failure

VERBS = [
    ["get", "models"],
    ["describe", "model/x"],
    ["delete", "model/x"],
    ["wait", "model/x"],
    ["predict", "x", "hello"],
]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_without_a_daemon_every_verb_says_so_at_once(bertd, address, words):
    """Exit code 5 in under a second, with the address tried and the remedy (checklist 40)."""
    began_s = time.monotonic()
    ran = bertd(*words)
    assert time.monotonic() - began_s < 1.0
    assert ran.code == 5
    assert ran.out == ""
    assert ran.err.startswith("error: no daemon answers")
    assert address in ran.err
    assert "hint: start it with `bertd serve`, or name its address in BERTD_SERVER\n" in ran.err


@pytest.mark.parametrize("verb", ["apply", "diff"])
def test_manifest_verbs_without_a_daemon(bertd, address, manifest, verb):
    """A good manifest and no daemon: exit code 5 too (checklist 40)."""
    ran = bertd(verb, manifest)
    assert ran.code == 5
    assert address in ran.err


def test_nobody_on_a_port(bertd, monkeypatch):
    """The same for an address of the network."""
    monkeypatch.setenv("BERTD_SERVER", "127.0.0.1:1")
    for words in (["get", "models"], ["predict", "x", "hello"]):
        ran = bertd(*words)
        assert ran.code == 5
        assert "'127.0.0.1:1'" in ran.err


def test_starting_loads_nothing_heavy():
    """Importing the command line loads neither torch nor grpc nor pydantic nor numpy."""
    heavy = ["torch", "grpc", "pydantic", "numpy", "yaml", "tokenizers", "transformers"]
    code = f"import sys, bertd.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_packages(bertd):
    """`bertd version` prints name and version."""
    ran = bertd("version")
    assert ran.code == 0
    assert ran.out.startswith("bertd ")


@pytest.mark.parametrize("words", [["nonsense"], ["get"], ["get", "models", "-o", "xml"]])
def test_a_wrong_command_line_is_invalid(bertd, words):
    """Unknown verbs and options, and missing arguments: exit code 2, usage on stderr."""
    ran = bertd(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert "Usage:" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidManifest("x"), 2),
        (errors.InvalidRequest("x"), 2),
        (errors.NotFound("x"), 1),
        (errors.Conflict("x"), 4),
        (errors.Expired("x"), 3),
        (errors.BadArtifact("x"), 1),
        (errors.Temporary("x"), 1),
        (failure.CallError("UNAVAILABLE", "x"), 5),
        (failure.CallError("UNAVAILABLE", "x", reason="NotReady"), 1),
        (failure.CallError("ABORTED", "x", reason="Conflict"), 4),
        (failure.CallError("INVALID_ARGUMENT", "x", reason="InvalidRequest"), 2),
        (failure.CallError("DEADLINE_EXCEEDED", "x", reason="Expired"), 3),
        (failure.CallError("NOT_FOUND", "x", reason="NotFound"), 1),
    ],
)
def test_every_error_has_its_code(error, code):
    """0 ok, 1 failed, 2 invalid, 3 timed out, 4 conflict, 5 no daemon."""
    assert exits.code(error) == code


def test_an_interrupt_is_quiet(bertd, monkeypatch):
    """Ctrl-C leaves with 130 and no traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "out", interrupted)
    ran = bertd("version")
    assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_a_reader_that_goes_away_is_quiet():
    """`bertd schema | head -1` prints no traceback."""
    done = subprocess.run(
        f"{sys.executable} -c 'from bertd.cli import main; main.run()' schema | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr


def coloured(**environ: str) -> bytes:
    """What a failing verb writes to a terminal."""
    ours, theirs = pty.openpty()
    code = "from bertd.cli import main; main.run()"
    subprocess.run(
        [sys.executable, "-c", code, "get", "pods"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, **environ},
        check=False,
    )
    os.close(theirs)
    written = os.read(ours, 4096)
    os.close(ours)
    return written


def test_colour_only_on_a_terminal(bertd):
    """Errors are coloured on a terminal, and nowhere else (checklist 38)."""
    assert b"\x1b[" in coloured(NO_COLOR="")
    assert "\x1b" not in bertd("get", "pods").err


def test_no_color_is_honoured():
    """NO_COLOR switches colour off even there."""
    assert b"\x1b" not in coloured(NO_COLOR="1")


def test_columns_count_what_a_terminal_shows():
    """Wide characters take two columns, accents none; a cut text ends in an ellipsis."""
    assert table.width("中a\u0301") == 3
    assert table.cut("abcdef", 4) == "abc…"
    assert table.cut("中文中文", 4) == "中…"
    assert table.cut("abc", 3) == "abc"
