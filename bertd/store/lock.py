"""One daemon per state directory, enforced by the kernel."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, Self

from bertd import errors

LOCK_NAME: Final = "lock"
MAX_OWNER_BYTES: Final = 32


class StateLock:
    """Holds a state directory from construction until `release` or the end of the process.

    The directory is made (mode 0700) if it is missing. The kernel drops the lock with the process
    that holds it, however that ends, so a stale lock cannot exist.

    Raises:
        errors.Conflict: another process holds the directory; names both.
        errors.Temporary: the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(directory, error) from error
        try:
            self._take(directory)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Give the directory up. Doing so twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, directory: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode("ascii"), 0)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _unusable(directory, error) from error
            owner = os.pread(self._fd, MAX_OWNER_BYTES, 0).decode("ascii", "replace") or "unknown"
            raise errors.Conflict(
                f"the state directory '{directory}' is in use by another daemon (pid {owner})",
                hint="stop that daemon, or choose another --state-dir",
            ) from error


def _unusable(directory: Path, error: OSError) -> errors.Temporary:
    return errors.Temporary(
        f"the state directory '{directory}' cannot be used: {error.strerror}", reason="DiskError"
    )
