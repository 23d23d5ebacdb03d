"""Runs one packed batch: encoder once, then what each row asked for."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bertd import frames
from bertd.adapters import bank as banks
from bertd.engine import peak
from bertd.model import cuda, encoder, heads, packing

WARMUP_TOKENS = 64
# What a sentence has, alone and in a batch large enough for the processor.
TRIAL_TOKENS = 16
TRIAL_ROWS = (1, 8)
TRIALS = 5
TRIAL_S = 0.3  # no more of them after this time
FIRST_TOKEN = {"cls", "pooler"}  # what reads no other token of a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a batch of so many rows of so many tokens each took."""

    rows: int
    tokens: int
    seconds: float


class Runner:
    """Everything a lane needs; immutable but for the bank's slots, so lanes share it.

    Args:
        encoder: the base's encoder.
        bank: its adapters.
        pooling: how `EMBED` rows become one vector: mean, max, cls or pooler.
    """

    def __init__(
        self, encoder: encoder.Encoder | cuda.DeviceEncoder, bank: banks.Bank, pooling: str
    ) -> None:
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
        tasks = batch.tasks_B.tolist()
        loaded = self._loaded(packed, tasks)
        wanted = self._wanted(packed, tasks, loaded)
        states = self._forward(packed, wanted, batch.threads)
        vectors = self._answer(states, packed, tasks, loaded)
        operations = peak.needed(
            self.encoder.shape, packed.lengths_B, first_only=wanted <= FIRST_TOKEN
        )
        seconds = time.perf_counter() - started
        return frames.Result(id=batch.id, seconds=seconds, operations=operations, vectors=vectors)

    def warm_up(self) -> list[Trial]:
        """Runs the base a few times, so that the first request pays for nothing lazy.

        Returns:
            What batches cost, for whoever plans them before the first request has run.
        """
        if isinstance(self.encoder, cuda.DeviceEncoder):
            self.encoder.warm_up(self.bank.table.rows_SLW)
        self._try(1, WARMUP_TOKENS)
        return [self._best(rows, TRIAL_TOKENS) for rows in TRIAL_ROWS]

    def _best(self, rows: int, tokens: int) -> Trial:
        """The fastest of some runs: whatever else the machine does only adds to them."""
        until_s = time.perf_counter() + TRIAL_S
        trials = [self._try(rows, tokens)]
        while len(trials) < TRIALS and time.perf_counter() < until_s:
            trials.append(self._try(rows, tokens))
        return min(trials, key=lambda trial: trial.seconds)

    def _try(self, rows: int, tokens: int) -> Trial:
        tokens = min(tokens, self.encoder.shape.max_tokens)
        zeros = np.zeros(tokens, np.int32)
        row = (zeros, zeros.astype(np.uint8), banks.BASE_SLOT, frames.Task.EMBED)
        result = self.run(frames.pack_rows(0, [row] * rows))
        return Trial(rows=rows, tokens=tokens, seconds=result.seconds)

    def _forward(
        self, packed: packing.PackedBatch, wanted: frozenset[str], threads: int
    ) -> heads.States:
        table = self.bank.table
        if isinstance(self.encoder, cuda.DeviceEncoder):
            return self.encoder.fetch(packed, table.rows_SLW, table.tail_SD, wanted)
        hidden_TD = self.encoder.forward(
            packed, table.rows_SLW, table.tail_SD, threads, first_only=wanted <= FIRST_TOKEN
        )
        return heads.Hidden(hidden_TD=hidden_TD, batch=packed)

    def _loaded(self, packed: packing.PackedBatch, tasks: Sequence[int]) -> dict[int, banks.Loaded]:
        """Each slot whose head or pooler answers, once: the bank makes its objects when asked."""
        slots = {
            slot
            for slot, task in zip(packed.slots_B, tasks, strict=True)
            if task != frames.Task.EMBED or self.pooling == "pooler"
        }
        return {slot: self.bank[slot] for slot in slots}

    def _wanted(
        self, packed: packing.PackedBatch, tasks: Sequence[int], loaded: Mapping[int, banks.Loaded]
    ) -> frozenset[str]:
        """What heads and pooling will read of the hidden states."""
        found = set()
        for slot, task in zip(packed.slots_B, tasks, strict=True):
            if task == frames.Task.EMBED:
                found.add(self.pooling)
            elif (head := loaded[slot].head) is not None:
                found.add(head.input)
            else:
                raise LookupError("a row asks for logits of a slot without a head; this is a bug")
        return frozenset(found)

    def _answer(
        self,
        states: heads.States,
        packed: packing.PackedBatch,
        tasks: Sequence[int],
        loaded: Mapping[int, banks.Loaded],
    ) -> list[NDArray[np.float32]]:
        vectors: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tasks)
        embedded = [row for row, task in enumerate(tasks) if task == frames.Task.EMBED]
        scored = [row for row, task in enumerate(tasks) if task != frames.Task.EMBED]
        results = [
            *self._embed(states, packed, embedded, loaded),
            *_score(states, packed, scored, loaded),
        ]
        for row, result in zip((*embedded, *scored), results, strict=True):
            vectors[row] = result.numpy().reshape(-1, result.shape[-1])
        return vectors

    def _embed(
        self,
        states: heads.States,
        packed: packing.PackedBatch,
        rows: Sequence[int],
        loaded: Mapping[int, banks.Loaded],
    ) -> Sequence[torch.Tensor]:
        if not rows:
            return ()
        pooled_nD = states.pooled(self.pooling)[list(rows)]
        if self.pooling != "pooler":
            return pooled_nD.unbind()
        poolers = [loaded[packed.slots_B[row]].pooler for row in rows]
        return heads.through(pooled_nD, poolers, torch.tanh).unbind()


def _score(
    states: heads.States,
    packed: packing.PackedBatch,
    rows: Sequence[int],
    loaded: Mapping[int, banks.Loaded],
) -> Sequence[torch.Tensor]:
    found = [loaded[packed.slots_B[row]].head for row in rows]
    return heads.classify(states, rows, [head for head in found if head is not None])
