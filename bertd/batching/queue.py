"""The bounded queue of one revision: rows by flow, what stands ahead of whom, who is next."""

import bisect
import math
from collections.abc import Hashable, Iterator, Sequence

from bertd import errors
from bertd.batching import admission, cost, policy, shares

MAX_QUEUE_BYTES = 64 * 1024 * 1024
RETRY_AFTER_S = 0.5
# A flow's pace is what it was given lately while it waited, once that was for a while.
PACE_MEMORY_S = 0.5
PACE_LEAST_S = 0.1
CONTENDED_PACE_MARGIN = 1.3  # others may want more of it than they did
# Waiting for company is given up where it seldom comes (a caller that sends the next row only when
# it has the answer to the last), and tried again once in a while.
COMPANY_MEMORY = 0.8
COMPANY_LEAST = 0.25
COMPANY_RETRY = 0.001


class _Flow:
    """Waiting rows of one flow, sorted by `policy.order`."""

    __slots__ = ("_given", "_last_s", "_span_s", "due", "rows", "tokens")

    def __init__(self, due: float) -> None:
        self.rows: list[policy.Row] = []
        self.tokens = 0
        self.due = due  # what it was given when its first row became first
        self._last_s = math.nan
        self._given = 0.0
        self._span_s = 0.0

    def give(self, tokens: int, now_s: float) -> None:
        """It is served so many tokens: what its pace is measured by."""
        passed_s = now_s - self._last_s
        if passed_s >= 0:
            kept = math.exp(-passed_s / PACE_MEMORY_S)
            self._given = kept * self._given + tokens
            self._span_s = kept * self._span_s + passed_s
        self._last_s = now_s

    def pace_s(self, tokens: int) -> float:
        """Seconds until it is given so many tokens, at its pace; 0 where it has none yet."""
        return tokens * self._span_s / self._given if self._span_s > PACE_LEAST_S else 0.0

    def place(self, row: policy.Row) -> int | None:
        """Where the row stands, if it does."""
        if self.rows[0] is row:  # as mostly
            return 0
        at = bisect.bisect_left(self.rows, row.order, key=policy.order)
        return at if at < len(self.rows) and self.rows[at] is row else None


