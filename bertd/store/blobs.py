"""Files copied once and named by their sha256: the only files that anything ever maps.

A source may be truncated, rewritten or unmounted at any time; a blob may not. Copying and hashing
are one pass over one descriptor, so what was hashed is what was written. A blob appears under its
name only when it is whole and on the disk.
"""

import errno
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from bertd import errors

CHUNK_BYTES: Final = 1024 * 1024
MAX_BLOB_BYTES: Final = 64 * 1024 * 1024 * 1024

WRITERS_MAX: Final = 16  # at once, of different small blobs

_INCOMING: Final = "incoming-"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The blobs of one directory, which is made if it is missing.

    Whatever an earlier process left half-copied is removed at construction, so only the owner of
    the state directory's lock may make one.

    Raises:
        errors.Temporary: the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._putting = [threading.Lock() for _ in range(WRITERS_MAX)]
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in directory.glob(f"{_INCOMING}*"):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            _refuse(error)

    def add(self, fd: int, expect: str | None = None, *, limit_bytes: int = MAX_BLOB_BYTES) -> str:
        """Copy an opened file, from its beginning, and return its hex sha256.

        Blocks for as long as the disks take. The descriptor stays open and its offset unmoved. A
        blob that exists already is kept.

        Raises:
            errors.BadArtifact: the content is not `expect` (reason `DigestMismatch`), or has over
                `limit_bytes` (`TooLarge`); nothing is kept.
            errors.Temporary: reason `DiskFull` or `DiskError`; nothing is kept.
        """
        temporary = ""
        try:
            out, temporary = tempfile.mkstemp(prefix=_INCOMING, dir=self._directory)
            with open(out, "wb") as file:
                digest = _copy(fd, file.fileno(), limit_bytes)
                _check(digest, expect)
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
            os.replace(temporary, self.path(digest))
            temporary = ""
            self._sync()
        except OSError as error:
            _refuse(error)
        finally:
            if temporary:
                with suppress(OSError):
                    os.unlink(temporary)
        return digest

    def put(self, data: bytes, digest: str) -> None:
        """Keep small content whose sha256 is `digest`, without waiting for the disk.

        Written in place: thousands of these come at once, and a rename would double what each
        costs. After a crash the file may be short or broken, so whoever reads it must prove its
        digest, and `remove` it where that fails.

        Raises:
            errors.Temporary: reason `DiskFull` or `DiskError`; nothing is kept.
        """
        target = self.path(digest)
        # Equal content has one writer: another would take its half for what a crash has left.
        with self._putting[int(digest, 16) % WRITERS_MAX]:
            try:
                _put(target, data)
            except OSError as error:
                _refuse(error)

    def remove(self, digest: str) -> None:
        """Remove a blob that is not what its name says.

        Raises:
            errors.Temporary: the disk failed.
        """
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            _refuse(error)

    def path(self, digest: str) -> Path:
        """Where the blob of this digest lies, or would lie.

        Raises:
            errors.Bug: it is no digest.
        """
        if not _DIGEST.fullmatch(digest):
            raise errors.Bug("a blob must be named by 64 hex digits")
        return self._directory / digest

    def sweep(self, keep: Collection[str]) -> int:
        """Remove every blob whose digest is not in `keep`; return how many went.

        A blob that a worker still maps stays readable to it until it lets go.

        Raises:
            errors.Temporary: the disk failed.
        """
        wanted = frozenset(keep)
        removed = 0
        try:
            for name in os.listdir(self._directory):
                if _DIGEST.fullmatch(name) and name not in wanted:
                    os.unlink(self._directory / name)
                    removed += 1
            self._sync()
        except OSError as error:
            _refuse(error)
        return removed

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _copy(source: int, target: int, limit_bytes: int) -> str:
    total = hashlib.sha256()
    at = 0
    while chunk := os.pread(source, CHUNK_BYTES, at):
        at += len(chunk)
        if at > limit_bytes:
            raise errors.BadArtifact(
                f"the file is over the limit of {limit_bytes} bytes", reason="TooLarge"
            )
        total.update(chunk)
        _write(target, chunk)
    return total.hexdigest()


def _put(target: Path, data: bytes) -> None:
    fd = _create(target, len(data))
    if fd is None:
        return
    try:
        _write(fd, data)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _create(target: Path, size: int) -> int | None:
    """A new file; None where a whole one is there already."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(target, flags, 0o444)
    except FileExistsError:
        if os.stat(target).st_size == size:
            return None
        target.unlink(missing_ok=True)
        return os.open(target, flags, 0o444)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _check(digest: str, expect: str | None) -> None:
    if expect is not None and digest != expect:
        raise errors.BadArtifact(
            f"the file has the digest sha256:{digest}, but sha256:{expect} is declared",
            reason="DigestMismatch",
        )


def _refuse(error: OSError) -> NoReturn:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    raise errors.Temporary(
        f"a file could not be copied into the state directory: {error.strerror}",
        reason="DiskFull" if full else "DiskError",
        hint="free some space on the disk that holds the state directory" if full else "",
    ) from error
