"""Blobs: copied once, named by content, untouched by whatever happens to their source."""

import errno
import hashlib
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from bertd import errors
from bertd.checkpoint import files, safetensors
from bertd.store import blobs
from tests.checkpoint import making

CONTENT = os.urandom(3 * blobs.CHUNK_BYTES + 17)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of a few chunks."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store(tmp_path: Path) -> blobs.Blobs:
    """An empty store."""
    return blobs.Blobs(tmp_path / "blobs")


def add(store: blobs.Blobs, path: Path, expect: str | None = None, **limits: int) -> str:
    """Add a file by its path."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return store.add(fd, expect, **limits)
    finally:
        os.close(fd)


def test_a_blob_is_named_by_its_content_and_read_only(store: blobs.Blobs, source: Path) -> None:
    """The copy equals the source, is named by its sha256 and may be written by nobody.

    (checklist 88)
    """
    assert add(store, source) == DIGEST
    path = store.path(DIGEST)
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_happens_to_the_source_afterwards_changes_nothing(
    store: blobs.Blobs, source: Path
) -> None:
    """Truncating, rewriting and removing the source leave the blob as it was (checklist 88)."""
    path = store.path(add(store, source))
    os.truncate(source, 5)
    assert path.read_bytes() == CONTENT
    source.write_bytes(b"other")
    assert path.read_bytes() == CONTENT
    source.unlink()
    assert path.read_bytes() == CONTENT


def test_a_mapped_blob_survives_its_source(store: blobs.Blobs, tmp_path: Path) -> None:
    """Weights mapped from a blob stay readable when the source is truncated to nothing.

    A mapping of the source itself would kill the process here (checklist 88).
    """
    source = tmp_path / "model.safetensors"
    source.write_bytes(safetensors.encode(making.weights(), {}))
    with safetensors.Weights.open([store.path(add(store, source))]) as weights:
        os.truncate(source, 0)
        for name, array in making.weights().items():
            assert (weights.array(name) == array).all()


def test_a_file_rewritten_while_it_is_copied_is_named_by_what_was_copied(
    store: blobs.Blobs, source: Path
) -> None:
    """Whatever a race makes of the copy, its name is its true digest (checklist 88)."""
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            with open(source, "r+b") as file:
                file.write(os.urandom(4_096))

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        digests = [add(store, source) for _ in range(5)]
    finally:
        stop.set()
        writer.join()
    for digest in digests:
        assert hashlib.sha256(store.path(digest).read_bytes()).hexdigest() == digest


def test_a_half_written_checkpoint_never_passes(store: blobs.Blobs, tmp_path: Path) -> None:
    """A blob of a file that was still being written is refused by its header."""
    source = making.directory(tmp_path / "m")
    found = making.files_of(source)
    os.truncate(source / "model.safetensors", 4_000)
    paths = {name: store.path(add(store, path)) for name, path in found.items()}
    with pytest.raises(errors.BadArtifact, match="is truncated"):
        files.describe(paths)


def test_adding_twice_keeps_one(store: blobs.Blobs, source: Path) -> None:
    """The same content is one blob, and the descriptor's offset plays no part."""
    fd = os.open(source, os.O_RDONLY)
    os.lseek(fd, 100, os.SEEK_SET)
    assert store.add(fd) == store.add(fd) == DIGEST
    assert os.lseek(fd, 0, os.SEEK_CUR) == 100
    os.close(fd)
    assert os.listdir(store.path(DIGEST).parent) == [DIGEST]


def test_another_content_than_expected_is_not_kept(store: blobs.Blobs, source: Path) -> None:
    """A pinned digest that does not match names both and leaves nothing behind."""
    assert add(store, source, DIGEST) == DIGEST
    store.sweep(set())
    with pytest.raises(errors.BadArtifact, match=DIGEST) as caught:
        add(store, source, "0" * 64)
    assert caught.value.reason == "DigestMismatch"
    assert "0" * 64 in caught.value.message
    assert os.listdir(store.path(DIGEST).parent) == []


def test_a_file_over_the_limit_is_not_kept(store: blobs.Blobs, source: Path) -> None:
    """Copying stops at the limit, also for a file that grows while it is read."""
    assert add(store, source, limit_bytes=len(CONTENT)) == DIGEST
    store.sweep(set())
    with pytest.raises(errors.BadArtifact, match="over the limit") as caught:
        add(store, source, limit_bytes=len(CONTENT) - 1)
    assert caught.value.reason == "TooLarge"
    assert os.listdir(store.path(DIGEST).parent) == []


