"""The library is opened where it fits; else people read why not, and torch computes."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from bertd import errors
from bertd.kernels import native
from tests.kernels import libraries


@pytest.fixture(name="library", params=libraries.CAPS)
def _library(request: pytest.FixtureRequest) -> native.Library:
    return libraries.opened(request.param)


@pytest.mark.parametrize("cap", ["sse9", "AVX2", " "])
@pytest.mark.parametrize("ask", [native.open_library, native.reason])
def test_an_unknown_cap_is_refused(
    cap: str, ask: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt cap is named, with a library and without, never taken for the best kernels."""
    assert callable(ask)
    monkeypatch.setenv(native.VARIABLE, cap)
    for path in (native.PATH, tmp_path / "none.so"):
        with pytest.raises(errors.BadArtifact, match=f"must be one of .*, got '{cap}'") as refused:
            ask(path=path)
        assert refused.value.reason == "NoSuchKernels"


@pytest.mark.parametrize("cap", native.ISAS)
def test_a_cap_is_never_exceeded(cap: str) -> None:
    """A cap above what the processor has gives the best there is, never more than the cap."""
    library = native.open_library(cap)
    if library is None:
        pytest.skip(native.reason(cap))
    assert native.reason(cap) == ""
    assert native.ISAS.index(library.isa) >= native.ISAS.index(cap)


def test_eager_is_a_cap() -> None:
    """Whoever asks for torch gets it, and reads that it was asked for."""
    assert native.open_library("eager") is None
    assert native.reason("eager") == "BERTD_KERNELS=eager"


def test_no_library(tmp_path: Path) -> None:
    """Without a library torch computes, and the reason names the compiler."""
    assert native.open_library("auto", tmp_path / "none.so") is None
    assert "without a C++ compiler" in native.reason("auto", tmp_path / "none.so")


def test_what_is_no_library_is_not_opened(tmp_path: Path) -> None:
    """A cut file is told with what the system says of it."""
    path = tmp_path / "cut.so"
    path.write_bytes(b"\x7fELF")
    assert native.open_library("auto", path) is None
    assert "'cut.so' cannot be opened here: " in native.reason("auto", path)


def test_a_library_that_does_not_say_what_it_agrees_with_is_not_run() -> None:
    """One from before the question, or of somebody else, is as good as none."""
    path = Path(np._core._multiarray_umath.__file__)
    assert native.open_library("auto", path) is None
    assert "of another version of bertd" in native.reason("auto", path)


def test_a_library_of_other_structures_is_not_run(
    library: native.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale build is refused by its number, and by the size of a structure that grew."""

    class Grown(native._Batch):
        _fields_ = (("more", ctypes.c_int64),)

    assert native.reason() == ""
    for name, value in (("ABI", native.ABI + 1), ("_Batch", Grown)):
        with monkeypatch.context() as patch:
            patch.setattr(native, name, value)
            assert native.open_library() is None
            assert "of another version of bertd" in native.reason()
