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
from bertd.tokenization import tokenizer

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


def check_pin(declared: manifest_spec.Base, found: checkpoint_files.Base) -> None:
    """Proves that a base is the pinned one, if `digest` pins any.

    Raises:
        BadArtifact: with both digests.
    """
    if declared.digest not in (None, f"sha256:{found.digest}"):
        raise errors.BadArtifact(
            f"`base.digest` pins {declared.digest}, but '{declared.source}' is "
            f"sha256:{found.digest}",
            reason="DigestMismatch",
            hint="restore the pinned files, or pin what is there now",
        )


def load_tokenizer(base: checkpoint_files.Base, max_length: int | None) -> tokenizer.Tokenizer:
    """The base's tokenizer for the declared length; None is what the checkpoint declares.

    Raises:
        BadArtifact: the file is broken, or `maxLength` is more than the checkpoint can number.
    """
    longest = base.shape.max_tokens
    if max_length is not None and max_length > longest:
        raise errors.BadArtifact(
            f"`maxLength` is {max_length}, but the checkpoint has positions for {longest}",
            reason="MaxLengthTooLarge",
            hint=f"set `maxLength` to {longest} or less",
        )
    return tokenizer.Tokenizer.load(
        base.tokenizer,
        max_length=max_length or base.max_length,
        vocab=base.shape.vocab,
        token_types=base.shape.token_types,
    )


class Resolver:
    """Resolves sources; remembers what it read and proved, so that a resync reads little."""

    def __init__(self, store: blobs.Blobs) -> None:
        self._store = store
        self._seen: dict[Signature, str] = {}
        self._described: dict[tuple[tuple[str, str], ...], checkpoint_files.Base] = {}
        self._proved: dict[tuple[str, str, str], adapter_file.AdapterInfo] = {}

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
        description = self._described.get(content)
        if description is None:
            description = checkpoint_files.describe(files)
            self._remember(self._described, content, description)
        check_pin(declared, description)
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
        path = self._store.path(digest)
        key = (digest, base.digest, base.tokenizer_digest)
        info = self._proved.get(key)
        if info is None:
            info = adapter_file.read_for(path, base, what=f"'{source}'").info
            self._remember(self._proved, key, info)
        return Adapter(digest=digest, path=path, info=info)

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
