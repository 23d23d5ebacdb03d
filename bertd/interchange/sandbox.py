"""A process that can compute, read what it holds open, and answer: nothing else.

`lock` is for good. It bounds memory, processor time and files by resource limits, gives up all
privileges that a new program could bring, and installs a seccomp filter of system calls that may
be made. Whatever is not listed fails with EPERM: opening any file, sockets, new processes and
threads, new programs, and writing to anything but standard output. Memory that is mapped from then
on is never executable.

Where the kernel or the processor has no such filter, `lock` fails, and the caller must not go on.
Sources: seccomp(2); Documentation/userspace-api/seccomp_filter.rst of Linux.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1
_PROT_EXEC: Final = 0x4
_NOT_OUTPUT: Final = 0xFFFF_FFFE  # a descriptor over 1 has one of these bits

# of a BPF program: load a word, jump if equal, jump if any bit is set, return
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_SET: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_MACHINE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_KILL: Final = 0x8000_0000
_REFUSE: Final = 0x0005_0000 | errno.EPERM
_ALLOW: Final = 0x7FFF_0000


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor's number for the kernel, that of seccomp(2), and those of the calls to allow."""

    audit: int
    seccomp: int
    allowed: Mapping[str, int]


# call -> argument, and the bits that must not be set in it
_FORBIDDEN_BITS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "write": (0, _NOT_OUTPUT),
        "writev": (0, _NOT_OUTPUT),
        "mmap": (2, _PROT_EXEC),
        "mprotect": (2, _PROT_EXEC),
    }
)
_X86_64: Final = {
    "read": 0,
    "write": 1,
    "close": 3,
    "fstat": 5,
    "lseek": 8,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pread64": 17,
    "writev": 20,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "getpid": 39,
    "exit": 60,
    "gettid": 186,
    "futex": 202,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "exit_group": 231,
    "getrandom": 318,
}
_AARCH64: Final = {
    "read": 63,
    "write": 64,
    "close": 57,
    "fstat": 80,
    "lseek": 62,
    "mmap": 222,
    "mprotect": 226,
    "munmap": 215,
    "brk": 214,
    "rt_sigaction": 134,
    "rt_sigprocmask": 135,
    "rt_sigreturn": 139,
    "pread64": 67,
    "writev": 66,
    "sched_yield": 124,
    "mremap": 216,
    "madvise": 233,
    "getpid": 172,
    "exit": 93,
    "gettid": 178,
    "futex": 98,
    "restart_syscall": 128,
    "clock_gettime": 113,
    "exit_group": 94,
    "getrandom": 278,
}
MACHINES: Final[Mapping[str, Machine]] = MappingProxyType(
    {
        "x86_64": Machine(0xC000_003E, 317, _X86_64),
        "aarch64": Machine(0xC000_00B7, 277, _AARCH64),
    }
)


class Unavailable(Exception):
    """This system cannot lock a process up."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def lock(*, memory_bytes: int, cpu_s: int) -> None:
    """Lock this process and all its threads up for good; it may map `memory_bytes` more.

    Raises:
        Unavailable: the kernel or the processor has no filter for system calls.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise Unavailable(f"no list of system calls for the processor '{platform.machine()}'")
    _limit(memory_bytes, cpu_s)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        raise Unavailable("the kernel refuses to give up privileges")
    code = program(machine)
    filter_ = _Program(len(code) // 8, code)
    arguments = (_SET_MODE_FILTER, _FLAG_TSYNC)
    if libc.syscall(
        ctypes.c_long(machine.seccomp), *map(ctypes.c_ulong, arguments), ctypes.byref(filter_)
    ):
        raise Unavailable(f"the kernel refuses a filter: {os.strerror(ctypes.get_errno())}")


def program(machine: Machine) -> bytes:
    """The filter: kill on a foreign calling convention, allow what is listed, refuse the rest."""
    steps = [
        _step(_LOAD, _MACHINE_AT),
        _step(_JUMP_EQUAL, machine.audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    for name, number in machine.allowed.items():
        if name in _FORBIDDEN_BITS:
            argument, bits = _FORBIDDEN_BITS[name]
            steps += [
                _step(_JUMP_EQUAL, number, 0, 4),
                _step(_LOAD, _ARGUMENTS_AT + 8 * argument),
                _step(_JUMP_SET, bits, 0, 1),
                _step(_RETURN, _REFUSE),
                _step(_RETURN, _ALLOW),
            ]
        else:
            steps += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    return b"".join((*steps, _step(_RETURN, _REFUSE)))


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _limit(memory_bytes: int, cpu_s: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    for kind, most in (
        (resource.RLIMIT_AS, mapped + memory_bytes),
        (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bounded = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bounded, bounded))
