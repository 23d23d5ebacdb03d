"""How many cores this process may really use: affinity and cgroup quotas, not what the host has.

Free of torch, so that thread counts can be set before torch is imported: a team of OpenMP threads
larger than the quota spins away the time of all of them.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# Where the controller `cpu` is mounted beneath CGROUP: version 2 alone, or beside version 1.
_MOUNTS_V2 = (".", "unified")
_MOUNTS_V1 = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
_MAX_DEPTH_GROUPS = 64


def usable(cgroup: Path = CGROUP, own_groups: Path = OWN_GROUPS) -> int:
    """Cores for computing: max(1, min(floor(quota), affinity)).

    The quota is the smallest of the process's own group and all groups around it, version 1 or 2.
    A group whose files are absent or unreadable limits nothing: inside a container the groups
    around it are usually invisible.

    Args:
        cgroup: where control groups are mounted.
        own_groups: the file that names this process's groups.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = min(_quotas(cgroup, _own(own_groups)), default=math.inf)
    return max(1, affinity if quota >= affinity else math.floor(quota))


def _own(own_groups: Path) -> tuple[str, str]:
    """The process's group of version 2 and its `cpu` group of version 1; "/" where unknown."""
    second = first = "/"
    try:
        lines = own_groups.read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            second = path
        elif "cpu" in controllers.split(","):
            first = path
    return second, first


def _quotas(cgroup: Path, own: tuple[str, str]) -> Iterator[float]:
    for mount in _MOUNTS_V2:
        for group in _around(own[0]):
            if quota := _quota_v2(cgroup / mount / group / "cpu.max"):
                yield quota
    for mount in _MOUNTS_V1:
        for group in _around(own[1]):
            if quota := _quota_v1(cgroup / mount / group):
                yield quota


def _around(path: str) -> Iterator[PurePosixPath]:
    """A group and those around it, relative to the mount, the mount itself last.

    A path with `..` leads out of what is mounted here: then only the mount is known.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = []
    for depth in range(min(len(parts), _MAX_DEPTH_GROUPS), -1, -1):
        yield PurePosixPath(*parts[:depth])


def _quota_v2(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else _positive(int(quota), int(period))
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return _positive(quota, period)


def _positive(quota_us: int, period_us: int) -> float | None:
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
