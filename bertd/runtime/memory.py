"""How much memory this process and its workers may use: the cgroup's limit, not the host's size."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
ADAPTERS_SHARE = 4  # adapters of one Model take at most this part of it, unless it says otherwise


def usable_bytes(cgroup: Path = CGROUP) -> int:
    """The least of physical memory and the limits of cgroup v2 and v1."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes")
    return min(physical, *(_limit(path, physical) for path in limits))


def default_adapter_bytes() -> int:
    """What the adapters of a Model may take that does not declare `adapterMemory`."""
    return usable_bytes() // ADAPTERS_SHARE


def _limit(path: Path, otherwise: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return otherwise
