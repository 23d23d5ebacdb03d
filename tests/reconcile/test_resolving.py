"""What was read of a source is remembered exactly as long as that is true."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bertd import errors
from bertd.checkpoint import adapter_file, files
from bertd.reconcile import declarations, resolving
from bertd.store import blobs, objects
from tests import inline_adapters

LATER_NS = 2 * resolving.HALF_NS


class Bench:
    """A resolver, a base, and an adapter file whose reads are counted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base: files.Base = inline_adapters.base(folder / "base")
        self.resolver = resolving.Resolver(blobs.Blobs(folder / "blobs"))
        self.path = folder / "a.safetensors"
        self.path.write_bytes(inline_adapters.adapter(self.base))
        self.reads = 0
        self.now_ns = time.time_ns() + LATER_NS
        prove = adapter_file.prove

        def counted(*args: Any, **options: Any) -> adapter_file.AdapterInfo:
            self.reads += 1
            return prove(*args, **options)

        monkeypatch.setattr(adapter_file, "prove", counted)
        monkeypatch.setattr(resolving.time, "time_ns", lambda: self.now_ns)

    def look(self) -> resolving.Adapter | errors.Error:
        """One look at the file."""
        return self.resolver.adapter(str(self.path), self.base)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A file that was written a while ago."""
    return Bench(tmp_path, monkeypatch)


def test_half_a_file_is_tried_again_while_it_may_grow(bench: Bench) -> None:
    """A file that is being copied is no verdict yet; one that stays broken is."""
    whole = bench.path.read_bytes()
    bench.path.write_bytes(whole[: len(whole) // 2])
    bench.now_ns -= LATER_NS
    half = bench.look()
    assert isinstance(half, errors.Temporary)
    assert "written" in half.hint
    bench.path.write_bytes(whole)
    assert isinstance(bench.look(), resolving.Adapter)
    bench.path.write_bytes(whole[: len(whole) // 2])
    bench.now_ns += LATER_NS
    assert isinstance(bench.look(), errors.BadArtifact)


def test_an_unchanged_file_is_read_once(bench: Bench) -> None:
    """A second look costs a stat; changed content is read again."""
    first = bench.look()
    assert bench.look() is first
    assert bench.reads == 1
    bench.path.write_bytes(inline_adapters.adapter(bench.base, seed=1))
    second = bench.look()
    assert isinstance(first, resolving.Adapter)
    assert isinstance(second, resolving.Adapter)
    assert second.digest != first.digest


def test_a_file_that_was_read_while_it_was_young_is_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Age counts from before the read: a slow one must not hide a second write of that moment."""
    prove = adapter_file.prove
    bench.now_ns = bench.path.stat().st_ctime_ns + 1

    def slowly(*args: Any, **options: Any) -> adapter_file.AdapterInfo:
        bench.now_ns += LATER_NS
        return prove(*args, **options)

    monkeypatch.setattr(adapter_file, "prove", slowly)
    bench.look()
    bench.look()
    assert bench.reads == 2


def test_a_broken_blob_is_made_anew(bench: Bench) -> None:
    """What was forgotten is read and stored again at the next look."""
    found = bench.look()
    assert isinstance(found, resolving.Adapter)
    blob = bench.resolver.path(found.digest)
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(whole)))
    bench.resolver.forget({found.digest})
    assert not blob.exists()
    bench.look()
    assert blob.read_bytes() == whole


def test_one_model_forgets_while_another_reads(bench: Bench) -> None:
    """Files are forgotten and swept while other threads remember new ones."""
    found = bench.look()
    assert isinstance(found, resolving.Adapter)
    resolver, seen = bench.resolver, bench.resolver._adapters[str(bench.path)]
    stop = threading.Event()

    def remember() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            resolver._remember(resolver._adapters, f"/{number}", seen)

    interval = sys.getswitchinterval()
    reader = threading.Thread(target=remember)
    sys.setswitchinterval(1e-5)
    reader.start()
    try:
        for _ in range(20):
            resolver.forget({"0" * 64})
            resolver.sweep({found.digest})
    finally:
        stop.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert isinstance(bench.look(), resolving.Adapter)


def test_looks_at_one_model_do_not_disturb_each_other(tmp_path: Path) -> None:
    """A look at a name meanwhile, which knew less, takes nothing away from a look at all."""

    class Stale(dict[str, Any]):
        def __setitem__(self, name: str, read: Any) -> None:
            super().__setitem__(name, {})

    with objects.Objects(tmp_path / "objects.sqlite") as store:
        store.apply_many(
            [
                objects.Wanted(kind="Model", name="m", labels={}, spec={"base": {"source": "/m"}}),
                objects.Wanted(
                    kind="Adapter", name="a", labels={}, spec={"model": "m", "source": "/a"}
                ),
            ]
        )
        read = declarations.Declarations(store)
        read._adapters = Stale()
        declared = read.read("m")
        assert declared is not None
        assert declared.adapters["a"].source == "/a"
