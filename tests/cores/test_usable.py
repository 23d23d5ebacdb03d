"""Threads follow what the process may use, however the quota is written (checklist 97)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertd import cores


@pytest.fixture(autouse=True)
def _affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, whatever this machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def group(folder: Path, files: dict[str, str]) -> Path:
    """Control groups as files below `folder`."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def usable(folder: Path, own: str = "0::/\n") -> int:
    """What is usable under the groups in `folder` for a process in the groups `own`."""
    (folder / "own").write_text(own)
    return cores.usable(folder, folder / "own")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max 100000\n", 8),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("199999 100000\n", 1),
        ("250000 100000\n", 2),
        ("1600000 100000\n", 8),
        ("0 100000\n", 8),
        ("100000 0\n", 8),
        ("100000\n", 8),
        ("", 8),
        ("many 100000\n", 8),
        ("\x00\xff", 8),
    ],
)
def test_quotas_of_version_2(tmp_path: Path, text: str, wanted: int) -> None:
    """A quota is rounded down to whole cores but never to none; nonsense limits nothing."""
    assert usable(group(tmp_path, {"cpu.max": text})) == wanted


@pytest.mark.parametrize(
    ("quota", "period", "wanted"),
    [
        ("-1", "100000", 8),
        ("50000", "100000", 1),
        ("300000", "100000", 3),
        ("x", "100000", 8),
        ("300000", "0", 8),
        ("300000", None, 8),
    ],
)
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_quotas_of_version_1(
    tmp_path: Path, mount: str, quota: str, period: str | None, wanted: int
) -> None:
    """The same of two files of version 1, wherever the controller is mounted."""
    files = {f"{mount}/cpu.cfs_quota_us": quota}
    if period is not None:
        files[f"{mount}/cpu.cfs_period_us"] = period
    assert usable(group(tmp_path, files)) == wanted


def test_without_files_affinity_counts(tmp_path: Path) -> None:
    """A machine without control groups, or one that hides them, has the cores of its affinity."""
    assert cores.usable(tmp_path / "none", tmp_path / "neither") == 8
    assert usable(tmp_path, "") == 8
    assert usable(tmp_path, "nonsense\n:::\n7\n") == 8


def test_the_smallest_quota_around_a_process_counts(tmp_path: Path) -> None:
    """A nested group may have none of its own while one above it has; the smallest one wins."""
    files = {
        "a/b/cpu.max": "max 100000",
        "a/cpu.max": "300000 100000",
        "a/b/c/cpu.max": "500000 100000",
        "z/cpu.max": "100000 100000",
    }
    assert usable(group(tmp_path, files), "0::/a/b/c\n") == 3
    assert usable(tmp_path, "0::/a/b\n") == 3
    assert usable(tmp_path, "0::/\n") == 8


def test_nested_groups_of_version_1(tmp_path: Path) -> None:
    """The group of the controller `cpu` is read, not that of another one."""
    files = {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}
    group(tmp_path, files)
    assert usable(tmp_path, "4:memory:/m\n3:cpuacct,cpu:/a/b\n0::/\n") == 2
    assert usable(tmp_path, "4:memory:/a\n3:cpuset:/a\n1:cpu:/\n0::/\n") == 8


@pytest.mark.parametrize("path", ["/../../elsewhere", "/docker/not-mounted-here", "/" + "x/" * 500])
def test_a_group_that_is_not_mounted_here(tmp_path: Path, path: str) -> None:
    """Inside a container the path may be the host's: then the mount itself is the group."""
    assert usable(group(tmp_path, {"cpu.max": "200000 100000"}), f"0::{path}\n") == 2


def test_the_count_is_known_before_torch() -> None:
    """Counting cores imports neither torch nor numpy, so that thread counts can come first."""
    program = (
        "import sys; from bertd import cores; assert cores.usable() >= 1\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
