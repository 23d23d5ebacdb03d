"""Token ids on their way into a training step: examples, batches of like length, padding."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset, Sampler

from bertd.bitfit import problems, tables
from bertd.tokenization import tokenizer

# Rows are sorted by length inside windows of this many batches: little padding, much chance.
WINDOW_BATCHES = 50
ENCODE_ROWS = 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """A text as the encoder reads it, and the tokens whose logits answer for it.

    `picks` has the first token of each word where words are tagged, else the row's one vector, 0.
    """

    encoded: tokenizer.Encoded
    picks: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Example:
    """A row with what the loss compares it with."""

    row: Row
    target: problems.Target


class Examples(Dataset[Example]):
    """Encoded rows with their truth; `problem` and `names` say what that truth means."""

    def __init__(
        self,
        problem: problems.Problem[Any],
        names: Sequence[str],
        rows: Sequence[Row],
        truth: Sequence[Any],
    ) -> None:
        self.problem = problem
        self.names = tuple(names)
        self.rows = list(rows)
        self.truth = list(truth)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        """One row with its target, which is made here: a row of many labels is large."""
        found = self.rows[row]
        tokens = len(found.encoded.ids)
        target = self.problem.target(self.truth[row], len(self.names), found.picks, tokens)
        return Example(found, target)

    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [len(row.encoded.ids) for row in self.rows]

    def marks(self) -> list[tuple[int, ...]]:
        """The classes that hold for each row of logits, over all examples."""
        return [marks for true in self.truth for marks in self.problem.marks(true)]


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
        longest = max(len(example.row.encoded.ids) for example in examples)
        shape = (len(examples), longest)
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        types = torch.zeros(shape, dtype=torch.long)
        for row, example in enumerate(examples):
            encoded = example.row.encoded
            tokens = len(encoded.ids)
            ids[row, :tokens] = torch.from_numpy(encoded.ids)
            mask[row, :tokens] = 1
            types[row, :tokens] = torch.from_numpy(encoded.type_ids)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.token_types:
            batch["token_type_ids"] = types
        return batch | {"labels": torch.tensor(_level([e.target for e in examples]))}


def encode(by: tokenizer.Tokenizer, table: tables.Table) -> list[Row]:
    """Token ids as the daemon makes them, long texts cut."""
    rows: list[Row] = []
    if not table.words:
        for part in _cut(table.texts, ENCODE_ROWS):
            rows += [Row(encoded) for encoded in by.encode(part, truncate=True)]
        return rows
    for texts, words in zip(
        _cut(table.texts, ENCODE_ROWS), _cut(table.words, ENCODE_ROWS), strict=True
    ):
        encoded = by.encode(texts, truncate=True, offsets=True)
        rows += [_tagged(*each) for each in zip(encoded, words, strict=True)]
    return rows


def _tagged(encoded: tokenizer.Encoded, words: Sequence[str]) -> Row:
    picks = problems.firsts(words, encoded.offsets or (), encoded.special or ())
    return Row(tokenizer.Encoded(encoded.ids, encoded.type_ids), picks)


def _level(targets: Sequence[problems.Target]) -> list[problems.Target]:
    """Targets of equal length: those for each token of shorter rows end with `IGNORED`."""
    longest = max(0 if isinstance(target, int) else len(target) for target in targets)
    return [
        target
        if isinstance(target, int)
        else target + (problems.IGNORED,) * (longest - len(target))
        for target in targets
    ]


def _cut(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
