"""Adapters into slots, many at a time: found folded on disk, or read, proved and folded together.

One adapter that fails never fails another. What was proved once is known by its digest: a folded
adapter that lies on disk is served without its file being read again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bertd import errors
from bertd.adapters import folded as folded_files
from bertd.adapters import layout
from bertd.checkpoint import adapter_file, beneath, sources
from bertd.engine import loading


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An adapter file, by the sha256 that it was declared with, and the slot that it is for."""

    slot: int
    digest: str
    path: Path
    cache: bool = True  # whether its folded form is worth keeping on disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of each slot: why it failed, or the bytes of its head."""

    failed: dict[int, errors.Error] = field(default_factory=dict)
    head_bytes: dict[int, int] = field(default_factory=dict)


class Intake:
    """Loads adapters into the bank of one base.

    Args:
        base: the base.
        directory: where folded adapters are kept; None keeps none.
    """

    def __init__(self, base: loading.LoadedBase, directory: Path | None) -> None:
        self._base = base
        self._bank = base.runner.bank
        self._cache = _cache(base, directory) if directory else None

    @property
    def cache_key(self) -> str:
        """The directory's name beneath which folded adapters are kept; "" where none are."""
        return self._cache.directory.name if self._cache else ""

    def load(self, wanted: Sequence[Wanted]) -> Outcome:
        """Fills the slots of `wanted`; all that must be folded is folded in one pass."""
        outcome = Outcome()
        unknown = [one for one in wanted if not self._find(one, outcome)]
        read = [(one, adapter) for one in unknown if (adapter := self._read(one, outcome))]
        folded = self._bank.fold([adapter for _, adapter in read])
        for (one, _), result in zip(read, folded, strict=True):
            if self._cache and one.cache:
                self._cache.put(one.digest, result)
            self._install(one, result, outcome)
        return outcome

    def _find(self, one: Wanted, outcome: Outcome) -> bool:
        found = self._cache.get(one.digest) if self._cache and one.cache else None
        if found is None:
            return False
        self._install(one, found, outcome)
        return True

    def _read(self, one: Wanted, outcome: Outcome) -> adapter_file.Adapter | None:
        try:
            return read(one, self._base)
        except (errors.BadArtifact, errors.Temporary) as error:
            outcome.failed[one.slot] = error
            return None

    def _install(self, one: Wanted, folded: layout.Folded, outcome: Outcome) -> None:
        try:
            outcome.head_bytes[one.slot] = self._bank.install(one.slot, folded)
        except errors.Temporary as error:
            outcome.failed[one.slot] = error


def read(one: Wanted, base: loading.LoadedBase) -> adapter_file.Adapter:
    """Reads an adapter file and proves that it is the declared one and belongs to this base.

    Raises:
        BadArtifact: reason `BlobCorrupt` where the file has another digest; as
            `adapter_file.parse` otherwise.
        Temporary: the disk failed.
    """
    data = beneath.read_file(one.path, sources.MAX_ADAPTER_BYTES, one.path.name)
    found = hashlib.sha256(data).hexdigest()
    if found != one.digest:
        raise errors.BadArtifact(
            f"the stored adapter sha256:{one.digest} has the digest sha256:{found} now",
            reason="BlobCorrupt",
            hint="check the disk; the daemon copies the file again from its source",
        )
    return adapter_file.parse(data, base.description, what=one.path.name)


def _cache(base: loading.LoadedBase, directory: Path) -> folded_files.FoldedCache:
    table = base.runner.bank.table
    return folded_files.FoldedCache(
        directory,
        row=table.slot_bytes // base.runner.bank.dtype.itemsize,
        dtype=base.runner.bank.dtype,
        base_digest=base.description.digest,
        tokenizer_digest=base.description.tokenizer_digest,
    )
