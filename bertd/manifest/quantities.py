"""Durations and sizes: one number and one unit, read exactly and printed back the same way.

`500ms` and `0.5s` are the same duration, printed `500ms`: the largest unit that leaves a whole
number. Arithmetic is decimal, so what is printed always reads back as what was meant.
"""

import decimal
import re

DURATION_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
SIZE_UNITS_BYTES = {
    "B": 1,
    "KB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "MiB": 2**20,
    "GB": 10**9,
    "GiB": 2**30,
    "TB": 10**12,
    "TiB": 2**40,
}
NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,6})?"
DURATION_PATTERN = rf"^{NUMBER}(?:us|ms|s|m|h)$"
SIZE_PATTERN = rf"^{NUMBER}(?:B|[KMGT]i?B)$"
US_PER_S = 1_000_000


def parse_duration(text: str) -> float:
    """Seconds of a text such as `500ms`; ValueError says what a duration must look like."""
    duration_us = _parse(text, DURATION_PATTERN, DURATION_UNITS_US)
    if duration_us is None:
        units = _quoted(DURATION_UNITS_US)
        raise ValueError(f"must be a duration in whole microseconds: a number and {units}")
    return duration_us / US_PER_S


def print_duration(duration_s: float) -> str:
    """The shortest exact text, to the microsecond; `parse_duration` reads it back."""
    duration_us = round(duration_s * US_PER_S)
    return "0ms" if duration_us == 0 else _print(duration_us, DURATION_UNITS_US)


def parse_size(text: str) -> int:
    """Bytes of a text such as `512MiB`; ValueError says what a size must look like."""
    size_bytes = _parse(text, SIZE_PATTERN, SIZE_UNITS_BYTES)
    if size_bytes is None:
        units = _quoted(SIZE_UNITS_BYTES)
        raise ValueError(f"must be a size in whole bytes: a number and {units}")
    return size_bytes


def print_size(size_bytes: int) -> str:
    """The shortest exact text, binary units before decimal ones; `parse_size` reads it back."""
    return "0B" if size_bytes == 0 else _print(size_bytes, SIZE_UNITS_BYTES)


def _parse(text: str, pattern: str, units: dict[str, int]) -> int | None:
    if not re.fullmatch(pattern, text):
        return None
    number = text.rstrip("".join(units))
    whole = decimal.Decimal(number) * units[text[len(number) :]]
    return int(whole) if whole == whole.to_integral_value() else None


def _print(amount: int, units: dict[str, int]) -> str:
    """The unit with the smallest whole count; of two equal counts the larger unit."""
    exact = [(amount // size, -size, unit) for unit, size in units.items() if amount % size == 0]
    count, _, unit = min(exact)
    return f"{count}{unit}"


def _quoted(units: dict[str, int]) -> str:
    names = [f"'{unit}'" for unit in units]
    return f"{', '.join(names[:-1])} or {names[-1]}"
