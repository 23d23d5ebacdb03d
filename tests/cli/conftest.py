"""A command line in this process, and a daemon for it to call."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bertd.cli import main
from tests.cli import daemon as fake

MANIFEST = """\
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: english, labels: {team: search}}
spec:
  base: {source: ./minilm}
---
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {name: acme}
spec: {model: english, source: ./acme.safetensors}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Bertd = Callable[..., Ran]


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where verbs look for the daemon."""
    where = fake.address(tmp_path)
    monkeypatch.setenv("BERTD_SERVER", where)
    return where


@pytest.fixture
def bertd(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bertd:
    """Runs a command line; `stdin` is what it reads."""

    def run(*arguments: str, stdin: str | bytes = "") -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsys.readouterr()
        code = main.execute(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def daemon(address: str) -> Iterator[fake.Daemon]:
    """A daemon without objects."""
    running = fake.Daemon(address)
    yield running
    running.stop()


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """A file with a Model and an Adapter."""
    path = tmp_path / "models.yaml"
    path.write_text(MANIFEST)
    return str(path)
