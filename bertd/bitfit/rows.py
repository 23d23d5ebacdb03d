"""Token ids on their way into a training step: examples, batches of like length, padding."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils.data import Dataset, Sampler

from bertd.bitfit import tables
from bertd.tokenization import tokenizer

# Rows are sorted by length inside windows of this many batches: little padding, much chance.
WINDOW_BATCHES = 50
ENCODE_ROWS = 1024

T = TypeVar("T")
Example = tuple[tokenizer.Encoded, int]


class Examples(Dataset[Example]):
    """Encoded rows with their classes."""

    def __init__(self, encoded: Sequence[tokenizer.Encoded], truth: Sequence[int]) -> None:
        self._examples = list(zip(encoded, truth, strict=True))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._examples)

    def __getitem__(self, row: int) -> Example:
        """One row and its class."""
        return self._examples[row]

    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [len(encoded.ids) for encoded, _ in self._examples]

    def truth(self) -> list[int]:
        """The class of every row."""
        return [label for _, label in self._examples]


class LengthBatches(Sampler[list[int]]):
    """Every row once an epoch, in batches of rows of like length, in random order.

    The orders depend on the seed and on how often the sampler was iterated, on nothing else.
    """

    def __init__(self, lengths: Sequence[int], batch_rows: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_rows = batch_rows
        self._random = random.Random(seed)

    def __len__(self) -> int:
        """Batches in an epoch; only the last window may end with a short one."""
        return math.ceil(len(self._lengths) / self._batch_rows)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of one epoch, as row numbers."""
        order = list(range(len(self._lengths)))
        self._random.shuffle(order)
        window = self._batch_rows * WINDOW_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            near = sorted(order[start : start + window], key=self._lengths.__getitem__)
            batches += _cut(near, self._batch_rows)
        self._random.shuffle(batches)
        return iter(batches)


@dataclass(frozen=True, slots=True)
class Pad:
    """Makes a padded batch of examples; `pad_id` fills the ids, `token_types` sends segments."""

    pad_id: int
    token_types: bool

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Examples -> `input_ids`, `attention_mask`, maybe `token_type_ids` [n, L], `labels`."""
        longest = max(len(encoded.ids) for encoded, _ in examples)
        shape = (len(examples), longest)
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        types = torch.zeros(shape, dtype=torch.long)
        for row, (encoded, _) in enumerate(examples):
            tokens = len(encoded.ids)
            ids[row, :tokens] = torch.from_numpy(encoded.ids)
            mask[row, :tokens] = 1
            types[row, :tokens] = torch.from_numpy(encoded.type_ids)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.token_types:
            batch["token_type_ids"] = types
        return batch | {"labels": torch.tensor([label for _, label in examples])}


def encode(by: tokenizer.Tokenizer, texts: Sequence[tables.Text]) -> list[tokenizer.Encoded]:
    """Token ids as the daemon makes them, long texts cut."""
    encoded: list[tokenizer.Encoded] = []
    for part in _cut(texts, ENCODE_ROWS):
        encoded += by.encode(part, truncate=True)
    return encoded


def _cut(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
