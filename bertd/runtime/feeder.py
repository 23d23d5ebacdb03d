"""Rows in, batches out, answers back: the queue and the lanes of one revision.

A feeder owns its rows until they are answered. It knows nothing of processes: it gives frames to
`send` while `open` says that somebody takes them, and is told of results and of losses. Rows that
were in a lost batch run again, each alone, so that a bad one is found without hurting its mates.
"""

import asyncio
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from bertd import errors, frames, metrics
from bertd.batching import admission, efficiency, policy, queue, sharing
from bertd.runtime import calls, dispatcher, gate, lanes, slots
from bertd.tokenization import tokenizer

log = structlog.get_logger()

POISON_DEATHS = 2
# A caller whose deadline passes cancels the call, a message's journey before ours passes here.
DEADLINE_SLACK_S = 0.05
RECORD_S = 0.05  # arrivals tell the metrics what waits no more often; batches always do


@dataclass(frozen=True, slots=True)
class Flow:
    """Whose share of a revision rows use, and how large it is."""

    name: Hashable = ""
    weight: float = 1.0

    def at(self, priority: float) -> "Flow":
        """Its rows of another priority, which are a flow of their own."""
        return Flow((self.name, priority), self.weight * priority)


BASE_FLOW = Flow()


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
        send: gives one frame to a lane.
    """

    def __init__(
        self,
        model: str,
        limits: gate.Limits,
        *,
        device: dispatcher.Dispatcher,
        metrics: metrics.Metrics,
        clock: Callable[[], float],
        send: Callable[[int, bytes], None],
    ) -> None:
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
        self._lanes = lanes.Lanes(device.permits, clock)
        self._gate = self._gate_of(limits)
        self._sequence = itertools.count()
        self._efficiency = efficiency.Efficiency()
        self._record_at_s = -math.inf

    @property
    def limits(self) -> gate.Limits:
        """Batching and admission; may be replaced at any time."""
        return self._gate.limits

    @limits.setter
    def limits(self, limits: gate.Limits) -> None:
        self._gate.limits = limits

    def use(self, device: dispatcher.Dispatcher) -> None:
        """Takes permits of another device from now on; nothing may be running."""
        self._device = device
        self._lanes = lanes.Lanes(device.permits, self._clock)
        self._gate = self._gate_of(self.limits)

    def learn_worker(self, facts: Mapping[str, Any]) -> None:
        """What a new worker tells: what it can do, and what its first batches took."""
        self.is_wide = bool(facts.get("wide"))
        self.peak_per_s = efficiency.peak_per_s(facts)
        self._gate.learn_worker(facts)

    def _gate_of(self, limits: gate.Limits) -> gate.Gate:
        return gate.Gate(
            limits,
            waiting=self._queue,
            lanes=self._lanes,
            device=self._device,
            holder=self,
            clock=self._clock,
        )

    # Rows in.

    async def run(
        self,
        rows: Sequence[tokenizer.Encoded],
        entry: slots.Entry,
        task: frames.Task,
        deadline_s: float,
        flow: Flow = BASE_FLOW,
    ) -> calls.Ran:
        """Queues the rows of one call and waits for all their answers; see `Revision.run`."""
        self._metrics.rows_received(model=self._model, rows=len(rows))
        outcome, call = "answered", None
        try:
            call = self._submit(rows, entry, task, deadline_s, flow)
            return await call.future
        except BaseException as error:
            outcome = _outcome(error, is_late=self._clock() >= deadline_s - DEADLINE_SLACK_S)
            if call is not None:  # cancelled, or failed by one of its rows: nobody wants the others
                self._withdraw(call.rows)
            raise
        finally:
            self._metrics.rows_ended(model=self._model, outcome=outcome, rows=len(rows))
            # Rows point back at their call, and an error's traceback at this frame: such cycles
            # would hold the adapter's slot until they are collected.
            if call is not None:
                call.rows = []
            del call

    def check_open(self, rows: int, flow: Flow) -> None:
        """Refuses a call before anybody works for it, where that is known to be in vain.

        Raises:
            errors.Overloaded: a row of this flow was refused just now, and nothing has changed.
        """
        if (found := self._gate.closed(flow.name, self._clock())) is not None:
            self._metrics.rows_received(model=self._model, rows=rows)
            self._metrics.rows_ended(model=self._model, outcome="refused", rows=rows)
            raise self._overloaded(found, rows)

    def _overloaded(self, found: admission.Refusal, rows: int) -> errors.Overloaded:
        self._metrics.shed(model=self._model, reason=found.reason, rows=rows)
        text = f"model '{self._model}' is overloaded: {found.text}"
        return errors.Overloaded(text, retry_after_s=found.retry_after_s)

    def _submit(
        self,
        encoded: Sequence[tokenizer.Encoded],
        entry: slots.Entry,
        task: frames.Task,
        deadline_s: float,
        flow: Flow,
    ) -> calls.Call:
        now_s = self._clock()
        call = calls.Call(asyncio.get_running_loop().create_future(), len(encoded))
        rows = [
            policy.Row(
                tokens=len(one.ids),
                deadline_s=deadline_s,
                arrival_s=now_s,
                sequence=next(self._sequence),
                flow=flow.name,
                weight=flow.weight,
                payload=calls.Job(call=call, index=i, encoded=one, entry=entry, task=task),
            )
            for i, one in enumerate(encoded)
        ]
        self._admit(rows, now_s)
        call.rows = rows
        if len(self._queue) == len(rows) or self._device.has_free:
            self._device.pump_for(self)  # else it waits already, and more rows change nothing
        if now_s >= self._record_at_s:
            self._record_queue()
        return call

    def _withdraw(self, rows: Sequence[policy.Row]) -> None:
        for row in rows:
            self._queue.cancel(row)

    def _admit(self, rows: Sequence[policy.Row], now_s: float) -> None:
        """Queues the rows of a call.

        Raises:
            errors.Expired, errors.Overloaded, errors.TooLarge: nothing was queued.
        """
        if rows[0].deadline_s <= now_s:
            self._metrics.expired(model=self._model, rows=len(rows))
            raise errors.Expired("the deadline passed before the call was queued")
        if (found := self._gate.refusal(rows, now_s)) is not None:
            raise self._overloaded(found, len(rows))
        try:
            self._queue.put(rows)
            self._metrics.admitted(model=self._model, rows=len(rows))
        except errors.Overloaded:
            self._metrics.shed(model=self._model, reason="QueueFull", rows=len(rows))
            raise

    # Batches out.

    @property
    def next_deadline_s(self) -> float:
        """When the most urgent waiting row has to run."""
        return self._queue.next_deadline_s

    @property
    def queued_s(self) -> float:
        """Lane-seconds of the rows that wait."""
        return self._queue.everything.seconds(self._gate.price, 0)

    def ready_at(self) -> float:
        """When a batch may start; infinity while no lane is idle or nobody takes frames."""
        if not self._lanes.idle or not self.open or self._is_isolating():
            return math.inf
        return self._queue.ready_at(self.limits.batch)

    def ahead_at(self) -> float:
        """When a busy lane may be sent its next batch."""
        if not self.open or not len(self._queue) or self._is_isolating():
            return math.inf
        return self._lanes.ahead_at()

    def _is_isolating(self) -> bool:
        """A suspect runs with nothing beside it on any lane, so that a death blames it alone."""
        return bool(self._lanes) and (self._queue.next_is_isolated or self._lanes.has_suspect)

    def dispatch(self, free_permits: int, *, is_alone: bool) -> dispatcher.Lease | None:
        """Sends the next batch to an idle lane; see `dispatcher.Runnable`."""
        share = self._share(free_permits, is_alone=is_alone)
        rows = self._take(share.tokens, self._clock())
        return self._dispatch(self._lanes.idle.pop(), rows, share.threads) if rows else None

    def dispatch_ahead(self) -> dispatcher.Lease | None:
        """Sends the lane that ends first its next batch; see `dispatcher.Runnable`."""
        lane, running = self._lanes.next()
        rows = self._take(self._share(1, is_alone=False).tokens, running.ends_s)
        return self._dispatch(lane, rows, threads=1) if rows else None

    def _take(self, max_tokens: int, start_s: float) -> list[policy.Row]:
        limits = replace(self.limits.batch, max_tokens=max_tokens)
        taken = self._queue.take(limits, max(start_s, self._clock()), self._gate.price)
        for row in taken.expired:
            self._expire(row)
        return taken.batch

    def _dispatch(self, lane: int, rows: list[policy.Row], threads: int) -> dispatcher.Lease:
        expected_s = self._gate.price.batch_s(row.tokens for row in rows) / threads
        lease = dispatcher.Lease(holder=self, permits=threads, expected_s=expected_s)
        self._lanes.begin(lane, lanes.Running(rows, lease))
        self._gate.reopen()
        now_s = self._clock()
        for row in rows:
            calls.job(row).started_s = now_s
        self._send(lane, calls.frame(lane, rows, threads))
        self._record_batch(rows)
        self._record_at_s = -math.inf
        return lease

    def _share(self, free_permits: int, *, is_alone: bool) -> sharing.Share:
        """What the next batch may take of the queue and of the free permits."""
        idle = max(1, min(free_permits, len(self._lanes.idle)))
        tokens = self._queue.tokens
        return sharing.share(
            rows=len(self._queue),
            tokens=tokens,
            longest=self._queue.longest if idle > 1 else tokens,
            limits=self._gate.enough,
            lanes=idle,
            spare=free_permits if self.is_wide and is_alone else 1,
        )

    # Answers back.

    def on_result(self, lane: int, header: frames.Header, body: memoryview) -> None:
        """A lane answered: it gets its next batch before the callers wake."""
        # First what may raise: the transport then ends the worker, whose rows run again.
        result = frames.decode_result(header, body) if header.kind == frames.Kind.RESULT else None
        done = self._lanes.end(lane)
        self._gate.reopen()
        if result is not None:
            self._learn(done, result)
        self._device.release(done.lease)
        if result is not None and len(result.vectors) == len(done.rows):
            self._answer(done.rows, result)
        else:
            why = "a result is missing" if result else frames.decode_failure(header, body).message
            log.error("batch failed", model=self._model, rows=len(done.rows), error=why)
            self._rerun(done.rows, died=False)
            self._device.pump()
        self._record_queue()

    def on_lost(self) -> int:
        """Whoever ran batches is gone: their rows wait again. Returns the number of batches."""
        self.open = False
        lost = self._lanes.clear()
        for running, *ahead in lost:
            self._rerun(running.rows, died=True)
            for each in ahead:  # it never ran: nobody suspects it
                self._queue.put_back([row for row in each.rows if not row.cancelled])
        for running, *_ in lost:
            self._device.release(running.lease)
        return sum(map(len, lost))

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
        left = self._lanes.clear()
        ran = [row for lane in left for each in lane for row in each.rows]
        for row in (*self._queue.drain(), *ran):
            calls.job(row).call.fail(error)
        for running, *_ in left:
            self._device.release(running.lease)

    def _answer(self, rows: Sequence[policy.Row], result: frames.Result) -> None:
        for row, vector in zip(rows, result.vectors, strict=True):
            job = calls.job(row)
            job.call.answer(job.index, vector, job.started_s - row.arrival_s, result.seconds)

    def _rerun(self, rows: Sequence[policy.Row], *, died: bool) -> None:
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

    def _expire(self, row: policy.Row) -> None:
        self._metrics.expired(model=self._model)
        calls.job(row).call.fail(errors.Expired("the deadline passed while the call was queued"))

    # What is measured.

    def _learn(self, done: lanes.Running, result: frames.Result) -> None:
        """What a batch cost: the lanes that it kept busy for so long."""
        threads = done.lease.permits
        self._gate.cost.learn((row.tokens for row in done.rows), result.seconds * threads)
        if self.peak_per_s and result.operations:
            self.efficiency = self._efficiency.learn(
                self.peak_per_s, result.operations, result.seconds, threads
            )
            self._metrics.efficiency(model=self._model, share=self.efficiency)

    def _record_batch(self, rows: Sequence[policy.Row]) -> None:
        slots_used = {calls.job(row).entry.slot for row in rows}
        tokens = sum(row.tokens for row in rows)
        self._metrics.batch(
            model=self._model, rows=len(rows), tokens=tokens, adapters=len(slots_used)
        )

    def _record_queue(self) -> None:
        self._record_at_s = self._clock() + RECORD_S
        self._metrics.queue(
            model=self._model,
            rows=len(self._queue),
            tokens=self._queue.tokens,
            delay_s=self._gate.wait_s(),
            running_tokens=self._lanes.tokens,
        )


def _outcome(error: BaseException, *, is_late: bool) -> str:
    """How the rows of a call ended that was not answered; grpc cancels what is late."""
    match error:
        case errors.Expired():
            return "expired"
        case asyncio.CancelledError():
            return "expired" if is_late else "cancelled"
        case errors.NotReady() | errors.TooLarge():
            return "refused"
    return "failed"


def _final_error(alone: bool, died: bool, deaths: int) -> errors.Error | None:
    """What to answer for a row of a lost batch, or None to run it again."""
    if not alone:
        return None
    if not died:
        return errors.Bug("the worker cannot compute this input")
    if deaths >= POISON_DEATHS:
        return errors.Poison("this input ended two workers; it will not run again")
    return None