def test_a_full_disk_is_temporary(store: blobs.Blobs, source: Path) -> None:
    """A disk that takes no more bytes is an error to retry, and leaves nothing behind.

    The file size limit of the process plays the full disk.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (blobs.CHUNK_BYTES, limits[1]))
    try:
        with pytest.raises(errors.Temporary) as caught:
            add(store, source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.reason == "DiskFull"
    assert "free some space" in caught.value.hint
    assert os.listdir(store.path(DIGEST).parent) == []
    assert add(store, source) == DIGEST


def test_an_unreadable_source_is_temporary(store: blobs.Blobs, tmp_path: Path) -> None:
    """A read that fails is an error to retry."""
    with pytest.raises(errors.Temporary) as caught:
        add(store, tmp_path)
    assert caught.value.reason == "DiskError"


def test_a_directory_that_is_gone_is_temporary(tmp_path: Path, source: Path) -> None:
    """A store whose directory vanished, or cannot be made, says so."""
    store = blobs.Blobs(tmp_path / "blobs")
    (tmp_path / "blobs").rmdir()
    with pytest.raises(errors.Temporary):
        add(store, source)
    with pytest.raises(errors.Temporary):
        store.sweep(set())
    with pytest.raises(errors.Temporary):
        blobs.Blobs(source / "blobs")


def test_what_an_earlier_process_left_is_removed(tmp_path: Path, source: Path) -> None:
    """A copy that a kill interrupted is no blob, and is gone after the next start."""
    store = blobs.Blobs(tmp_path / "blobs")
    add(store, source)
    (tmp_path / "blobs" / "incoming-abc").write_bytes(b"half")
    blobs.Blobs(tmp_path / "blobs")
    assert os.listdir(tmp_path / "blobs") == [DIGEST]


def test_sweeping_keeps_what_is_named(store: blobs.Blobs, tmp_path: Path) -> None:
    """Unnamed blobs go and are counted; other files stay; an open blob stays readable."""
    digests = []
    for text in (b"a", b"b", b"c"):
        (tmp_path / "x").write_bytes(text)
        digests.append(add(store, tmp_path / "x"))
    store.path(digests[0]).with_name("README").touch()
    with open(store.path(digests[1]), "rb") as reader:
        assert store.sweep({digests[0]}) == 2
        assert reader.read() == b"b"
    assert sorted(os.listdir(tmp_path / "blobs")) == sorted(["README", digests[0]])


@pytest.mark.parametrize("digest", ["", "../lock", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_only_digests_name_blobs(store: blobs.Blobs, digest: str) -> None:
    """No name but 64 hex digits leads anywhere."""
    with pytest.raises(errors.Bug):
        store.path(digest)


def test_small_content_is_kept_under_its_digest(tmp_path):
    """What is put lies there read-only, once, and may be removed when it turns out broken."""
    store = blobs.Blobs(tmp_path)
    digest = hashlib.sha256(b"abc").hexdigest()
    store.put(b"abc", digest)
    store.put(b"abc", digest)
    assert os.listdir(tmp_path) == [digest]
    assert store.path(digest).read_bytes() == b"abc"
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o444
    store.remove(digest)
    store.remove(digest)
    assert os.listdir(tmp_path) == []


def test_half_a_file_is_put_again(tmp_path):
    """What a crash of the machine left too short is replaced, not trusted."""
    store = blobs.Blobs(tmp_path)
    digest = hashlib.sha256(b"abc").hexdigest()
    store.path(digest).write_bytes(b"a")
    store.put(b"abc", digest)
    assert store.path(digest).read_bytes() == b"abc"


def test_two_writers_of_one_blob_take_turns(tmp_path, monkeypatch):
    """Whoever has put content may have it read at once, though another puts the same just now."""
    store, digest = blobs.Blobs(tmp_path), hashlib.sha256(b"abc").hexdigest()
    write, at_write = os.write, [threading.Event(), threading.Event()]
    may_write = [threading.Event(), threading.Event()]
    numbers = iter(range(2))

    def slow(fd, data):
        number = next(numbers)
        at_write[number].set()
        assert may_write[number].wait(30)
        return write(fd, data)

    monkeypatch.setattr(os, "write", slow)
    writers = [threading.Thread(target=store.put, args=(b"abc", digest)) for _ in range(2)]
    writers[0].start()
    assert at_write[0].wait(30)
    writers[1].start()
    at_write[1].wait(0.2)
    may_write[0].set()
    writers[0].join()
    try:
        assert store.path(digest).read_bytes() == b"abc"
    finally:
        may_write[1].set()
        writers[1].join()
    assert store.path(digest).read_bytes() == b"abc"


def test_a_full_disk_keeps_no_part_of_what_is_put(tmp_path, monkeypatch):
    """Content that does not fit is refused as Temporary, and nothing of it stays."""
    store = blobs.Blobs(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(errors.Temporary) as refusal:
        store.put(b"abc", hashlib.sha256(b"abc").hexdigest())
    assert refusal.value.reason == "DiskFull"
    assert os.listdir(tmp_path) == []
