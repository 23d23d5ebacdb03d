"""Runs one packed batch: encoder once, then what each row asked for."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bertd import frames
from bertd.adapters import bank as banks
from bertd.model import encoder, heads, packing

WARMUP_TOKENS = 64


class Runner:
    """Everything a lane needs; immutable but for the bank's slots, so lanes share it.

    Args:
        encoder: the base's encoder.
        bank: its adapters.
        pooling: how `EMBED` rows become one vector: mean, max, cls or pooler.
    """

    def __init__(self, encoder: encoder.Encoder, bank: banks.Bank, pooling: str) -> None:
        self.encoder = encoder
        self.bank = bank
        self.pooling = pooling

    @torch.inference_mode()
    def run(self, batch: frames.Batch) -> frames.Result:
        """Computes every row of `batch` in one forward of the encoder.

        Returns:
            One array per row: logits [1, C] for CLASSIFY, a vector [1, D] for EMBED, logits
            [tokens, C] for TAG; always fp32.
        """
        started = time.perf_counter()
        packed = packing.pack(
            ids_T=batch.ids_T,
            types_T=batch.types_T,
            lengths_B=batch.lengths_B,
            slots_B=batch.slots_B,
            position_offset=self.encoder.shape.position_offset,
        )
        table = self.bank.table
        hidden_TD = self.encoder.forward(packed, table.rows_SLW, table.tail_SD)
        vectors = self._answer(hidden_TD, packed, batch.tasks_B.tolist())
        return frames.Result(id=batch.id, seconds=time.perf_counter() - started, vectors=vectors)

    def warm_up(self) -> None:
        """Runs one batch of the base, so that the first request pays for nothing lazy."""
        tokens = min(WARMUP_TOKENS, self.encoder.shape.max_tokens)
        zeros = np.zeros(tokens, np.int32)
        row = (zeros, zeros.astype(np.uint8), banks.BASE_SLOT, frames.Task.EMBED)
        self.run(frames.pack_rows(0, [row]))

    def _answer(
        self, hidden_TD: torch.Tensor, packed: packing.PackedBatch, tasks: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        vectors: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tasks)
        embedded = [row for row, task in enumerate(tasks) if task == frames.Task.EMBED]
        scored = [row for row, task in enumerate(tasks) if task != frames.Task.EMBED]
        results = [
            *self._embed(hidden_TD, packed, embedded),
            *self._score(hidden_TD, packed, scored),
        ]
        for row, result in zip((*embedded, *scored), results, strict=True):
            vectors[row] = np.atleast_2d(result.numpy())
        return vectors

    def _embed(
        self, hidden_TD: torch.Tensor, packed: packing.PackedBatch, rows: Sequence[int]
    ) -> Sequence[torch.Tensor]:
        if not rows:
            return ()
        pooled_nD = heads.pool(hidden_TD, packed, self.pooling)[list(rows)]
        if self.pooling != "pooler":
            return pooled_nD.unbind()
        loaded = self._loaded(packed, rows)
        poolers = [loaded[packed.slots_B[row]].pooler for row in rows]
        return heads.through(pooled_nD, poolers, torch.tanh).unbind()

    def _score(
        self, hidden_TD: torch.Tensor, packed: packing.PackedBatch, rows: Sequence[int]
    ) -> Sequence[torch.Tensor]:
        if not rows:
            return ()
        loaded = self._loaded(packed, rows)
        chosen = [loaded[packed.slots_B[row]].head for row in rows]
        present = [head for head in chosen if head is not None]
        if len(present) != len(rows):
            raise LookupError("a row asks for logits of a slot without a head; this is a bug")
        return heads.classify(hidden_TD, packed, rows, present)

    def _loaded(self, packed: packing.PackedBatch, rows: Sequence[int]) -> dict[int, banks.Loaded]:
        """Each slot that these rows use, once: the bank makes its objects anew when asked."""
        return {slot: self.bank[slot] for slot in {packed.slots_B[row] for row in rows}}
