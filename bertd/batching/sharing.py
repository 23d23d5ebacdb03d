"""How waiting rows and idle lanes share out: several batches side by side, or one on many threads.

Rows are independent, so a backlog is split by rows: each lane runs its part at full speed and
nobody waits for anybody. That pays from `LEAST_SHARE_TOKENS` a part on. Below it a part costs
little more than reading the weights once, which every part would do again for itself (BERT-base in
int8: 85 MB, more than any cache); the threads of one wide batch read a share of them each.
"""

import math
from dataclasses import dataclass, replace

from bertd import errors
from bertd.batching import cost, policy

# Tokens of a part from which a lane of its own beats a share of a wide batch: the faster the
# products, the later reading the weights hides behind them.
LEAST_SHARE_TOKENS = 64
# A row so much longer than an equal share would leave the other lanes idle while it runs.
LEAST_LONG_SHARES = 1.5
# Threads meet after every product: beyond this many the meeting costs more than the work.
MAX_WIDE_THREADS = 8
# A batch has tokens enough when what it costs whatever it holds is this share of it, or when it
# lasts so long: more would make whoever comes next wait, and bring little. Where several flows wait
# for each other, waiting counts for more.
ENOUGH_FIXED_SHARE = 0.05
ENOUGH_FIXED_SHARE_CONTENDED = 0.08
ENOUGH_S = 0.02
ENOUGH_MOST_S = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What the next batch may take: tokens of the queue, and threads, each of which is a permit."""

    tokens: int
    threads: int


def enough(
    limits: policy.Limits, price: cost.Price, *, is_contended: bool = False
) -> policy.Limits:
    """The limits with no more tokens than make a batch efficient, as far as costs are known."""
    if price.token_s <= 0:
        return limits
    share = ENOUGH_FIXED_SHARE_CONTENDED if is_contended else ENOUGH_FIXED_SHARE
    seconds = max(ENOUGH_S, min(ENOUGH_MOST_S, price.fixed_s / share))
    tokens = math.ceil(min(limits.max_tokens, seconds / price.token_s))
    return replace(limits, max_tokens=max(1, tokens))


def share(
    *, rows: int, tokens: int, longest: int, limits: policy.Limits, lanes: int, spare: int
) -> Share:
    """Decides the size of the next batch.

    Args:
        rows: rows that wait, at least one.
        tokens: tokens of these rows.
        longest: tokens of the longest of them.
        limits: what one batch may hold.
        lanes: lanes that could take a batch of these rows now, at least one.
        spare: lanes that nobody else wants, the batch's own included; 1 where batches run on one
            thread each, whatever they hold.

    Returns:
        An equal share of the tokens, so that lanes end together, and of the spare threads: more
        than one where rows cannot be split into as many useful parts as there are lanes.

    Raises:
        errors.Bug: nothing waits, or no lane is idle.
    """
    if rows < 1 or lanes < 1:
        raise errors.Bug(f"{rows} rows cannot be shared among {lanes} lanes. This is a bug.")
    needed = math.ceil(max(rows / limits.max_rows, tokens / limits.max_tokens, 1))
    parts = max(needed, min(lanes, rows, tokens // LEAST_SHARE_TOKENS))
    if spare > 1 and longest > LEAST_LONG_SHARES * tokens / parts:
        parts = needed
    return Share(
        tokens=max(1, min(limits.max_tokens, math.ceil(tokens / min(parts, lanes)))),
        threads=max(1, min(spare // parts, MAX_WIDE_THREADS)),
    )
