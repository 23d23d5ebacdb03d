"""From declared sources to content: copies files into the blob store and says what they are.

A source is like a mutable tag: what serves is named by content. Only copies in the blob store are
ever described, mapped or loaded, so that nothing done to the source afterwards can matter. All
functions here block on the disk; the controller runs them in a thread.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bertd import errors
from bertd.checkpoint import adapter_file, beneath, sources
from bertd.checkpoint import files as checkpoint_files
from bertd.manifest import spec as manifest_spec
from bertd.runtime import router
from bertd.store import blobs
from bertd.tokenization import tokenizer

REMEMBERED_MAX = 400_000  # files
# A file that changed so shortly before it was read may change again under the same time stamp.
YOUNG_NS = 100_000_000
# A broken file that changed so shortly before it was read may be half of one that is being copied.
HALF_NS = 2_000_000_000
HALF_REASON = "BadSafetensors"
READERS = 2  # threads: hashing and the disk take turns
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
    """An adapter file in the blob store, and what it says of its answers."""

    digest: str
    output: router.Output
    file_bytes: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a source was, when it had this signature, for the base of these digests."""

    signature: sources.Signature
    base: tuple[str, str]
    found: Adapter | errors.BadArtifact


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
        self._seen: dict[sources.Signature, str] = {}
        self._described: dict[tuple[tuple[str, str], ...], checkpoint_files.Base] = {}
        self._adapters: dict[str, _Seen] = {}
        self._outputs: dict[object, router.Output] = {}

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

    def adapter(
        self, source: str, base: checkpoint_files.Base, signature: sources.Signature | None = None
    ) -> Adapter | errors.Error:
        """Copies an adapter file and checks all of it against its base.

        Args:
            source: an absolute path or `package://…`.
            base: what it must belong to.
            signature: of the file just now, where the caller knows it: an unchanged file is not
                opened again.

        Returns:
            The adapter, or why there is none: BadArtifact until its file changes, Temporary where
            the disk failed.
        """
        place = sources.Listed(source, signature)
        return self._known(place, base) or self._read(source, base)

    def each_adapter(
        self, places: Sequence[sources.Listed], base: checkpoint_files.Base
    ) -> list[Adapter | errors.Error]:
        """As `adapter` for each; thousands of new files are read by several threads."""
        found = [self._known(place, base) for place in places]
        new = [place for place, known in zip(places, found, strict=True) if known is None]
        with futures.ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
            look = pool.map if len(new) > READERS else map
            read = look(lambda place: self.adapter(place.path, base, place.signature), new)
            return [known or next(read) for known in found]

    def _known(
        self, place: sources.Listed, base: checkpoint_files.Base
    ) -> Adapter | errors.BadArtifact | None:
        """What this file was found to be, if it has not changed since."""
        seen = self._adapters.get(place.path)
        if seen is None or seen.base != (base.digest, base.tokenizer_digest):
            return None
        signature = place.signature
        if signature is None and place.path.startswith("/"):
            signature = sources.signature(place.path)
        return seen.found if seen.signature == signature else None

    def path(self, digest: str) -> Path:
        """Where the blob of this digest lies."""
        return self._store.path(digest)

    def forget(self, digests: Collection[str]) -> None:
        """These blobs of adapters are not what their names say: removed, to be made anew.

        Raises:
            Temporary: the disk failed; some stay.
        """
        self._forget_files(lambda digest: digest in digests)
        for digest in digests:
            self._store.remove(digest)

    def sweep(self, keep: Collection[str]) -> int:
        """Removes every blob that nothing live needs; returns how many."""
        self._forget_files(lambda digest: digest not in keep)
        return self._store.sweep(keep)

    def _forget_files(self, is_gone: Callable[[str], bool]) -> None:
        for source, seen in self._adapters.copy().items():  # other threads go on adding to it
            if isinstance(seen.found, Adapter) and is_gone(seen.found.digest):
                self._adapters.pop(source, None)

    def _read(self, source: str, base: checkpoint_files.Base) -> Adapter | errors.Error:
        try:
            fd = sources.open_adapter(source)
        except errors.Error as error:
            return error.with_traceback(None)
        try:
            signature, now_ns = sources.signature(fd), time.time_ns()
            found = self._proved(fd, source, base)
        finally:
            os.close(fd)
        age_ns = now_ns - signature[-1] if signature else 0
        if _may_be_half(found, age_ns):
            return errors.Temporary(
                str(found),
                reason=HALF_REASON,
                hint="it may still be being written; it is read again soon",
            )
        if signature and age_ns > YOUNG_NS and isinstance(found, Adapter | errors.BadArtifact):
            key = (base.digest, base.tokenizer_digest)
            self._remember(self._adapters, source, _Seen(signature, key, found))
        return found

    def _proved(self, fd: int, source: str, base: checkpoint_files.Base) -> Adapter | errors.Error:
        try:
            data = beneath.read_opened(fd, sources.MAX_ADAPTER_BYTES, f"'{source}'")
            info = adapter_file.prove(data, base, what=f"'{source}'")
            self._store.put(data, info.digest)
        except errors.Error as error:
            return error.with_traceback(None)
        return Adapter(digest=info.digest, output=self._output(info), file_bytes=len(data))

    def _output(self, info: adapter_file.AdapterInfo) -> router.Output:
        """Thousands of adapters share few outputs: one object for equal ones."""
        output = router.Output.of(info)
        key = (
            output.label_names,
            output.problem,
            output.temperature,
            tuple(output.thresholds.items()),
        )
        if key not in self._outputs:
            self._remember(self._outputs, key, output)
        return self._outputs[key]

    def _add(self, fd: int) -> str:
        signature = sources.signature(fd)
        known = self._seen.get(signature) if signature else None
        if known is not None and self._store.path(known).exists():
            return known
        digest = self._store.add(fd)
        if signature is not None:
            self._remember(self._seen, signature, digest)
        return digest

    @staticmethod
    def _remember(memory: dict[Key, Value], key: Key, value: Value) -> None:
        """Bounded: forgetting only costs reading again."""
        if len(memory) >= REMEMBERED_MAX:
            memory.clear()
        memory[key] = value


def _may_be_half(found: Adapter | errors.Error, age_ns: int) -> bool:
    is_broken = isinstance(found, errors.BadArtifact) and found.reason == HALF_REASON
    return is_broken and age_ns < HALF_NS
