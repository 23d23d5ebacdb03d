"""Rows in, batches out, answers back: the queue and the lanes of one revision.

A feeder owns its rows until they are answered. It knows nothing of processes: it gives frames to
`send` while `open` says that somebody takes them, and is told of results and of losses. Rows that
were in a lost batch run again, each alone, so that a bad one is found without hurting its mates.
"""

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from bertd import errors, frames, metrics
from bertd.batching import batch, cost, queue
from bertd.runtime import calls, dispatcher, slots
from bertd.tokenization import tokenizer

log = structlog.get_logger()

SPLIT_TOKENS = 128  # below this, splitting a backlog over idle lanes gains nothing
POISON_DEATHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may change while the revision runs."""

    batch: batch.Limits
    max_queue_delay_s: float


class Feeder:
    """Feeds the lanes of one revision.

    Args:
        model: name for errors and metrics.
        limits: batching and admission; may be replaced at any time.
        device: the dispatcher whose permits it uses.
        metrics: where batches and queues are recorded.
        clock: monotonic seconds.
        send: gives one frame to an idle lane.
    """

    def __init__(
        self,
        model: str,
        limits: Limits,
        *,
        device: dispatcher.Dispatcher,
        metrics: metrics.Metrics,
        clock: Callable[[], float],
        send: Callable[[int, bytes], None],
    ) -> None:
        self.limits = limits
        self.open = False
        self._model = model
        self._device = device
        self._metrics = metrics
        self._clock = clock
        self._send = send
        self._queue = queue.Queue()
        self._running: dict[int, list[batch.Row]] = {}
        self._idle = list(range(device.permits))
        self._sequence = itertools.count()
        self._cost = cost.Cost()

    # Rows in.

    async def run(
        self,
        rows: Sequence[tokenizer.Encoded],
        entry: slots.Entry,
        task: frames.Task,
        deadline_s: float,
    ) -> calls.Ran:
        """Queues the rows of one call and waits for all their answers; see `Revision.run`."""
        call = self._submit(rows, entry, task, deadline_s)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._withdraw(call.rows)
            raise
        finally:
            # Rows point back at their call, and an error's traceback at this frame: such cycles
            # would hold the adapter's slot until they are collected.
            call.rows = []
            del call

    def _submit(
        self,
        encoded: Sequence[tokenizer.Encoded],
        entry: slots.Entry,
        task: frames.Task,
        deadline_s: float,
    ) -> calls.Call:
        now_s = self._clock()
        self._admit(now_s, deadline_s)
        call = calls.Call(asyncio.get_running_loop().create_future(), len(encoded))
        call.rows = [
            batch.Row(
                tokens=len(one.ids),
                deadline_s=deadline_s,
                arrival_s=now_s,
                sequence=next(self._sequence),
                payload=calls.Job(call=call, index=i, encoded=one, entry=entry, task=task),
            )
            for i, one in enumerate(encoded)
        ]
        self._put(call.rows)
        self._device.pump()
        self._record_queue()
        return call

    def _withdraw(self, rows: Sequence[batch.Row]) -> None:
        for row in rows:
            self._queue.cancel(row)
        self._record_queue()

    def _admit(self, now_s: float, deadline_s: float) -> None:
        if deadline_s <= now_s:
            self._metrics.expired(model=self._model)
            raise errors.Expired("the deadline passed before the call was queued")
        wait_s = self.predicted_wait_s()
        if wait_s > self.limits.max_queue_delay_s:
            self._metrics.shed(model=self._model, reason="QueueDelay")
            raise errors.Overloaded(
                f"model '{self._model}' is overloaded: the predicted wait is {wait_s:.3f} s",
                retry_after_s=wait_s,
            )

    def _put(self, rows: Sequence[batch.Row]) -> None:
        try:
            self._queue.put(rows)
        except errors.Overloaded:
            self._metrics.shed(model=self._model, reason="QueueFull", rows=len(rows))
            raise

    def predicted_wait_s(self) -> float:
        """Seconds that a row arriving now would wait, from the measured cost of batches."""
        limits = self.limits.batch
        tokens = self._queue.tokens
        batches = math.ceil(max(tokens / limits.max_tokens, len(self._queue) / limits.max_rows))
        busy_s = 0.0
        if not self._idle:
            running = [sum(row.tokens for row in rows) for rows in self._running.values()]
            busy_s = self._cost.seconds(sum(running), batches=len(running))
        queued_s = self._cost.seconds(tokens, batches=batches)
        return queue.predicted_wait_s(queued_s, busy_s, self._device.permits)

    # Batches out.

    @property
    def next_deadline_s(self) -> float:
        """When the most urgent waiting row expires."""
        return self._queue.next_deadline_s

    def ready_at(self) -> float:
        """When a batch may start; infinity while no lane is idle or nobody takes frames."""
        if not self._idle or not self.open or self._is_isolating():
            return math.inf
        return self._queue.ready_at(self.limits.batch)

    def _is_isolating(self) -> bool:
        """A suspect runs with nothing beside it on any lane, so that a death blames it alone."""
        suspects = (rows[0].isolate for rows in self._running.values())
        return bool(self._running) and (self._queue.next_is_isolated or any(suspects))

    def dispatch(self, free_permits: int) -> bool:
        """Sends the next batch to an idle lane; False when only expired rows were waiting."""
        taken = self._queue.take(self._batch_limits(free_permits), self._clock())
        for row in taken.expired:
            self._expire(row)
        if taken.batch and taken.batch[0].isolate and self._running:
            self._queue.put_back(taken.batch)  # an expired row hid it from `ready_at`
            return False
        if not taken.batch:
            return False
        lane = self._idle.pop()
        self._running[lane] = taken.batch
        now_s = self._clock()
        for row in taken.batch:
            calls.job(row).started_s = now_s
        self._send(lane, calls.frame(lane, taken.batch))
        self._record_batch(taken.batch)
        return True

    def _batch_limits(self, free_permits: int) -> batch.Limits:
        """Shares a backlog among lanes that would otherwise idle; rows are independent."""
        limits = self.limits.batch
        lanes = 1 + min(free_permits, len(self._idle) - 1)
        share = max(SPLIT_TOKENS, math.ceil(self._queue.tokens / lanes))
        return replace(limits, max_tokens=min(limits.max_tokens, share))

    # Answers back.

    def on_result(self, lane: int, header: frames.Header, body: memoryview) -> None:
        """A lane answered: the lane gets its next batch before the callers wake."""
        # First what may raise: the transport then ends the worker, whose rows run again.
        result = frames.decode_result(header, body) if header.kind == frames.Kind.RESULT else None
        rows = self._running.pop(lane)
        self._idle.append(lane)
        if result is not None:
            self._cost.learn(sum(row.tokens for row in rows), result.seconds)
        self._device.release()
        if result is not None and len(result.vectors) == len(rows):
            self._answer(rows, result)
        else:
            why = "a result is missing" if result else frames.decode_failure(header, body).message
            log.error("batch failed", model=self._model, rows=len(rows), error=why)
            self._rerun(rows, died=False)
            self._device.pump()
        self._record_queue()

    def on_lost(self) -> int:
        """Whoever ran batches is gone: their rows wait again. Returns the number of batches."""
        self.open = False
        lost = list(self._running.values())
        self._running.clear()
        self._idle = list(range(self._device.permits))
        for rows in lost:
            self._rerun(rows, died=True)
        for _ in lost:
            self._device.release()
        return len(lost)

    def refuse(self, entry: slots.Entry, error: errors.Error) -> None:
        """Fails the calls whose rows wait for an adapter that is not in its slot any more."""
        waiting = self._queue.drain()
        self._queue.put_back([row for row in waiting if calls.job(row).entry is not entry])
        for row in waiting:
            if calls.job(row).entry is entry:
                calls.job(row).call.fail(error)

    def abandon(self, error: errors.Error) -> None:
        """Fails whatever is still queued or running."""
        self.open = False
        running = list(self._running.values())
        self._running.clear()
        for row in (*self._queue.drain(), *itertools.chain(*running)):
            calls.job(row).call.fail(error)
        for _ in running:
            self._device.release()

    def _answer(self, rows: Sequence[batch.Row], result: frames.Result) -> None:
        for row, vector in zip(rows, result.vectors, strict=True):
            job = calls.job(row)
            job.call.answer(job.index, vector, job.started_s - row.arrival_s, result.seconds)

    def _rerun(self, rows: Sequence[batch.Row], *, died: bool) -> None:
        """Lets rows of a lost batch run again, each alone; one that failed alone is answered."""
        again = []
        for row in rows:
            job = calls.job(row)
            job.deaths += died
            error = _final_error(len(rows) == 1, died, job.deaths)
            if error is not None:
                job.call.fail(error)
            elif not row.cancelled:
                row.isolate = True
                again.append(row)
        self._queue.put_back(again)

    def _expire(self, row: batch.Row) -> None:
        self._metrics.expired(model=self._model)
        calls.job(row).call.fail(errors.Expired("the deadline passed while the call was queued"))

    # What is measured.

    def _record_batch(self, rows: Sequence[batch.Row]) -> None:
        slots_used = {calls.job(row).entry.slot for row in rows}
        tokens = sum(row.tokens for row in rows)
        self._metrics.batch(
            model=self._model, rows=len(rows), tokens=tokens, adapters=len(slots_used)
        )

    def _record_queue(self) -> None:
        self._metrics.queue(
            model=self._model,
            rows=len(self._queue),
            tokens=self._queue.tokens,
            delay_s=self.predicted_wait_s(),
        )


def _final_error(alone: bool, died: bool, deaths: int) -> errors.Error | None:
    """What to answer for a row of a lost batch, or None to run it again."""
    if not alone:
        return None
    if not died:
        return errors.Bug("the worker cannot compute this input")
    if deaths >= POISON_DEATHS:
        return errors.Poison("this input ended two workers; it will not run again")
    return None
