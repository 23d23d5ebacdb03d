"""Folded adapters on disk: what a restart, or an adapter that comes back, need not compute again.

One file per adapter, `<directory>/<key>/<digest>`: the key names all that folding depends on, the
digest the adapter's own file. A file is a bet, never a truth: it is written without waiting for the
disk, proved by a checksum when read, and whatever is wrong with it is a miss. Who declares adapters
removes the files of those that are gone.

    file     magic "BTDFOLD1" | crc32 of the rest u32 | header bytes u32 | header | biases | head
    header   JSON: head (kind, input, problem) or null; shapes: [[name, [sizes]], ...] of the head
    biases   the row of the table, in its dtype; the head's values in fp32; all little endian
"""

import hashlib
import json
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from bertd import errors
from bertd.adapters import layout
from bertd.checkpoint import adapter_file, beneath, sources

MAGIC = b"BTDFOLD1"
FORMAT = 1  # a change of folding or of the file counts this up
PREFIX = struct.Struct("<8sII")
HEADER_MAX_BYTES = 64 << 10
VALUES_MAX_BYTES = 2 * sources.MAX_ADAPTER_BYTES  # float16 heads are kept as fp32
KEEP_FREE_BYTES = 256 << 20  # of the disk, which the daemon's own state shares
KEY_CHARS = 32

log = logging.getLogger("bertd.adapters")


class FoldedCache:
    """The folded adapters of one base, tokenizer and dtype.

    Args:
        directory: where all caches lie; made when first written to.
        row: values of a row of the table.
        dtype: of the row.
        base_digest: the base's, which names its weights, its biases and what results depend on.
        tokenizer_digest: an adapter made for another one is refused, so no file may stand for it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        row: int,
        dtype: torch.dtype,
        base_digest: str,
        tokenizer_digest: str,
    ) -> None:
        text = f"{FORMAT} {base_digest} {tokenizer_digest} {dtype} {row}"
        self.directory = directory / hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARS]
        self._row = row
        self._dtype = dtype
        self._has_complained = False

    def get(self, digest: str) -> layout.Folded | None:
        """What was put for the adapter file with this sha256; a bad file is removed."""
        path = self.directory / digest
        limit = PREFIX.size + HEADER_MAX_BYTES + self._row * self._dtype.itemsize + VALUES_MAX_BYTES
        try:
            if not path.exists():
                return None
            return self._decode(beneath.read_file(path, limit, digest))
        except (errors.Error, OSError, ValueError, KeyError, TypeError, struct.error) as error:
            log.warning("removed the folded adapter %s: %s", digest, error)
            _remove(path)
            return None

    def put(self, digest: str, folded: layout.Folded) -> None:
        """Keeps a folded adapter, unless the disk is full or fails: then nothing is kept."""
        path = self.directory / digest
        temporary = path.with_name(f".{digest}.{os.getpid()}")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = _encode(folded)
            if _free_bytes(self.directory) < KEEP_FREE_BYTES + len(data):
                raise OSError(f"less than {KEEP_FREE_BYTES} bytes of the disk are free")
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as error:
            _remove(temporary)
            self._complain(error)

    def _decode(self, data: bytes) -> layout.Folded:
        magic, checksum, header_bytes = PREFIX.unpack_from(data)
        body = memoryview(data)[PREFIX.size :]
        if magic != MAGIC or zlib.crc32(body) != checksum:
            raise ValueError("its checksum does not hold")
        header = json.loads(bytes(body[:header_bytes]))
        head = header["head"] and adapter_file.Head(**header["head"])
        shapes = tuple((name, tuple(shape)) for name, shape in header["shapes"])
        kept = layout.shared(head, shapes)
        biases = torch.frombuffer(
            bytearray(body[header_bytes : -kept.size * 4 or None]), dtype=self._dtype
        )
        if len(biases) != self._row:
            raise ValueError(f"it has {len(biases)} biases; a row has {self._row}")
        values = np.frombuffer(body[len(body) - kept.size * 4 :], np.float32).copy()
        return layout.Folded(biases=biases, layout=kept, values=values)

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            log.warning("folded adapters are not kept in %s: %s", self.directory, error)
        self._has_complained = True


def _encode(folded: layout.Folded) -> bytes:
    head = folded.layout.head
    fields = head and {"kind": head.kind, "input": head.input, "problem": head.problem}
    header = json.dumps({"head": fields, "shapes": folded.layout.shapes}).encode()
    biases = folded.biases.contiguous().view(torch.uint8).numpy()
    body = b"".join((header, biases.tobytes(), folded.values.tobytes()))
    return PREFIX.pack(MAGIC, zlib.crc32(body), len(header)) + body


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error)
