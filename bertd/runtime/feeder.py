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
from bertd.batching import batch, cost, efficiency, queue, sharing
from bertd.runtime import calls, dispatcher, slots
from bertd.tokenization import tokenizer

log = structlog.get_logger()

POISON_DEATHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may change while the revision runs."""

    batch: batch.Limits
    max_queue_delay_s: float


@dataclass(frozen=True, slots=True)
class Running:
    """A batch on its lane, and how many threads, which are permits, it keeps busy."""

    rows: list[batch.Row]
    threads: int

    @property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(row.tokens for row in self.rows)


class Feeder:
    """Feeds the lanes of one revision.

    `is_wide` says whether those who take frames can run a batch on several threads, `peak_per_s`
    what each thread can do (0: nobody knows), `efficiency` how much of that they reached lately.

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
        self.is_wide = False
        self.peak_per_s = 0.0
        self.efficiency = 0.0
        self._model = model
        self._device = device
        self._metrics = metrics
        self._clock = clock
        self._send = send
        self._queue = queue.Queue()
        self._running: dict[int, Running] = {}
        self._idle = list(range(device.permits))
        self._sequence = itertools.count()
        self._cost = cost.Cost()
        self._efficiency = efficiency.Efficiency()

    def use(self, device: dispatcher.Dispatcher) -> None:
        """Takes permits of another device from now on; nothing may be running."""
        self._device = device
        self._idle = list(range(device.permits))

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
        if sum(each.threads for each in self._running.values()) >= self._device.permits:
            running = [each.tokens for each in self._running.values()]
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
        suspects = (each.rows[0].isolate for each in self._running.values())
        return bool(self._running) and (self._queue.next_is_isolated or any(suspects))

    def dispatch(self, free_permits: int, *, is_alone: bool) -> int:
        """Sends the next batch to an idle lane; see `dispatcher.Runnable`."""
        share = self._share(free_permits, is_alone=is_alone)
        limits = replace(self.limits.batch, max_tokens=share.tokens)
        taken = self._queue.take(limits, self._clock())
        for row in taken.expired:
            self._expire(row)
        if taken.batch and taken.batch[0].isolate and self._running:
            self._queue.put_back(taken.batch)  # an expired row hid it from `ready_at`
            return 0
        if not taken.batch:
            return 0
        lane = self._idle.pop()
        self._running[lane] = Running(taken.batch, share.threads)
        now_s = self._clock()
        for row in taken.batch:
            calls.job(row).started_s = now_s
        self._send(lane, calls.frame(lane, taken.batch, share.threads))
        self._record_batch(taken.batch)
        return share.threads

    def _share(self, free_permits: int, *, is_alone: bool) -> sharing.Share:
        """What the next batch may take of the queue and of the free permits."""
        lanes = min(free_permits, len(self._idle))
        tokens = self._queue.tokens
        return sharing.share(
            rows=len(self._queue),
            tokens=tokens,
            longest=self._queue.longest if lanes > 1 else tokens,
            limits=self.limits.batch,
            lanes=lanes,
            spare=free_permits if self.is_wide and is_alone else 1,
        )

    # Answers back.

    def on_result(self, lane: int, header: frames.Header, body: memoryview) -> None:
        """A lane answered: the lane gets its next batch before the callers wake."""
        # First what may raise: the transport then ends the worker, whose rows run again.
        result = frames.decode_result(header, body) if header.kind == frames.Kind.RESULT else None
        done = self._running.pop(lane)
        rows = done.rows
        self._idle.append(lane)
        if result is not None:
            self._learn(done, result)
        self._device.release(done.threads)
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
        for each in lost:
            self._rerun(each.rows, died=True)
        for each in lost:
            self._device.release(each.threads)
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
        ran = itertools.chain.from_iterable(each.rows for each in running)
        for row in (*self._queue.drain(), *ran):
            calls.job(row).call.fail(error)
        for each in running:
            self._device.release(each.threads)

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

    def _learn(self, done: Running, result: frames.Result) -> None:
        """What a batch cost: the lanes that it kept busy for so long."""
        self._cost.learn(done.tokens, result.seconds * done.threads)
        if self.peak_per_s and result.operations:
            self.efficiency = self._efficiency.learn(
                self.peak_per_s, result.operations, result.seconds, done.threads
            )
            self._metrics.efficiency(model=self._model, share=self.efficiency)

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
