"""A real daemon, started as users start it, and real clients."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bertd.client import admin, sync

BERTD = Path(sys.executable).with_name("bertd")
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart" / "manifest.yaml"
TIMEOUT_S = 60.0


@dataclass
class Daemon:
    """A `bertd serve` process over one state directory."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    data: str = ""
    metrics: str = ""
    extra: tuple[str, ...] = field(default=())

    @property
    def socket(self) -> str:
        """The admin socket."""
        return str(self.folder / "admin.sock")

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        """The front's process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with (self.folder / "log").open("a") as log:
            mark = log.tell()
            self.process = subprocess.Popen(
                [
                    *(str(BERTD), "serve", "--state-dir", str(self.folder / "state")),
                    *("--listen", "127.0.0.1:0", "--admin", self.socket),
                    *("--metrics", "127.0.0.1:0", *self.extra),
                ],
                stderr=log,
            )
        self.metrics = self.wait_for_log(r"http://[0-9.:]+/metrics", mark)
        self.data = self.wait_for_log(r'"address": "(127[0-9.:]+)"', mark)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        self.process = None
        return code

    def wait_for_log(self, pattern: str, mark: int = 0) -> str:
        """The first match (its group, if it has one) in the log from `mark` on."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.log[mark:]):
                return found[found.re.groups]
            assert self.process is None or self.process.poll() is None, self.log
            time.sleep(0.02)
        raise AssertionError(f"'{pattern}' did not appear:\n{self.log}")

    def cli(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a verb against this daemon."""
        return subprocess.run(
            [str(BERTD), *arguments],
            env=os.environ | {"BERTD_SERVER": self.socket},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def apply(self, manifest: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Applies YAML text from the daemon's own folder and expects success."""
        path = self.folder / "manifest.yaml"
        path.write_text(manifest)
        done = self.cli("apply", str(path), "--wait", "--timeout", "60s", *arguments)
        assert done.returncode == 0, done.stderr + self.log
        return done

    def client(self) -> sync.Client:
        """A client of the data port."""
        return sync.Client(self.data)

    def owner(self) -> admin.AdminClient:
        """A client of the admin socket."""
        return admin.AdminClient(self.socket)

    def worker_pid(self, model: str) -> int:
        """The process id of a Model's worker."""
        with self.owner() as owner:
            return int(str(owner.get("Model", model).status.details["workerPid"]))


@contextlib.contextmanager
def running(folder: Path, extra: Sequence[str] = ()) -> Iterator[Daemon]:
    """A started daemon that is gone afterwards, whatever happened."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    daemon = Daemon(folder, extra=tuple(extra))
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is not None:
            daemon.stop()


@pytest.fixture(name="quickstart", scope="session")
def _quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon with the quick start's manifest, shared by tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("quickstart")) as daemon:
        done = daemon.cli("apply", str(QUICKSTART), "--wait", "--timeout", "60s")
        assert done.returncode == 0, done.stderr + daemon.log
        yield daemon


@pytest.fixture(name="fresh")
def _fresh(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon of one's own, with nothing declared."""
    with running(tmp_path / "d") as daemon:
        yield daemon


def json_lines(text: str) -> list[dict[str, object]]:
    """One object per line."""
    return [json.loads(line) for line in text.splitlines()]
