"""What a batch may hold, what may wait, and for how long."""

import math
from dataclasses import dataclass, field

from bertd import errors
from bertd.batching import policy

MAX_QUEUE_ROWS = 16_384
MAX_TOKENS = 4 * 1024 * 1024  # of a batch, by default: as good as none


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one batcher; the defaults count items alone and never let a lane wait.

    A token is whatever the batcher's `size` counts: tokens of a text, rows of an array.

    Attributes:
        max_rows: Items of a batch.
        max_tokens: Tokens of a batch; a larger item is refused.
        max_delay_s: How long an item may wait for company while a lane is idle.
        enough_rows: Company that is worth no more waiting; `max_rows` if None.
        max_queue_rows: Items that wait; the next is refused.
        max_queue_delay_s: An item that is predicted to wait longer is refused.
        batch: What the policy may put into a batch.
        company: What the policy waits for while a lane is idle.

    Raises:
        errors.InvalidRequest: A limit is not positive, or a delay is negative or not finite.
    """

    max_rows: int = 32
    max_tokens: int = MAX_TOKENS
    max_delay_s: float = 0.0
    enough_rows: int | None = None
    max_queue_rows: int = MAX_QUEUE_ROWS
    max_queue_delay_s: float = math.inf
    batch: policy.Limits = field(init=False, repr=False, compare=False)
    company: policy.Limits = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        enough_rows = self.max_rows if self.enough_rows is None else self.enough_rows
        for name in ("max_rows", "max_tokens", "max_queue_rows"):
            _check_count(name, getattr(self, name))
        _check_count("enough_rows", enough_rows)
        _check_delay("max_delay_s", self.max_delay_s, below=math.inf)
        _check_delay("max_queue_delay_s", self.max_queue_delay_s, below=math.nan)
        for name, rows in (("batch", self.max_rows), ("company", min(self.max_rows, enough_rows))):
            bounds = policy.Limits(
                max_tokens=self.max_tokens, max_rows=rows, max_delay_s=self.max_delay_s
            )
            object.__setattr__(self, name, bounds)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise errors.InvalidRequest(
            f"`{name}` must be an integer of at least 1, and is {value!r}", reason="BadLimits"
        )


def _check_delay(name: str, value: object, *, below: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value >= 0 or value == below:  # type: ignore[operator]  # a number
        raise errors.InvalidRequest(
            f"`{name}` must be seconds of at least 0, and is {value!r}", reason="BadLimits"
        )
