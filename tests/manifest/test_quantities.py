"""Durations and sizes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.manifest import quantities


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("0ms", 0.0, "0ms"),
        ("0s", 0.0, "0ms"),
        ("500ms", 0.5, "500ms"),
        ("0.5s", 0.5, "500ms"),
        ("1.5ms", 0.0015, "1500us"),
        ("60s", 60.0, "1m"),
        ("90s", 90.0, "90s"),
        ("10m", 600.0, "10m"),
        ("1h", 3600.0, "1h"),
        ("007us", 0.000007, "7us"),
    ],
)
def test_durations_read_and_print(text: str, seconds: float, printed: str) -> None:
    """A duration is one number and a unit, printed in the largest unit that is exact."""
    assert quantities.parse_duration(text) == seconds
    assert quantities.print_duration(seconds) == printed


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        ("0B", 0, "0B"),
        ("512MiB", 2**29, "512MiB"),
        ("1GiB", 2**30, "1GiB"),
        ("1024MiB", 2**30, "1GiB"),
        ("1.5GiB", 3 * 2**29, "1536MiB"),
        ("1MB", 10**6, "1MB"),
        ("1500KB", 1_500_000, "1500KB"),
        ("1025B", 1025, "1025B"),
    ],
)
def test_sizes_read_and_print(text: str, size: int, printed: str) -> None:
    """A size is one number and a unit, printed in the largest unit that is exact."""
    assert quantities.parse_size(text) == size
    assert quantities.print_size(size) == printed


@pytest.mark.parametrize(
    "text",
    ["", "5", "ms", "-5ms", "+5ms", "5 ms", "5MS", "5sec", "1h30m", ".5s", "5.s", "1e3s", "٣s",
     "5ms\n", "0.5us", "1.0000001s", "9" * 16 + "s"],
)  # fmt: skip
def test_other_durations_are_refused(text: str) -> None:
    """Signs, spaces, other units, and fractions of a microsecond are refused with the units."""
    with pytest.raises(ValueError, match=r"must be a duration in whole microseconds.*'us'.*'h'"):
        quantities.parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "5Mi", "5mb", "0.5B", "1.1KiB", "-1B", "1 GiB", "1PiB"])
def test_other_sizes_are_refused(text: str) -> None:
    """Signs, spaces, other units, and fractions of a byte are refused with the units."""
    with pytest.raises(ValueError, match=r"must be a size in whole bytes.*'B'.*'TiB'"):
        quantities.parse_size(text)


@given(st.integers(0, 10**15))
def test_every_duration_reads_back(duration_us: int) -> None:
    """What is printed reads back as the same duration, and matches the schema's pattern."""
    printed = quantities.print_duration(duration_us / quantities.US_PER_S)
    assert re.search(quantities.DURATION_PATTERN, printed)
    assert round(quantities.parse_duration(printed) * quantities.US_PER_S) == duration_us


@given(st.integers(0, 10**15 - 1))
def test_every_size_reads_back(size: int) -> None:
    """What is printed reads back as the same size, and matches the schema's pattern."""
    printed = quantities.print_size(size)
    assert re.search(quantities.SIZE_PATTERN, printed)
    assert quantities.parse_size(printed) == size
