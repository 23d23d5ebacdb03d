"""Batches: how long their rows are, and how both sides run them."""

from collections.abc import Callable

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from bertd import frames
from bertd.engine import session

Lengths = NDArray[np.int32]
LONG = "16 x 128"
# The mean and spread of CoLA's sentences, between 6 and 20 tokens; and equal long rows.
WORKLOADS: dict[str, Callable[[np.random.Generator], Lengths]] = {
    "32 CoLA-length": lambda rng: np.clip(rng.normal(10.3, 3.5, 32), 6, 20).astype(np.int32),
    LONG: lambda rng: np.full(16, 128, np.int32),
}


def draw(rng: np.random.Generator, lengths_B: Lengths, vocab: int) -> NDArray[np.int32]:
    """Token ids of a whole batch, end to end."""
    low = min(1000, vocab // 2)
    return rng.integers(low, vocab, int(lengths_B.sum())).astype(np.int32)


def packed(
    opened: session.Session, ids_T: NDArray[np.int32], lengths_B: Lengths, slots_B: Lengths
) -> None:
    """One batch through bertd's engine; rows come sorted by length, as from the front."""
    opened.base.runner.run(
        frames.Batch(
            id=0,
            lengths_B=np.sort(lengths_B),
            slots_B=slots_B.astype(np.int32),
            tasks_B=np.full(len(lengths_B), frames.Task.CLASSIFY, np.int32),
            ids_T=ids_T,
            types_T=np.zeros(len(ids_T), np.uint8),
        )
    )


@torch.inference_mode()
def padded(
    model: transformers.PreTrainedModel, ids_T: NDArray[np.int32], lengths_B: Lengths
) -> None:
    """One batch through transformers as everybody calls it: padded to the longest, with a mask."""
    shape = (len(lengths_B), int(lengths_B.max()))
    inputs, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    start = 0
    for row, length in enumerate(np.sort(lengths_B).tolist()):
        inputs[row, :length] = torch.from_numpy(ids_T[start : start + length].astype(np.int64))
        mask[row, :length] = 1
        start += length
    model(input_ids=inputs, attention_mask=mask)
