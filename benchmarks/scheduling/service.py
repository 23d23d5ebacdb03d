"""How long a batch keeps a lane busy: seconds = a + b * tokens + c * sum of squared lengths."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What batches of one model cost on one lane.

    `rows_at_best` is the size of the batch whose speed is called the capacity.
    """

    name: str
    fixed_s: float
    token_s: float
    square_s: float
    rows_at_best: int

    def seconds(self, lengths: Sequence[int], *, padded: bool = False) -> float:
        """What a batch costs: padded, every row costs as much as the longest."""
        if padded:
            longest = max(lengths)
            tokens, squares = len(lengths) * longest, len(lengths) * longest * longest
        else:
            tokens, squares = sum(lengths), sum(length * length for length in lengths)
        return self.fixed_s + self.token_s * tokens + self.square_s * squares

    def work_s(self, length: int) -> float:
        """A row's part of a full batch without padding, in lane-seconds."""
        return self.seconds((length,)) - self.fixed_s * (1 - 1 / self.rows_at_best)

    def capacity_per_s(self, lengths: Sequence[int], lanes: int = 1) -> float:
        """Rows per second of full batches without padding, rows being of these lengths."""
        return lanes * len(lengths) / sum(map(self.work_s, lengths))


BERT_BASE = Service(
    name="bert-base int8, one core",
    fixed_s=4e-3, token_s=450e-6, square_s=40e-9, rows_at_best=32,
)  # fmt: skip
MINILM = Service(
    name="MiniLM int8, one core", fixed_s=1.5e-3, token_s=60e-6, square_s=10e-9, rows_at_best=32
)
GPU = Service(
    name="bert-base on a GPU", fixed_s=2e-3, token_s=0.3e-6, square_s=0.05e-9, rows_at_best=128
)
