"""Named tensors out of a file that may be a pickle: safetensors here, pickles in a child process.

The child (`unpickle`, behind `sandbox`) gets the opened file and nothing else. What it answers is
as little trusted as the file: bounded, proved like any safetensors file, printed with care.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import json_text, safetensors
from bertd.interchange import refusals, unpickle

MAX_PICKLE_BYTES: Final = 4 * 1024 * 1024 * 1024
TIMEOUT_S: Final = 180.0
READ_BYTES: Final = 1024 * 1024
MAX_REFUSAL_BYTES: Final = 64 * 1024

MODULE: Final = "bertd.interchange.unpickle"
_ENVIRONMENT: Final = ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONHOME")
_SINGLE_THREAD: Final = {
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file's tensors as float32, and the true dtype of those that are not floating point."""

    arrays: Mapping[str, NDArray[np.float32]]
    dtypes: Mapping[str, str]


def unpickled(fd: int, what: str, *, timeout_s: float = TIMEOUT_S) -> Found:
    """The tensors of an opened file that `torch.save` wrote; a mapping's are named 'outer/inner'.

    Raises:
        errors.BadArtifact: reason `UnsafePickle`, `BadPickle`, `NotTensors` or `TooLarge`.
        errors.InvalidRequest: torch is not installed, or the system cannot lock a process up.
    """
    size = os.fstat(fd).st_size
    if size > MAX_PICKLE_BYTES:
        raise refusals.bad(what, f"has {size} bytes; the limit is {MAX_PICKLE_BYTES}", "TooLarge")
    os.lseek(fd, 0, os.SEEK_SET)
    limit_bytes = unpickle.RESULT_BYTES + unpickle.RESULT_PER_BYTE * size
    deadline_s = time.monotonic() + timeout_s
    with _child(fd) as process:
        data = _collect(process, limit_bytes, deadline_s, what)
        code = _left(process, deadline_s, what)
    if code == unpickle.REFUSED:
        raise refusal(data, what)
    if code != 0:
        raise refusals.bad(what, f"killed the process that read it (exit code {code})", "BadPickle")
    return _parse(data, what)


@contextmanager
def held(data: bytes) -> Iterator[int]:
    """A descriptor of these bytes, in memory alone."""
    fd = os.memfd_create("bertd-import", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        yield fd


def of_safetensors(path: Path, what: str) -> Found:
    """The floating-point tensors of a safetensors file, in place, and the dtype of others.

    Raises:
        errors.BadArtifact: as `safetensors.read_header`.
        errors.Temporary: the disk failed.
    """
    weights = safetensors.Weights(safetensors.locate({what: path}))
    is_float = {name: info.dtype in safetensors.FLOATS for name, info in weights.tensors.items()}
    return Found(
        arrays={name: weights.array(name) for name, float_ in is_float.items() if float_},
        dtypes={n: weights.tensors[n].dtype for n, float_ in is_float.items() if not float_},
    )


@contextmanager
def _child(fd: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-P", "-B", "-m", MODULE],
        stdin=fd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | _SINGLE_THREAD,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _collect(
    process: subprocess.Popen[bytes], limit_bytes: int, deadline_s: float, what: str
) -> bytes:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    ready = select.poll()  # a caller's process may have more files open than select can name
    ready.register(pipe, select.POLLIN)
    parts: list[bytes] = []
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not ready.poll(left_s * 1000):
            raise refusals.bad(what, "took too long to read", "BadPickle")
        part = os.read(pipe, READ_BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)
        limit_bytes -= len(part)
        if limit_bytes < -safetensors.MAX_HEADER_BYTES:
            raise refusals.bad(what, "holds more than a file of its size may", "TooLarge")


def _left(process: subprocess.Popen[bytes], deadline_s: float, what: str) -> int:
    try:
        return process.wait(timeout=max(deadline_s - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired as error:
        raise refusals.bad(what, "took too long to read", "BadPickle") from error


def _parse(data: bytes, what: str) -> Found:
    split = safetensors.split_header(
        data[: safetensors.LENGTH_BYTES + safetensors.MAX_HEADER_BYTES], what
    )
    body = memoryview(data)[split.data_start :]
    table = safetensors.parse_table(split.table, len(body), what)
    dtypes = json_text.parse_object(split.metadata.get(unpickle.DTYPES, "{}"), what)
    return Found(
        arrays={
            name: safetensors.to_float32(body[info.start : info.end], info)
            for name, info in table.items()
        },
        dtypes={name: str(dtype) for name, dtype in dtypes.items()},
    )


def refusal(data: bytes, what: str) -> errors.Error:
    """The error that a refusal of the child stands for; its words are quoted."""
    try:
        told = json.loads(data[:MAX_REFUSAL_BYTES])
        reason, message = str(told["reason"]), str(told["message"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return refusals.bad(what, "killed the process that read it", "BadPickle")
    if reason == "NoTorch":
        return errors.InvalidRequest(
            f"reading {what} needs '{message}', which is not installed",
            hint="pip install 'bertd[engine]'",
        )
    if reason == "NoSandbox":
        return errors.InvalidRequest(
            f"{what} is a pickle, and this system cannot lock up a process that reads one: "
            f"{message}",
            hint="import it on Linux on x86_64 or aarch64, with seccomp",
        )
    known = reason if reason in ("BadPickle", "NotTensors", "TooLarge", "UnsafePickle") else ""
    return refusals.bad(what, families.quote(message)[1:-1], known or "BadPickle")
