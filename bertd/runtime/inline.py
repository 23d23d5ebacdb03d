"""Adapters that calls bring with them: proved once, kept for a while, brought back by digest.

A call's bytes are proved against the model's base exactly as a declared file is, written beneath
the state directory, and named by their sha256 from then on: the same bytes again cost a hash. New
ones cost a token of the caller's bucket, so that nobody makes the daemon fold without end, and the
slots they take are a partition of their own (`residency`), so that they never evict a declared one.

A file lies there for as long as anybody may still load it: the cache, a call that runs, a slot that
is filled with it. The cache has at most `KEPT_BYTES_MAX` of them; calls and slots are bounded where
they are admitted.
"""

import asyncio
import dataclasses
import errno
import hashlib
import itertools
import os
import shutil
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from bertd import errors, metrics
from bertd.checkpoint import adapter_file, files
from bertd.runtime import feeder, rates, residency, router, slots

MAX_INLINE_BYTES = 2 * 1024 * 1024
# Bounds what one call computes and one reply says; a declared adapter may have more.
LABELS_MAX = 512
KEPT_MAX = 256
# As many as lie in memory: else calls could have the same few hundred folded over and over again,
# without a token, because they are known.
KEPT_OF_A_BASE_MAX = residency.INLINE_ADAPTERS
KEPT_BYTES_MAX = 64 * 1024 * 1024
RATE = rates.Rate(per_s=10.0, burst=20.0, callers_max=4096)
# More are hashed in a thread: this many take 0.15 ms.
LONGEST_HASHED_HERE_BYTES = 256 * 1024
PROVED_AT_ONCE_MAX = 2
PROOFS_MAX = 64
FULL_RETRY_S = 0.1
FIELD = "`adapter_bytes`"
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """An adapter that was proved for the base and the tokenizer of these digests."""

    content: slots.Content
    output: router.Output
    info: adapter_file.AdapterInfo


@dataclass(frozen=True, slots=True)
class _Key:
    """Calls with the same bytes for the same base wait for one proof."""

    digest: str
    base_digest: str
    tokenizer_digest: str


