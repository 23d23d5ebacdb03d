"""When a row that arrives now would be answered, and whether it may come in. Pure.

A prediction stands on measured costs, in the order of the policy: what runs, what stands ahead, and
the row's own batch. A call comes in if it is predicted to be in time, its wait is short enough, and
no row of its own flow that is behind it would become late.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bertd.batching import cost, policy

# A prediction errs; an answer that is predicted for the last tenth of the time is not promised.
USABLE_SHARE = 0.9
# Others may join a row's batch: time for that is kept, as long as it is no more than this share of
# the row's. Without it, rows without slack would make batches too small to be worth their price.
RESERVED_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Work:
    """Rows to run: how many, their tokens, and the sum of their squared lengths."""

    rows: float = 0
    tokens: float = 0
    squares: float = 0

    @classmethod
    def of(cls, rows: Sequence[policy.Row]) -> "Work":
        """That of these rows."""
        lengths = [row.tokens for row in rows]
        return cls(len(lengths), sum(lengths), sum(n * n for n in lengths))

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.rows + other.rows, self.tokens + other.tokens, self.squares + other.squares
        )

    def part(self, tokens: float) -> "Work":
        """So many of its tokens, and of all else as much as that is."""
        share = tokens / self.tokens if self.tokens else 0.0
        return Work(share * self.rows, tokens, share * self.squares)

    def batches(self, limits: policy.Limits) -> float:
        """How many it fills."""
        return max(self.tokens / limits.max_tokens, self.rows / limits.max_rows)

    def seconds(self, price: cost.Price, batches: float) -> float:
        """What it takes one lane in so many batches."""
        rows_s = self.tokens * price.token_s + self.squares * price.square_s
        return batches * price.fixed_s + rows_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What runs before some rows of one flow, and these themselves.

    `longest` has the most tokens of these. `pace_s` is how long their flow needs for those of its
    rows that are ahead at the pace at which it was served lately, 0 where there was none: unlike
    all else here it knows of rows that will come and overtake.
    """

    before: Work
    own: Work = Work()
    longest: int = 0
    pace_s: float = 0.0


class Waiting(Protocol):
    """What is asked of a queue."""

    @property
    def everything(self) -> Work:
        """All that waits."""

    def ahead(self, rows: Sequence[policy.Row]) -> Ahead:
        """What would run before the last of these rows."""

    def behind(self, rows: Sequence[policy.Row]) -> Iterator[tuple[policy.Row, Ahead, Ahead]]:
        """Rows that they would delay, by deadline, and what is ahead of each then and now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call may not come in: a word for metrics, a sentence for its caller, and until when."""

    reason: str
    text: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds from now until the last row of a call starts, and until it is answered.

    `wait_s` is until all that stands before it is done, which is the same for rows of any length;
    `joined_s` until it is answered if as many rows join its batch as that has room for.
    """

    wait_s: float
    start_s: float
    finish_s: float
    joined_s: float


def residual_s(expected_s: float, elapsed_s: float) -> float:
    """What a running batch still needs; one that is late is held to need as long again."""
    return abs(expected_s - elapsed_s)


def level_s(busy_s: Iterable[float], work_s: float) -> float:
    """When work that is poured over lanes is done, each lane being free after its own time."""
    lanes = sorted(busy_s)
    level, used_s = lanes[0], 0.0
    for count, free_s in enumerate(lanes):
        needed_s = (free_s - level) * count
        if used_s + needed_s >= work_s:
            return level + (work_s - used_s) / count if count else level
        used_s += needed_s
        level = free_s
    return level + (work_s - used_s) / len(lanes)


def forecast(
    ahead: Ahead,
    *,
    price: cost.Price,
    limits: policy.Limits,
    busy_s: Sequence[float],
    others_s: float = 0.0,
) -> Forecast:
    """Predicts the last of these rows.

    Args:
        ahead: the rows up to it.
        price: what batches cost.
        limits: bounds of a batch.
        busy_s: for each lane of the device, seconds until it is free; at least one.
        others_s: lane-seconds that other models of the device are due meanwhile.
    """
    everything = ahead.before + ahead.own
    batches = max(1.0, everything.batches(limits))
    work_s = everything.seconds(price, batches)
    own_s = max(work_s / batches, price.alone_s(ahead.longest))
    before_s = ahead.before.seconds(price, ahead.before.batches(limits))
    wait_s = max(ahead.pace_s, level_s(busy_s, others_s + before_s))
    start_s = max(ahead.pace_s, level_s(busy_s, others_s + max(0.0, work_s - own_s)))
    usual = everything.tokens / everything.rows if everything.rows else 0.0
    full_s = price.fixed_s + price.token_s * min(limits.max_tokens, limits.max_rows * usual)
    return Forecast(wait_s, start_s, start_s + own_s, start_s + full_s)


def latest_s(work: Work, *, price: cost.Price, limits: policy.Limits, lanes: int) -> float:
    """When the last of these rows is answered at the latest, in whatever order they run.

    From when all lanes are idle on, and as long as no others come.
    """
    full_s = price.fixed_s + limits.max_tokens * price.token_s
    return work.seconds(price, work.batches(limits) + 1) / lanes + full_s


def is_in_time(found: Forecast, remaining_s: float) -> bool:
    """Whether an answer can be promised to a row that has so much time."""
    reserved_s = min(found.joined_s, found.start_s + RESERVED_SHARE * remaining_s)
    return max(found.finish_s, reserved_s) <= USABLE_SHARE * remaining_s


def refusal(
    waiting: Waiting,
    rows: Sequence[policy.Row],
    *,
    now_s: float,
    max_queue_delay_s: float,
    predict: Callable[[Ahead], Forecast],
) -> Refusal | None:
    """Why the rows of a call, which are of one flow and have one deadline, may not come in.

    Args:
        waiting: the queue.
        rows: the call's rows.
        now_s: the time.
        max_queue_delay_s: the longest predicted wait that is admitted.
        predict: a `forecast` with what is known of the device.
    """
    found = predict(waiting.ahead(rows))
    if found.wait_s > max_queue_delay_s:
        return Refusal("QueueDelay", f"the predicted wait is {found.wait_s:.3f} s", found.wait_s)
    if not is_in_time(found, rows[-1].deadline_s - now_s):
        text = f"an answer is predicted in {found.finish_s:.3f} s, too late for the deadline"
        return Refusal("Deadline", text, found.wait_s)
    worst: Forecast | None = None
    for row, without, with_them in waiting.behind(rows):
        worst = worst or predict(Ahead(before=waiting.everything, own=Work.of(rows)))
        if is_in_time(worst, row.order[0] - now_s):
            break  # and all behind it: no deadline there is nearer than the row's order
        remaining_s = row.deadline_s - now_s
        is_late = not is_in_time(predict(with_them), remaining_s)
        # Also one that comes close to its deadline without them: only what is lost is given up.
        if is_late and predict(without).finish_s <= remaining_s:
            text = "calls that were admitted before would become late"
            return Refusal("Deadline", text, found.wait_s)
    return None
