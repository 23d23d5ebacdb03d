"""What the numbers were measured on."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def describe(threads: int, peaks: Mapping[str, float]) -> dict[str, Any]:
    """The hardware, and its measured peaks in operations per second."""
    flags = set(_field("flags").split() or _field("Features").split())
    return {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "features": [feature for feature in FEATURES if feature in flags],
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "peak_operations_per_second": dict(peaks),
    }


def cpu() -> str:
    """The processor's name."""
    return _field("model name") or platform.processor()


def cpu_seconds(process: int) -> float:
    """Processor time that a process has used."""
    fields = _stat(process)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def state(process: int) -> str:
    """What a process does, in the kernel's letter: R runs, S sleeps, T is stopped."""
    return _stat(process)[0]


def resident_bytes(process: int) -> int:
    """What a process occupies in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_BYTES


def _stat(process: int) -> list[str]:
    """The fields behind the process's name."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _field(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""
