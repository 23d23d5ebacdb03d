"""Opening regular files beneath a directory that no name and no symlink can leave.

`openat2` resolves a path inside the kernel and fails if any step would leave the root, so there is
no moment between a check and an open in which a name could be swapped. What comes out is a
descriptor: whoever reads it reads what was checked.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

from bertd import errors, families

MAX_LOOKUPS: Final = 100

# openat2(2), Linux 5.6: the same number on every architecture.
_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
# Without O_NONBLOCK a FIFO would hold the daemon; without O_NOCTTY a terminal would own it.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a directory",
        stat.S_IFSOCK: "a socket",
    }
)
# errno -> what is wrong, reason, hint; every other number is the disk's fault
_REFUSALS: Final[Mapping[int, tuple[str, str, str]]] = MappingProxyType(
    {
        code: refusal
        for codes, refusal in (
            (
                (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG),
                ("does not exist, or is not a directory", "SourceNotFound", ""),
            ),
            (
                (errno.EXDEV, errno.ELOOP),
                (
                    "is a link that leaves its directory",
                    "UnsafePath",
                    "copy the file itself there; name a downloaded repository as hub://",
                ),
            ),
            (
                (errno.ENXIO, errno.ENODEV),
                ("must be a regular file, but it is a socket or a device", "NotAFile", ""),
            ),
            (
                (errno.EISDIR,),
                ("must be a regular file, but it is a directory", "NotAFile", ""),
            ),
            (
                (errno.EACCES, errno.EPERM),
                ("may not be read by this user", "Unreadable", "change its owner or its mode"),
            ),
            (
                (errno.ENOSYS,),
                ("needs openat2, which this kernel lacks", "Unsupported", "run Linux 5.6 or later"),
            ),
        )
        for code in codes
    }
)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """An opened directory; `text` is what the user called it."""

    text: str
    fd: int

    def find(self, name: str, limit_bytes: int) -> int | None:
        """Open the regular file `name` of at most `limit_bytes`; None where none exists.

        Raises:
            errors.BadArtifact: reason `UnsafePath`, `NotAFile`, `TooLarge` or `Unreadable`.
            errors.Temporary: the disk failed.
        """
        try:
            fd = _openat2(self.fd, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            refuse(error, f"'{name}' of {families.quote(self.text)}")
        try:
            self._check(fd, name, limit_bytes)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open(self, name: str, limit_bytes: int, *, hint: str = "") -> int:
        """As `find`, but a missing file is an error with reason `MissingFile`."""
        fd = self.find(name, limit_bytes)
        if fd is None:
            where = families.quote(self.text)
            is_itself = self.text.endswith(f"/{name}")
            message = f"{where} does not exist" if is_itself else f"{where} has no '{name}'"
            raise errors.BadArtifact(message, reason="MissingFile", hint=hint)
        return fd

    def _check(self, fd: int, name: str, limit_bytes: int) -> None:
        status = os.fstat(fd)
        where = f"'{name}' of {families.quote(self.text)}"
        _check_kind(status.st_mode, where)
        if status.st_size > limit_bytes:
            raise errors.BadArtifact(
                f"{where} has {status.st_size} bytes; the limit is {limit_bytes}",
                reason="TooLarge",
            )


def _check_kind(mode: int, what: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise errors.BadArtifact(
            f"{what} must be a regular file, but it is {kind}", reason="NotAFile"
        )


@contextmanager
def root(directory: Path, text: str) -> Iterator[Root]:
    """Open a directory as a root for the length of a with block.

    Raises:
        errors.BadArtifact: reason `SourceNotFound` or `Unreadable`.
        errors.Temporary: the disk failed.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        refuse(error, families.quote(text))
    try:
        yield Root(text=text, fd=fd)
    finally:
        os.close(fd)


def read_file(path: Path, limit_bytes: int, what: str) -> bytes:
    """The bytes of a file of at most `limit_bytes`, for paths that need no root. Never waits.

    Raises:
        errors.BadArtifact: reason `TooLarge`, `SourceNotFound`, `NotAFile` or `Unreadable`.
        errors.Temporary: the disk failed.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        refuse(error, what)
    try:
        _check_kind(os.fstat(fd).st_mode, what)  # a FIFO would look like an empty file
        return read_opened(fd, limit_bytes, what)
    finally:
        os.close(fd)


def read_opened(fd: int, limit_bytes: int, what: str) -> bytes:
    """As `read_file`, of an opened file that nobody has read from."""
    parts: list[bytes] = []
    try:
        # No more than there is: the reader would first make room for all that it may return.
        wanted = min(limit_bytes, os.fstat(fd).st_size) + 1
        while wanted and (part := os.read(fd, wanted)):
            parts.append(part)
            wanted -= len(part)
    except OSError as error:
        refuse(error, what)
    data = b"".join(parts)
    if len(data) > limit_bytes:
        raise errors.BadArtifact(
            f"{what} is over the limit of {limit_bytes} bytes", reason="TooLarge"
        )
    return data


def refuse(error: OSError, where: str) -> NoReturn:
    """Raise the error of `bertd.errors` that an OSError about `where` amounts to."""
    known = _REFUSALS.get(error.errno or 0)
    if known is None:
        raise errors.Temporary(
            f"{where} could not be read: {error.strerror}", reason="DiskError"
        ) from error
    why, reason, hint = known
    raise errors.BadArtifact(f"{where} {why}", reason=reason, hint=hint) from error


def _openat2(directory: int, name: str) -> int:
    how = _OpenHow(_FLAGS, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    code = 0
    # The kernel says EAGAIN when a rename anywhere crossed its lookup of a "..".
    for _ in range(MAX_LOOKUPS):
        fd: int = libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(os.fsencode(name)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code))
