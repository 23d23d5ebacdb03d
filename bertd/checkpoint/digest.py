"""The base digest: one name for one encoder, however its file is split, prefixed or headed.

sha256 over a version line, the config values that change results but no tensor's shape, then every
encoder tensor in order of its bare name: a line with name, dtype and shape, followed by its bytes.
Heads and buffers stay out, so a task model and its bare encoder have the same digest. A pooler is
part of the encoder where the checkpoint has one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bertd import errors
from bertd.checkpoint import beneath, safetensors
from bertd.families import EncoderShape

VERSION_LINE: Final = b"bertd-base/1\n"
CHUNK_BYTES: Final = 4 * 1024 * 1024
# Sizes need no place here: the tensors' shapes say them.
RESULT_KEYS: Final = ("activation", "family", "heads", "norm_eps", "position_offset")


def base_digest(shape: EncoderShape, tensors: Mapping[str, safetensors.Located]) -> str:
    """The hex digest of an encoder's tensors (bare checkpoint name -> where it lies).

    Reads the files in chunks and maps nothing.

    Raises:
        errors.BadArtifact: a file ends before its header says.
        errors.Temporary: the disk failed.
    """
    total = hashlib.sha256(VERSION_LINE)
    total.update(_line({key: getattr(shape, key) for key in RESULT_KEYS}))
    fds: dict[Path, int] = {}
    try:
        for name, at in sorted(tensors.items()):
            if at.path not in fds:
                fds[at.path] = os.open(at.path, os.O_RDONLY | os.O_CLOEXEC)
            entry = {"dtype": at.info.dtype, "name": name, "shape": at.info.shape}
            total.update(_line(entry))
            _update(total, fds[at.path], at.info)
    except OSError as error:
        beneath.refuse(error, "a weight file")
    finally:
        for fd in fds.values():
            os.close(fd)
    return total.hexdigest()


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _update(total: "hashlib._Hash", fd: int, info: safetensors.TensorInfo) -> None:
    at = info.start
    while at < info.end:
        chunk = os.pread(fd, min(CHUNK_BYTES, info.end - at), at)
        if not chunk:
            raise errors.BadArtifact(f"the file ends inside '{info.name}'", reason="BadSafetensors")
        total.update(chunk)
        at += len(chunk)