class Queue:
    """Rows that wait. Has one owner, and takes no locks."""

    def __init__(self, *, max_bytes: int = MAX_QUEUE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._flows: dict[Hashable, _Flow] = {}
        self._deep: set[Hashable] = set()  # flows with more than one row
        self._suspects: list[policy.Row] = []
        self._shares = shares.Shares()
        self._rows = 0
        self._tokens = 0
        self._squares = 0
        self._bytes = 0
        self._company = 1.0  # how often waiting for company paid, recent times counting more
        # The least arrival, and the least time at which a row has used half of what it has.
        self._oldest_s = math.inf
        self._half_s = math.inf
        self._is_stale = False

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[policy.Row]:
        yield from self._suspects
        for flow in self._flows.values():
            yield from flow.rows

    @property
    def tokens(self) -> int:
        """Tokens of all rows that wait."""
        return self._tokens

    @property
    def is_contended(self) -> bool:
        """Whether several flows wait for each other."""
        return len(self._flows) > 1

    @property
    def everything(self) -> admission.Work:
        """All that waits."""
        return admission.Work(self._rows, self._tokens, self._squares)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that waits; 0 without rows."""
        return max((row.tokens for row in self), default=0)

    @property
    def next_deadline_s(self) -> float:
        """The earliest time by which a row has to run, or has waited long; infinity without."""
        if self._suspects:
            return -math.inf
        return min((flow.rows[0].order[0] for flow in self._flows.values()), default=math.inf)

    @property
    def next_is_isolated(self) -> bool:
        """Whether the next row must run alone."""
        return bool(self._suspects)

    def put(self, rows: Sequence[policy.Row], *, retry_after_s: float = RETRY_AFTER_S) -> None:
        """Adds all rows of one call, or none.

        Raises:
            errors.Overloaded: They do not fit now.
            errors.TooLarge: They would not even fit into an empty queue.
        """
        size_bytes = sum(row.size_bytes for row in rows)
        if size_bytes > self._max_bytes:
            tokens = sum(row.tokens for row in rows)
            raise errors.TooLarge(
                f"one call must fit into the queue of {self._max_bytes} bytes, and its "
                f"{len(rows)} inputs of {tokens} tokens take {size_bytes}",
                hint="split the call",
            )
        if self._bytes + size_bytes > self._max_bytes:
            raise errors.Overloaded("the queue is full", retry_after_s=retry_after_s)
        self.put_back(rows)

    def put_back(self, rows: Sequence[policy.Row]) -> None:
        """Adds rows that were admitted before, such as those a dead worker held: never refuses."""
        for row in rows:
            self._count(row, 1)
            if row.isolate:
                self._suspects.append(row)
                continue
            if (flow := self._flows.get(row.flow)) is None:
                self._shares.enter(row.flow)
                flow = self._flows[row.flow] = _Flow(self._shares.of(row.flow))
            if not flow.rows or flow.rows[-1].order < row.order:  # as mostly
                flow.rows.append(row)
            else:
                bisect.insort(flow.rows, row, key=policy.order)
            flow.tokens += row.tokens
            if len(flow.rows) > 1:
                self._deep.add(row.flow)
            self._oldest_s = min(self._oldest_s, row.arrival_s)
            self._half_s = min(self._half_s, (row.arrival_s + row.deadline_s) / 2)

    def cancel(self, row: policy.Row) -> bool:
        """Marks a row as cancelled; frees its place if it still waits, and says whether it did."""
        row.cancelled = True
        return self._remove(row)

    def take(
        self, limits: policy.Limits, now_s: float, price: cost.Price = cost.FREE
    ) -> policy.Taken:
        """Removes and returns the next batch and all expired rows; see `policy.take`."""
        if self._suspects:
            row = self._suspects[0]
            self._remove(row)
            is_late = row.deadline_s <= now_s
            return policy.Taken(batch=[] if is_late else [row], expired=[row] if is_late else [])
        flows = {key: flow.rows for key, flow in self._flows.items()}
        served = {key: self._shares.of(key) for key in flows}
        due = {key: flow.due for key, flow in self._flows.items()}
        taken = policy.take(flows, served, limits, now_s, price, due)
        for row in taken.expired:
            self._remove(row)
        if taken.batch:
            self._shares.reach(self._flows[taken.batch[0].flow].due)
        for row in taken.batch:
            self._shares.charge(row.flow, row.tokens / row.weight)
            self._flows[row.flow].give(row.tokens, now_s)
            self._remove(row)
        if limits.max_delay_s > 0 and taken.batch:
            self._learn_company(len(taken.batch))
        if self._flows:
            self._shares.reach(min(flow.due for flow in self._flows.values()))
        else:
            self._shares.reset()
        return taken

    def ready_at(self, limits: policy.Limits) -> float:
        """The time from which an idle lane may start a batch.

        A time in the past means at once: no waiting is wanted or pays, a limit is reached, or a row
        must run alone. Without rows: never (infinity).
        """
        if not self._rows:
            return math.inf
        is_full = self._rows >= limits.max_rows or self._tokens >= limits.max_tokens
        if is_full or limits.max_delay_s == 0 or self._suspects or self._company < COMPANY_LEAST:
            return -math.inf
        if self._is_stale:
            self._oldest_s = min(row.arrival_s for row in self)
            self._half_s = min((row.arrival_s + row.deadline_s) / 2 for row in self)
            self._is_stale = False
        return min(self._oldest_s + limits.max_delay_s, self._half_s)

    def ahead(self, rows: Sequence[policy.Row]) -> admission.Ahead:
        """What would run before the last of these rows, which are of one flow."""
        last = max(rows, key=policy.order)
        before, _ = self._split(last)
        return self._ahead(rows, before)

    def behind(
        self, rows: Sequence[policy.Row]
    ) -> Iterator[tuple[policy.Row, admission.Ahead, admission.Ahead]]:
        """Rows of the same flow that these would delay: what is ahead of each then and now."""
        before, delayed = self._split(max(rows, key=policy.order))
        for row in delayed:
            yield row, self._ahead([row], before), self._ahead([row], before, rows)
            before += row.tokens

    def drain(self) -> list[policy.Row]:
        """Removes and returns every row, for a queue that closes."""
        rows = list(self)
        for row in rows:
            self._remove(row)
        return rows

    def _split(self, by: policy.Row) -> tuple[int, list[policy.Row]]:
        """Tokens of its flow ahead of a row, and the rows behind it."""
        flow = self._flows.get(by.flow)
        if flow is None:
            return 0, []
        if flow.rows[-1].order < by.order:  # as mostly
            return flow.tokens, []
        delayed = flow.rows[bisect.bisect_left(flow.rows, by.order, key=policy.order) :]
        return flow.tokens - sum(row.tokens for row in delayed), delayed

    def _ahead(
        self, rows: Sequence[policy.Row], before: int, new: Sequence[policy.Row] = ()
    ) -> admission.Ahead:
        """What is ahead of rows: so many waiting tokens of their flow, these new rows, others."""
        own, more = admission.Work.of(rows), admission.Work.of(new)
        flow = self._flows.get(rows[0].flow)
        last = max(rows, key=policy.order)  # due by what its flow is given before it
        others = self._others(rows[0], before + more.tokens + own.tokens - last.tokens)
        return admission.Ahead(
            before=self.everything.part(before + others) + more,
            own=own,
            longest=max(row.tokens for row in rows),
            pace_s=self._pace_margin * flow.pace_s(before) if flow else 0.0,
        )

    @property
    def _pace_margin(self) -> float:
        return CONTENDED_PACE_MARGIN if self.is_contended else 1.0

    def _others(self, by: policy.Row, tokens: float) -> float:
        """Tokens that other flows are given until this one was given so many.

        Flows with a single row are taken to be served first: mostly they are, and there may be
        thousands of them.
        """
        own = self._flows.get(by.flow)
        ahead = float(self._tokens - (own.tokens if own else 0))
        end = self._shares.end_of_round(by.flow, tokens / by.weight) if self._deep else 0.0
        for key in self._deep:
            if key != by.flow:
                flow = self._flows[key]
                due = (end - self._shares.of(key)) * flow.rows[0].weight
                ahead -= max(0.0, flow.tokens - max(0.0, due))
        return ahead

    def _remove(self, row: policy.Row) -> bool:
        if row.isolate and row in self._suspects:
            self._suspects.remove(row)
            self._count(row, -1)
            return True
        flow = self._flows.get(row.flow)
        at = flow.place(row) if flow is not None else None
        if flow is None or at is None:
            return False
        del flow.rows[at]
        flow.tokens -= row.tokens
        if len(flow.rows) == 1:
            self._deep.discard(row.flow)
        if not flow.rows:
            del self._flows[row.flow]
        elif at == 0:
            flow.due = self._shares.of(row.flow)
        self._count(row, -1)
        self._is_stale = True
        return True

    def _count(self, row: policy.Row, sign: int) -> None:
        self._rows += sign
        self._tokens += sign * row.tokens
        self._squares += sign * row.tokens**2
        self._bytes += sign * row.size_bytes
        if not self._rows:
            self._oldest_s = self._half_s = math.inf
            self._is_stale = False

    def _learn_company(self, rows: int) -> None:
        if self._company < COMPANY_LEAST:
            self._company += COMPANY_RETRY
        else:
            self._company *= COMPANY_MEMORY
            self._company += (1 - COMPANY_MEMORY) * (rows > 1)
