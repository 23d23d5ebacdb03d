"""One owner per state directory."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bertd import errors
from bertd.store import lock

HOLDER = """
import signal, sys
from pathlib import Path
from bertd.store import lock
held = lock.StateLock(Path(sys.argv[1]))
print("held", flush=True)
signal.pause()
"""


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """Starting twice on one state directory fails, naming it and the owner (checklist 82)."""
    state = tmp_path / "state"
    with lock.StateLock(state):
        with pytest.raises(errors.Conflict) as caught:
            lock.StateLock(state)
        assert f"'{state}'" in caught.value.message
        assert f"(pid {os.getpid()})" in caught.value.message
        assert "--state-dir" in caught.value.hint
    lock.StateLock(state).release()


def test_another_process_is_named_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    """A daemon in another process holds the lock until it is killed, and no longer.

    (checklist 82)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(errors.Conflict, match=rf"\(pid {holder.pid}\)"):
            lock.StateLock(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    lock.StateLock(tmp_path).release()


def test_the_directory_is_made_private(tmp_path: Path) -> None:
    """A missing state directory is made for its owner alone."""
    with lock.StateLock(tmp_path / "a" / "b"):
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    """A process that the daemon started does not keep the directory after the daemon ends."""
    held = lock.StateLock(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False):
        held.release()
        lock.StateLock(tmp_path).release()


def test_releasing_twice_is_harmless(tmp_path: Path) -> None:
    """A second release closes nothing that is not the lock's."""
    held = lock.StateLock(tmp_path)
    held.release()
    fd = os.open(tmp_path, os.O_RDONLY)
    held.release()
    os.fstat(fd)
    os.close(fd)


def test_a_place_that_cannot_be_a_directory_is_temporary(tmp_path: Path) -> None:
    """A state directory beneath a file is refused by name."""
    (tmp_path / "file").touch()
    with pytest.raises(errors.Temporary, match="cannot be used"):
        lock.StateLock(tmp_path / "file" / "state")