class Inline:
    """Makes a route of a base's route and the bytes of an adapter. Called from the event loop.

    Args:
        directory: where the files lie; whatever an earlier process left in it is removed, so only
            the owner of the state directory's lock may make one.
        metrics: where hits, new ones and refusals are counted.
        clock: monotonic seconds.

    Raises:
        Temporary: the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        metrics: metrics.Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._clock = clock
        self._rates = rates.Rates(RATE)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._proofs: dict[_Key, asyncio.Task[_Kept | errors.Error]] = {}
        self._proving = asyncio.Semaphore(PROVED_AT_ONCE_MAX)
        # Threads of our own: those of the loop may all wait for a download. One is left to hash.
        self._threads = futures.ThreadPoolExecutor(PROVED_AT_ONCE_MAX + 1, "inline")
        self._serial = itertools.count()
        _empty(directory)

    async def route(self, base_route: router.Route, data: bytes, caller: str) -> router.Route:
        """The route of these bytes on this base.

        Args:
            base_route: the model's own route, which names no adapter.
            data: a whole adapter file.
            caller: who asks; each has a bucket of its own.

        Raises:
            NotServable: the Model takes no adapters from calls.
            InvalidRequest: the bytes are no adapter for this base; `reason` is the artifact's.
            Overloaded: the caller brought too many new ones; `retry_after_s` says when one fits.
            Temporary: the disk failed.
        """
        try:
            result, kept = await self._find(base_route, data, caller)
        except errors.Overloaded:
            self._metrics.inline(model=base_route.model, result="limited")
            raise
        except (errors.InvalidRequest, errors.NotServable):
            self._metrics.inline(model=base_route.model, result="refused")
            raise
        self._metrics.inline(model=base_route.model, result=result)
        return dataclasses.replace(
            base_route,
            adapter="",
            digest=kept.content.digest,
            content=kept.content,
            output=kept.output,
            flow=feeder.Flow((FIELD, caller)),
        )

    async def _find(self, base_route: router.Route, data: bytes, caller: str) -> tuple[str, _Kept]:
        _check(base_route, data)
        digest = await self._digest(data)
        # Nothing waits between the look and the start of a proof: one proof for all who ask.
        base = base_route.base
        if (kept := self._find_kept(digest)) is not None:
            _check_base(kept.info, base)
            self._kept.move_to_end(digest)
            return "hit", kept
        key = _Key(digest, base.digest, base.tokenizer_digest)
        result = "hit"
        if key not in self._proofs:
            self._pay(caller)
            self._start(key, data, base)
            result = "new"
        outcome = await asyncio.shield(self._proofs[key])
        if isinstance(outcome, errors.Error):
            _refuse(outcome)
        return result, outcome

    async def _digest(self, data: bytes) -> str:
        if len(data) <= LONGEST_HASHED_HERE_BYTES:
            return hashlib.sha256(data).hexdigest()
        return (await self._in_thread(hashlib.sha256, data)).hexdigest()

    async def _in_thread(self, work: Callable[..., Made], *args: object) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def _pay(self, caller: str) -> None:
        if len(self._proofs) >= PROOFS_MAX:
            raise errors.Overloaded(
                f"too many {FIELD} wait for their proof", retry_after_s=FULL_RETRY_S
            )
        wait_s = self._rates.take(caller, self._clock())
        if wait_s > 0.0:
            raise errors.Overloaded(
                f"too many different {FIELD} from one caller: after {RATE.burst:g} at once, "
                f"{RATE.per_s:g} a second",
                retry_after_s=wait_s,
                hint="declare the adapters that are used again and again",
            )

    def _start(self, key: _Key, data: bytes, base: files.Base) -> None:
        """Begins a proof, which goes on when the call that began it is cancelled."""
        proof = asyncio.create_task(self._prove(key.digest, data, base))
        self._proofs[key] = proof
        proof.add_done_callback(lambda _: self._proofs.pop(key))

    async def _prove(self, digest: str, data: bytes, base: files.Base) -> _Kept | errors.Error:
        """Errors are returned: every call that waits raises one of its own."""
        path = self._directory / f"{digest}.{next(self._serial)}"
        async with self._proving:
            try:
                info = await self._in_thread(_prove_and_write, data, base, path)
            except (errors.BadArtifact, errors.Temporary) as error:
                return error.with_traceback(None)
        content = slots.Content(digest=digest, path=path, inline=True)
        weakref.finalize(content, _remove, path).atexit = False
        kept = _Kept(
            content=content,
            output=router.Output.of(info),
            info=dataclasses.replace(info, training={}),
        )
        self._keep(digest, kept)
        return kept

    def _find_kept(self, digest: str) -> _Kept | None:
        """What is known of these bytes, if its file still lies there whole: else they are new."""
        kept = self._kept.get(digest)
        if kept is not None and not _is_whole(kept):
            self._forget(digest)
            return None
        return kept

    def _keep(self, digest: str, kept: _Kept) -> None:
        self._kept[digest] = kept
        self._kept_bytes += kept.info.file_bytes
        base_digest = kept.info.base_digest
        same = [old for old, each in self._kept.items() if each.info.base_digest == base_digest]
        for old in same[:-KEPT_OF_A_BASE_MAX]:
            self._forget(old)
        while len(self._kept) > KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self._forget(next(iter(self._kept)))

    def _forget(self, digest: str) -> None:
        """The file goes when the last call and the last slot let go of it."""
        self._kept_bytes -= self._kept.pop(digest).info.file_bytes


def _check(base_route: router.Route, data: bytes) -> None:
    if not base_route.allows_inline:
        raise errors.NotServable(
            f"model '{base_route.model}' takes no {FIELD}",
            reason="InlineAdaptersNotAllowed",
            hint="declare the adapter, or set `allowInlineAdapters: true` in the Model's spec",
        )
    if len(data) > MAX_INLINE_BYTES:
        raise errors.InvalidRequest(
            f"{FIELD} must have at most {MAX_INLINE_BYTES} bytes, and has {len(data)}",
            reason="TooLarge",
            hint="declare larger adapters in a manifest",
        )


def _check_base(info: adapter_file.AdapterInfo, base: files.Base) -> None:
    try:
        adapter_file.check_base(info, base.digest, base.tokenizer_digest, what=FIELD)
    except errors.BadArtifact as error:
        _refuse(error)


def _refuse(error: errors.Error) -> NoReturn:
    """A fresh error: for a caller, an artifact of its own that is bad is a bad request."""
    match error:
        case errors.BadArtifact():
            raise errors.InvalidRequest(error.message, reason=error.reason, hint=error.hint)
        case errors.Temporary():
            raise errors.Temporary(error.message, reason=error.reason, hint=error.hint)
        case _:
            raise errors.Bug(f"not an error of a proof: {error.message}")


def _prove_and_write(data: bytes, base: files.Base, path: Path) -> adapter_file.AdapterInfo:
    info = adapter_file.prove(data, base, what=FIELD)
    if len(info.label_names) > LABELS_MAX:
        raise errors.BadArtifact(
            f"{FIELD} must have at most {LABELS_MAX} labels, and has {len(info.label_names)}",
            reason="TooManyLabels",
            hint="declare such an adapter in a manifest",
        )
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(data)
    except OSError as error:
        _remove(path)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise errors.Temporary(
            f"{FIELD} could not be kept in the state directory: {error.strerror}",
            reason="DiskFull" if full else "DiskError",
        ) from error
    return info


def _is_whole(kept: _Kept) -> bool:
    try:
        return kept.content.path.stat().st_size == kept.info.file_bytes
    except OSError:
        return False


def _remove(path: Path) -> None:
    """The last reference may go in any thread, and nobody could be told of a failure."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _empty(directory: Path) -> None:
    try:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise errors.Temporary(
            f"'{directory.name}' in the state directory could not be emptied: {error.strerror}",
            reason="DiskError",
        ) from error
