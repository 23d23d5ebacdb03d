"""The native kernels of every instruction set that this processor has."""

import pytest

from bertd.kernels import native

CAPS = tuple(reversed(native.ISAS))


def opened(cap: str) -> native.Library:
    """The library at exactly `cap`; skips the test where it, or the processor's part, is absent."""
    library = native.open_library(cap)
    if library is None:
        pytest.skip(native.reason(cap))
    if library.isa != cap:
        pytest.skip(f"this processor has no {cap}")
    return library
