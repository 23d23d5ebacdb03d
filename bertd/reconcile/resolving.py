"""From declared sources to content: copies files into the blob store and says what they are.

A source is like a mutable tag: what serves is named by content. Only copies in the blob store are
ever described, mapped or loaded, so that nothing done to the source afterwards can matter. All
functions here block on the disk; the controller runs them in a thread.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bertd import errors
from bertd.checkpoint import adapter_file, sources
from bertd.checkpoint import files as checkpoint_files
from bertd.manifest import spec as manifest_spec
from bertd.store import blobs

REMEMBERED_MAX = 200_000  # files, by signature and by digest
Signature = tuple[int, int, int, int, int]
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base in the blob store: file names -> digests, and its description."""

    blobs: Mapping[str, str]
    files: Mapping[str, Path]
    description: checkpoint_files.Base


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter file in the blob store."""

    digest: str
    path: Path
    info: adapter_file.AdapterInfo


class Resolver:
    """Resolves sources; remembers what it read and proved, so that a resync reads little."""

    def __init__(self, store: blobs.Blobs) -> None:
        self._store = store
        self._seen: dict[Signature, str] = {}
        self._described: dict[tuple[tuple[str, str], ...], checkpoint_files.Base] = {}
        self._proved: dict[tuple[str, str], adapter_file.AdapterInfo] = {}

    def base(self, declared: manifest_spec.Base) -> Base:
        """Copies and describes a base.

        Raises:
            BadArtifact: a file is not what it must be, or not what `digest` pins.
            Temporary: the disk or the hub failed.
        """
        opened = sources.open_checkpoint(declared.source)
        try:
            digests = {name: self._add(fd) for name, fd in opened.items()}
        finally:
            sources.close(opened)
        files = {name: self._store.path(digest) for name, digest in digests.items()}
        content = tuple(sorted(digests.items()))
        description = self._described.get(content) or checkpoint_files.describe(files)
        self._remember(self._described, content, description)
        if declared.digest not in (None, f"sha256:{description.digest}"):
            raise errors.BadArtifact(
                f"`base.digest` pins {declared.digest}, but '{declared.source}' is "
                f"sha256:{description.digest}",
                reason="DigestMismatch",
                hint="restore the pinned files, or pin what is there now",
            )
        return Base(blobs=digests, files=files, description=description)

    def adapter(self, source: str, base: checkpoint_files.Base) -> Adapter:
        """Copies an adapter file and checks all of it against its base.

        Raises:
            BadArtifact: the file is broken or belongs to another base or tokenizer.
            Temporary: the disk failed.
        """
        fd = sources.open_adapter(source)
        try:
            digest = self._add(fd)
        finally:
            os.close(fd)
        path, what = self._store.path(digest), f"'{source}'"
        info = self._proved.get((digest, base.digest)) or self._prove(path, base, what)
        adapter_file.check_base(info, base.digest, base.tokenizer_digest, what=what)
        self._remember(self._proved, (digest, base.digest), info)
        return Adapter(digest=digest, path=path, info=info)

    def _prove(
        self, path: Path, base: checkpoint_files.Base, what: str
    ) -> adapter_file.AdapterInfo:
        info = adapter_file.read_info(path, what=what)
        adapter_file.check_base(info, base.digest, base.tokenizer_digest, what=what)
        return adapter_file.read(path, base.shape, base.has_pooler, what=what).info

    def sweep(self, keep: set[str]) -> int:
        """Removes every blob that nothing live needs; returns how many."""
        return self._store.sweep(keep)

    def _add(self, fd: int) -> str:
        stat = os.fstat(fd)
        signature = (
            stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        )  # fmt: skip
        known = self._seen.get(signature)
        if known is not None and self._store.path(known).exists():
            return known
        digest = self._store.add(fd)
        self._remember(self._seen, signature, digest)
        return digest

    @staticmethod
    def _remember(memory: dict[Key, Value], key: Key, value: Value) -> None:
        """Bounded: forgetting only costs reading again."""
        if len(memory) >= REMEMBERED_MAX:
            memory.clear()
        memory[key] = value
