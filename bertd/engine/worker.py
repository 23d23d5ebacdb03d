"""The worker process: a control loop on the main thread, one thread per lane.

The front connects one socket for control and one per lane. A lane blocks on its socket, runs a
batch, answers, and blocks again: it holds no queue, so nothing but the batch it runs is ever lost
with it. The process ends when the control socket closes.
"""

import dataclasses
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bertd import errors, frames
from bertd.engine import devices, intake, loading, peak, runner

LOAD_ADAPTERS_MAX = 64  # of one message, which other messages wait behind

log = logging.getLogger("bertd.engine")


class Channel:
    """Whole frames over a blocking socket; the receive buffer is reused and grows as needed."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray(1 << 16)

    def receive(self) -> tuple[frames.Header, memoryview] | None:
        """The next frame, its body valid until the next call; None when the front has gone."""
        if not self._fill(frames.HEADER.size):
            return None
        header = frames.decode_header(self._buffer)
        if header.body_bytes > len(self._buffer):
            self._buffer = bytearray(header.body_bytes)
        if not self._fill(header.body_bytes):
            return None
        return header, memoryview(self._buffer)[: header.body_bytes]

    def send(self, frame: bytes) -> None:
        """Sends one whole frame."""
        self._socket.sendall(frame)

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def _fill(self, size: int) -> bool:
        view = memoryview(self._buffer)[:size]
        while view:
            received = self._socket.recv_into(view)
            if not received:
                return False
            view = view[received:]
        return True


class Worker:
    """Answers the front's control messages; owns the revision's runner once started."""

    def __init__(self, control: socket.socket, lanes: list[socket.socket]) -> None:
        self._control = Channel(control)
        self._lanes = lanes
        self._base: loading.LoadedBase | None = None
        self._intake: intake.Intake | None = None
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "start": self._start,
            "load": self._load,
            "free": self._free,
        }

    def serve(self) -> None:
        """Handles control messages until the front closes the socket."""
        while (frame := self._control.receive()) is not None:
            header, body = frame
            self._control.send(frames.encode_control(header.id, self._answer(body)))

    def _answer(self, body: memoryview) -> dict[str, Any]:
        message = frames.decode_control(body)
        try:
            return {"ok": self._operations[message["op"]](message)}
        except errors.Error as error:
            return {"error": _describe(error)}
        except Exception as error:
            log.exception("control operation failed")
            kind = type(error).__name__
            return {"error": {"kind": "Temporary", "message": kind, "reason": "WorkerError"}}

    def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        files = {name: Path(path) for name, path in message["files"].items()}
        folded = message["folded"]
        self._base = loading.load_base(
            files,
            precision=message["precision"],
            pooling=message["pooling"],
            device=message.get("device", devices.CPU),
            choices=Path(message["choices"]) if message.get("choices") else None,
        )
        self._intake = intake.Intake(self._base, Path(folded) if folded else None)
        trials = self._base.runner.warm_up()
        for number, sock in enumerate(self._lanes):
            lane = threading.Thread(
                target=run_lane, args=(Channel(sock), self._base.runner), name=f"lane-{number}"
            )
            lane.daemon = True
            lane.start()
        return facts(self._base) | {
            "foldedKey": self._intake.cache_key,
            "trials": [dataclasses.asdict(trial) for trial in trials],
        }

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._intake is None:
            raise errors.Bug("the worker was given adapters before its base")
        if len(message["adapters"]) > LOAD_ADAPTERS_MAX:
            raise errors.Bug(f"one message brings more than {LOAD_ADAPTERS_MAX} adapters")
        outcome = self._intake.load([_wanted(fields) for fields in message["adapters"]])
        return {
            "failed": {str(slot): _describe(error) for slot, error in outcome.failed.items()},
            "headBytes": {str(slot): size for slot, size in outcome.head_bytes.items()},
        }

    def _free(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._base is not None:
            for slot in message["slots"]:
                self._base.runner.bank.free(slot)
        return {}


def facts(base: loading.LoadedBase) -> dict[str, Any]:
    """What is known of a base on this machine, its speed included; JSON values."""
    found = base.facts()
    on_cpu = base.device.type == devices.CPU
    peaks = peak.measure() if on_cpu else devices.lane_peak(base.device)
    per_token, per_token_squared = peak.operations(base.description.shape)
    return found | {
        "operationsPerToken": per_token,
        "operationsPerTokenSquared": per_token_squared,
        "peakOperationsPerSecond": {name: round(rate) for name, rate in peaks.items()},
        # torch's own threads are one for each lane: only native code computes together.
        "wide": on_cpu and found["kernels"] != loading.EAGER,
    }


def run_lane(channel: Channel, runner: runner.Runner) -> None:
    """Runs batches one after the other until the front closes the socket.

    torch keeps a thread count per thread, so every lane sets its own: one.
    """
    peak.alone()
    try:
        while (frame := channel.receive()) is not None:
            header, body = frame
            channel.send(_run(header, body, runner))
    finally:
        channel.close()  # tells the front, which else would wait for this lane for ever


def _run(header: frames.Header, body: memoryview, runner: runner.Runner) -> bytes:
    """One answer frame for one batch frame; a failure concerns this batch alone.

    Raises:
        torch.AcceleratorError: the GPU's context is lost, and with it this process's use.
    """
    try:
        return frames.encode_result(runner.run(frames.decode_batch(header, body)))
    except torch.AcceleratorError:
        raise  # a GPU that failed so fails every batch after: another worker takes over
    except Exception as error:
        log.exception("a batch failed")
        message = f"{type(error).__name__}: {error}"
        return frames.encode_failure(frames.Failure(id=header.id, message=message))


def _wanted(fields: dict[str, Any]) -> intake.Wanted:
    return intake.Wanted(
        slot=fields["slot"],
        digest=fields["digest"],
        path=Path(fields["path"]),
        cache=fields["cache"],
    )


def _describe(error: errors.Error) -> dict[str, str]:
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "reason": getattr(error, "reason", type(error).__name__),
    }
