"""How much memory this process and its workers may use: the cgroup's limit, not the host's size."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# Limit, use, and the file whose entry says how much of it the kernel takes back by itself.
FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
# From this share of the limit on, new work is refused: better than to be killed with all of it.
HIGH_SHARE = 0.95
SAMPLE_S = 0.1
ADAPTERS_SHARE = 4  # adapters of one Model take at most this part of it, unless it says otherwise


def usable_bytes(cgroup: Path = CGROUP) -> int:
    """The least of physical memory and the limits of cgroup v2 and v1."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes")
    return min(physical, *(_limit(path, physical) for path in limits))


def default_adapter_bytes() -> int:
    """What the adapters of a Model may take that does not declare `adapterMemory`."""
    return usable_bytes() // ADAPTERS_SHARE


class Pressure:
    """Whether the cgroup is about to run out of memory; looks at most ten times a second.

    Pages of files that nobody has touched lately do not count: the kernel drops them first.

    Args:
        cgroup: where control groups are mounted.
        clock: monotonic seconds.
    """

    def __init__(self, cgroup: Path = CGROUP, clock: Callable[[], float] = time.monotonic) -> None:
        self._cgroup = cgroup
        self._clock = clock
        self._look_at_s = -1.0
        self._is_high = False

    def __call__(self) -> bool:
        """True from `HIGH_SHARE` of the limit on; False where nothing limits it."""
        now_s = self._clock()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + SAMPLE_S
            self._is_high = used_share(self._cgroup) >= HIGH_SHARE
        return self._is_high


def used_share(cgroup: Path = CGROUP) -> float:
    """The share of its limit that the cgroup, version 2 or 1, uses; 0 where there is none."""
    shares = [0.0]
    for limit_name, used_name, stat_name, reclaimable in FILES:
        limit_bytes = _limit(cgroup / limit_name, 0)
        if limit_bytes > 0:
            used_bytes = _limit(cgroup / used_name, 0) - _entry(cgroup / stat_name, reclaimable)
            shares.append(used_bytes / limit_bytes)
    return max(shares)


def _entry(path: Path, name: str) -> int:
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(found[1]) if found else 0


def _limit(path: Path, otherwise: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return otherwise
