"""The bounded queue of one revision, and how long its rows will wait."""

import bisect
import math
from collections.abc import Sequence

from bertd import errors
from bertd.batching import batch

MAX_QUEUE_ROWS = 16_384
MAX_QUEUE_TOKENS = 4 * 1024 * 1024
RETRY_AFTER_S = 0.5


class Queue:
    """Rows that wait, sorted by deadline. Has one owner, and takes no locks."""

    def __init__(
        self, *, max_rows: int = MAX_QUEUE_ROWS, max_tokens: int = MAX_QUEUE_TOKENS
    ) -> None:
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._rows: list[batch.Row] = []
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """Tokens of all rows that wait."""
        return self._tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest row that waits; 0 without rows."""
        return max((row.tokens for row in self._rows), default=0)

    @property
    def next_deadline_s(self) -> float:
        """When the next row expires; infinity without rows."""
        return self._rows[0].deadline_s if self._rows else math.inf

    @property
    def next_is_isolated(self) -> bool:
        """Whether the next row must run alone."""
        return bool(self._rows) and self._rows[0].isolate

    def put(self, rows: Sequence[batch.Row], *, retry_after_s: float = RETRY_AFTER_S) -> None:
        """Adds all rows of one call, or none.

        Raises:
            errors.Overloaded: They do not fit now.
            errors.TooLarge: They would not even fit into an empty queue.
        """
        tokens = sum(row.tokens for row in rows)
        if len(rows) > self._max_rows or tokens > self._max_tokens:
            raise errors.TooLarge(
                f"one call must have at most {self._max_rows} inputs and {self._max_tokens} "
                f"tokens, and has {len(rows)} inputs and {tokens} tokens",
                hint="split the call",
            )
        if len(self) + len(rows) > self._max_rows or self._tokens + tokens > self._max_tokens:
            raise errors.Overloaded("the queue is full", retry_after_s=retry_after_s)
        self.put_back(rows)

    def put_back(self, rows: Sequence[batch.Row]) -> None:
        """Adds rows that were admitted before, such as those a dead worker held: never refuses."""
        for row in rows:
            bisect.insort(self._rows, row, key=batch.order)
            self._tokens += row.tokens

    def cancel(self, row: batch.Row) -> bool:
        """Marks a row as cancelled; frees its place if it still waits, and says whether it did."""
        row.cancelled = True
        at = bisect.bisect_left(self._rows, batch.order(row), key=batch.order)
        if at == len(self._rows) or self._rows[at] is not row:
            return False
        del self._rows[at]
        self._tokens -= row.tokens
        return True

    def take(self, limits: batch.Limits, now_s: float) -> batch.Taken:
        """Removes and returns the next batch and all expired rows; `rest` is what still waits."""
        taken = batch.take(self._rows, limits, now_s)
        self._rows = taken.rest
        self._tokens -= sum(row.tokens for row in (*taken.batch, *taken.expired))
        return taken

    def ready_at(self, limits: batch.Limits) -> float:
        """When an idle lane may start; see `batch.ready_at`."""
        if self._rows and (limits.max_delay_s == 0 or self._tokens >= limits.max_tokens):
            return -math.inf
        return batch.ready_at(self._rows, limits)

    def drain(self) -> list[batch.Row]:
        """Removes and returns every row, for a queue that closes."""
        rows, self._rows, self._tokens = self._rows, [], 0
        return rows


def predicted_wait_s(queued_s: float, busy_s: float, lanes: int) -> float:
    """How long a row that arrives now would wait until it starts.

    Args:
        queued_s: What one lane would need for everything that stands ahead of it.
        busy_s: What the lanes still need for the batches they run, added up.
        lanes: Lanes that share the work.
    """
    return (busy_s + queued_s) / lanes
