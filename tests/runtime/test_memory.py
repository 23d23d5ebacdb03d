"""New work is refused before the kernel kills a process for want of memory."""

from pathlib import Path

import pytest

from bertd.runtime import memory
from tests.runtime import fakes

LIMIT = 1_000_000


def version_2(root: Path, used: int, inactive: int = 0, limit: str = str(LIMIT)) -> Path:
    """A cgroup of version 2."""
    (root / "memory.max").write_text(f"{limit}\n")
    (root / "memory.current").write_text(f"{used}\n")
    (root / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")
    return root


def version_1(root: Path, used: int, inactive: int = 0) -> Path:
    """A cgroup of version 1."""
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text(f"{LIMIT}\n")
    (root / "memory" / "memory.usage_in_bytes").write_text(f"{used}\n")
    (root / "memory" / "memory.stat").write_text(
        f"inactive_file 1\ntotal_inactive_file {inactive}\n"
    )
    return root


@pytest.mark.parametrize("make", [version_1, version_2])
@pytest.mark.parametrize(("used", "is_high"), [(949_999, False), (950_000, True)])
def test_work_is_refused_from_95_percent_on(make, used, is_high, tmp_path) -> None:
    """At 95 % of the cgroup's limit memory is short, in both versions (checklist 69)."""
    assert memory.Pressure(make(tmp_path, used))() is is_high


@pytest.mark.parametrize("make", [version_1, version_2])
def test_cached_files_do_not_count(make, tmp_path) -> None:
    """What the kernel takes back by itself is not what it kills for."""
    assert not memory.Pressure(make(tmp_path, LIMIT, inactive=60_000))()


@pytest.mark.parametrize("text", ["max", "", "nonsense", "-1", "0"])
def test_without_a_limit_nothing_is_refused(text, tmp_path) -> None:
    """No limit, or one that cannot be read, refuses nothing."""
    assert not memory.Pressure(version_2(tmp_path, 10**15, limit=text))()


def test_without_files_nothing_is_refused(tmp_path) -> None:
    """Outside of any cgroup nothing is refused."""
    assert not memory.Pressure(tmp_path)()


def test_it_looks_ten_times_a_second_at_most(tmp_path) -> None:
    """Between two looks the last one counts, so that a call costs no reading of files."""
    clock = fakes.Clock()
    short = memory.Pressure(version_2(tmp_path, LIMIT), clock)
    assert short()
    version_2(tmp_path, 0)
    assert short()
    clock.now_s += memory.SAMPLE_S
    assert not short()
