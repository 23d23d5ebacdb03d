"""A contender that serves: started on its core, asked from the other, stopped between turns."""

import base64
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import daemon
from benchmarks.engine.turns import Failed
from benchmarks.serving import calls, contenders, processes

SERVER_CORE, GENERATOR_CORE = 0, 1
OPEN_S = 300.0
POLL_S = 0.2
TURN_MORE_S = 300.0  # beyond the load itself, for what is still under way
IDLE_SHARE, IDLE_POLL_S, SETTLE_S = 0.1, 0.5, 120.0
MANIFEST = """
apiVersion: bertd.dev/v1
kind: Model
metadata: {{name: {model}}}
spec:
  base: {{source: {base}}}
  precision: int8
  batching: {{maxQueueDelay: {patience}s}}
  adapters:
    - {{name: {adapter}, source: {folder}/adapter.safetensors}}
"""


class Server:
    """A contender's processes, and how it is asked.

    Args:
        name: of the contender.
        root: its first process.
        port: where it answers.
        texts: what it is asked about.
    """

    def __init__(self, name: str, root: int, port: int, texts: Sequence[str]) -> None:
        self.name = name
        self.tree = processes.Tree(root)
        self._wire = contenders.wire(name)
        self._port, self._texts = port, texts

    def turn(
        self, kind: str, texts_per_call: int = 1, count: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Lets it serve a load, until it has nothing more to do.

        Args:
            kind: see `generator.KINDS`.
            texts_per_call: how many each call holds.
            count: of the texts that it is asked about, the first; all of them unless told.
            **options: what the generator is told of this kind.

        Returns:
            What the generator saw, and the processor time that the first process (`front_s`) and
            all together (`server_s`) used meanwhile.

        Raises:
            Failed: the load could not be carried out.
        """
        self.tree.wake()
        try:
            before = self.tree.pids()
            front, whole = self.tree.cpu_seconds()
            record = self._generate(kind, self._requests(texts_per_call, count, options), options)
            front_after, whole_after = self.tree.cpu_seconds()
            self._settle()
            if gone := set(before) - set(self.tree.pids()):
                raise Failed(f"{len(gone)} of its processes ended under load")
        finally:
            self.tree.stop()
        return record | {"front_s": front_after - front, "server_s": whole_after - whole}

    def answers(self, count: int, at_once: int) -> np.ndarray:
        """Answers to the first texts, a text a call."""
        found = self.turn("answers", count=count, concurrency=at_once, timeout_s=OPEN_S)["found"]
        return np.concatenate([self._wire.read(base64.b64decode(each)) for each in found])

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Returns, the server stopped, when it has answered.

        Raises:
            Failed: it ended, or took too long.
        """
        until = time.monotonic() + OPEN_S
        while True:
            if process.poll() is not None:
                raise Failed(f"its process ended with {process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self._port), POLL_S).close()
                self.answers(1, 1)
                return
            except (OSError, Failed) as failure:  # it does not listen yet, or loads its model
                if time.monotonic() > until:
                    raise Failed(f"no answer within {OPEN_S:.0f} s: {failure}") from None
            time.sleep(POLL_S)

    def _requests(
        self, texts_per_call: int, count: int | None, options: Mapping[str, Any]
    ) -> list[bytes]:
        texts = self._texts[:count]
        starts = range(0, len(texts) - texts_per_call + 1, texts_per_call)
        groups = (texts[start : start + texts_per_call] for start in starts)
        return [self._wire.request(group, options["timeout_s"]) for group in groups]

    def _generate(
        self, kind: str, requests: Sequence[bytes], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        order = {
            "protocol": self._wire.protocol,
            "port": self._port,
            "target": self._wire.target,
            "requests": [base64.b64encode(each).decode() for each in requests],
            "kind": kind,
            "options": options,
        }
        load_s = options.get("seconds", sum(each[1] for each in options.get("phases", ())))
        with tempfile.TemporaryFile("w+") as told:  # grpc leaves a pipe non-blocking: half is lost
            try:
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.serving.generator", str(GENERATOR_CORE)],
                    input=json.dumps(order),
                    stdout=told,
                    stderr=subprocess.PIPE,
                    text=True,
                    timeout=load_s + TURN_MORE_S,
                    check=True,
                )
            except subprocess.TimeoutExpired:
                raise Failed("its calls never ended") from None
            except subprocess.CalledProcessError as error:
                raise Failed(error.stderr.strip().splitlines()[-1]) from None
            told.seek(0)
            return dict(json.load(told))

    def _settle(self) -> None:
        """Work whose callers have left would otherwise be done at the expense of the next turn."""
        until = time.monotonic() + SETTLE_S
        used = self.tree.cpu_seconds()[1]
        while time.monotonic() < until:
            time.sleep(IDLE_POLL_S)
            before, used = used, self.tree.cpu_seconds()[1]
            if used - before < IDLE_SHARE * IDLE_POLL_S:
                return


@contextlib.contextmanager
def started(
    name: str, model: str, cache: Path, scratch: Path, texts: Sequence[str], deadline_s: float
) -> Iterator[Server]:
    """A contender that answers, stopped until its first turn.

    Raises:
        Failed: it does not get that far.
    """
    port = processes.free_port()
    folder = cache / "serving" / model
    if name == contenders.BERTD:
        with _daemon(cache / model / "checkpoint", folder, scratch / name, port) as process:
            server = Server(name, process.pid, port, texts)
            try:
                server.wait(process)
                yield server
            finally:
                server.tree.wake()
        return
    peer = contenders.PEERS_BY_NAME[name]
    place = contenders.Place(folder=folder, port=port, deadline_s=deadline_s)
    command = contenders.command(peer, place)
    core, own = SERVER_CORE, scratch / name
    with processes.running(command, peer.variables(place), core, own) as process:
        server = Server(name, process.pid, port, texts)
        try:
            server.wait(process)
        except Failed as failure:
            last = (own / "log").read_text(errors="replace").strip().splitlines()[-1:]
            raise Failed(f"{failure}; its log ends with: {' '.join(last)}") from None
        yield server


@contextlib.contextmanager
def _daemon(
    base: Path, folder: Path, scratch: Path, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """bertd as users start it, with the model declared."""
    scratch.mkdir(parents=True)
    manifest = scratch / "manifest.yaml"
    manifest.write_text(
        MANIFEST.format(
            model=calls.MODEL,
            base=base.absolute(),
            adapter=calls.ADAPTER,
            folder=folder.absolute(),
            patience=1,
        )
    )
    with contextlib.ExitStack() as stack:
        with processes.on_core(SERVER_CORE):
            listen = ("--listen", f"127.0.0.1:{port}")
            process = stack.enter_context(daemon.running(scratch, *listen))
        daemon.apply(manifest)
        yield process
