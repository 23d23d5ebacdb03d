"""A locked process can compute and answer; everything else fails."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from bertd.interchange import sandbox

PROBE = """
import ctypes, errno, json, mmap, os, socket, sys, threading, _thread
from bertd.interchange import sandbox

libc = ctypes.CDLL(None, use_errno=True)
own, other = socket.socketpair()
target = sys.argv[1]
started = []

def refused(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    except (RuntimeError, MemoryError) as error:
        return type(error).__name__
    return "allowed"

def call(number, *arguments):
    def action():
        if libc.syscall(ctypes.c_long(number), *arguments) < 0:
            raise OSError(ctypes.get_errno(), "")
    return action

probes = {
    "socket": lambda: socket.socket(),
    "send on an open socket": lambda: own.send(b"x"),
    "write to an open socket": lambda: os.write(own.fileno(), b"x"),
    "read a file": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "write a file": lambda: os.open(target, os.O_WRONLY | os.O_CREAT),
    "write to the file on standard input": lambda: os.write(0, b"x"),
    "make a directory": lambda: os.mkdir(target),
    "unlink": lambda: os.unlink(sys.argv[0]),
    "list a directory": lambda: os.listdir("/"),
    "execute": lambda: os.execv(sys.executable, [sys.executable]),
    "fork": lambda: os.fork() or os._exit(0),
    "thread": lambda: _thread.start_new_thread(started.append, (1,)),
    "memory file": lambda: os.memfd_create("x"),
    "kill": lambda: os.kill(os.getppid(), 0),
    "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "more memory than allowed": lambda: bytearray(256 * 1024 * 1024),
    "unshare": call(272, 0x10000000),
    "raise a limit": call(302, 0, 9, 0, 0),
}
sandbox.lock(memory_bytes=64 * 1024 * 1024, cpu_s=10)
found = {name: refused(probe) for name, probe in probes.items()}
found["some memory"] = refused(lambda: bytearray(8 * 1024 * 1024))
os.write(1, json.dumps(found).encode())
os._exit(0)
"""
ALLOWED = {"some memory": "allowed"}
OTHERWISE = {
    "thread": "RuntimeError",
    "more memory than allowed": "MemoryError",
    "write to the file on standard input": "EFBIG",
}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a locked process could do."""
    folder = tmp_path_factory.mktemp("probe")
    with open(folder / "held", "w+b") as held:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(folder / "made")],
            stdin=held,
            stdout=subprocess.PIPE,
            check=True,
        )
    assert not (folder / "made").exists()
    assert (folder / "held").read_bytes() == b""
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_locked_process_can_do_nothing_but_compute(probed: dict[str, str]) -> None:
    """Sockets, files, programs, processes, threads and executable memory are all denied (B3)."""
    assert len(probed) == 19
    assert probed == {name: (ALLOWED | OTHERWISE).get(name, "EPERM") for name in probed}


def test_a_locked_process_runs_out_of_time() -> None:
    """Processor time is bounded by the kernel, not by the good will of the process."""
    program = (
        "from bertd.interchange import sandbox\n"
        "sandbox.lock(memory_bytes=64 * 1024 * 1024, cpu_s=0)\n"
        "while True: pass"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    assert -done.returncode in (signal.SIGXCPU, signal.SIGKILL)


def test_without_a_filter_nothing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without a list of calls is refused before anything is limited."""
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    with pytest.raises(sandbox.Unavailable, match="'riscv64'"):
        sandbox.lock(memory_bytes=0, cpu_s=0)


@pytest.mark.parametrize("name", sorted(sandbox.MACHINES))
def test_every_machine_allows_the_same_calls(name: str) -> None:
    """No processor's list grants more than the other's, and every filter fits the kernel."""
    machine: Any = sandbox.MACHINES[name]
    assert set(machine.allowed) == set(sandbox.MACHINES["x86_64"].allowed)
    code = sandbox.program(machine)
    assert len(code) % 8 == 0
    assert len(code) // 8 <= 4096
    assert len(set(machine.allowed.values())) == len(machine.allowed)
