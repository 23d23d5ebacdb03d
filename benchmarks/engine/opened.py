"""What opening any engine gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.engine import rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An engine's ways to run a batch (embeddings [B, D] of its rows), and what it is made of."""

    variants: Mapping[str, Callable[[rows.Rows], rows.Floats]]
    versions: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)  # of a variant's sub-batches, in rows
