"""Whether one more item may wait. Pure: raises, or does nothing."""

from collections.abc import Sequence

from bertd import errors
from bertd.batcher import limits
from bertd.batching import admission, cost, policy, queue

RETRY_AFTER_S = 0.5


def check(
    row: policy.Row,
    *,
    waiting: queue.Queue,
    limits: limits.Limits,
    enough: policy.Limits,
    price: cost.Price,
    busy_s: Sequence[float],
    now_s: float,
) -> None:
    """Refuses an item that is too large, too late, or would only make others wait for nothing.

    Args:
        row: The item, not yet in the queue.
        waiting: What waits already.
        limits: Bounds of the batcher.
        enough: What batches are made of, at these prices.
        price: What batches cost, as far as it is known.
        busy_s: For each lane, seconds until it is free; 0 where it is idle.
        now_s: The time.

    Raises:
        errors.TooLarge: It would fit into no batch.
        errors.Expired: It has no time left.
        errors.Overloaded: The queue is full, the item is predicted to be late or to wait too long,
            or it would make an item that was accepted before late.
    """
    if row.tokens > limits.max_tokens:
        raise errors.TooLarge(
            f"an item must have at most {limits.max_tokens} tokens, and has {row.tokens}",
            hint="split it, or raise `max_tokens`",
        )
    if row.deadline_s <= now_s:
        raise errors.Expired("the deadline passed before the item was queued")
    if len(waiting) >= limits.max_queue_rows:
        raise errors.Overloaded("the queue is full", retry_after_s=RETRY_AFTER_S)
    if not len(waiting) and 0 in busy_s:
        return  # it runs now: no prediction, which may be wrong, keeps a lane idle for ever
    found = admission.refusal(
        waiting,
        [row],
        now_s=now_s,
        max_queue_delay_s=limits.max_queue_delay_s,
        predict=lambda ahead: admission.forecast(ahead, price=price, limits=enough, busy_s=busy_s),
    )
    if found is not None:
        raise errors.Overloaded(f"overloaded: {found.text}", retry_after_s=found.retry_after_s)
