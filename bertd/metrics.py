"""Every metric that bertd exports.

Recorded in three places: the guard of calls (requests), the runtime (rows, batches, queues,
workers) and the reconciler (revisions, manifest). A series dies with its object: see `forget_model`
and `forget_adapter`. Label values come from declared names only: for a request that names an
unknown model or adapter, record an empty label.

Numbers are plain, written by the event loop alone and read by the exporter's thread. Those of
prometheus_client take a lock and five calls each, and a call is counted ten times.
"""

import bisect
import itertools
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

import prometheus_client
from prometheus_client import core, utils
from prometheus_client import metrics_core as exported

# Adapters of one model that get a label value of their own; the rest share "other".
MAX_ADAPTER_LABELS = 100
OTHER = "other"
INLINE = "(inline)"  # every adapter that came with a request

# How a row may end: each that was received ends as exactly one of these.
OUTCOMES = ("answered", "refused", "expired", "cancelled", "failed")

_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)

_Labels = tuple[str, ...]
_Value = TypeVar("_Value")


class _Family(Generic[_Value]):
    """One metric with its series by label values."""

    def __init__(self, name: str, text: str, labels: _Labels) -> None:
        self._name = f"bertd_{name}"
        self._text = text
        self._labels = labels
        self._series: dict[_Labels, _Value] = {}

    def forget(self, **wanted: str) -> None:
        """Removes every series that has all of these label values."""
        if not wanted.keys() <= set(self._labels):
            return
        places = {self._labels.index(label): value for label, value in wanted.items()}
        for values in [v for v in self._series if all(v[i] == w for i, w in places.items())]:
            del self._series[values]

    def collect(self) -> core.Metric:
        """Its samples now. In the exporter's thread: a copy of the series is made at once."""
        raise NotImplementedError


class _Counter(_Family[float]):
    """Only grows."""

    def add(self, *values: str, by: float = 1) -> None:
        self._series[values] = self._series.get(values, 0) + by

    def collect(self) -> core.Metric:
        family = exported.CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in list(self._series.items()):
            family.add_metric(values, number)
        return family


class _Gauge(_Family[float]):
    """The last number that was set."""

    def set(self, *values: str, to: float) -> None:
        self._series[values] = to

    def collect(self) -> core.Metric:
        family = exported.GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in list(self._series.items()):
            family.add_metric(values, number)
        return family


class _Observed:
    """Observations of one series, by bucket; the last bucket has no bound."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class _Histogram(_Family[_Observed]):
    """How often a number was at most each of some bounds."""

    def __init__(self, name: str, text: str, labels: _Labels, bounds: tuple[float, ...]) -> None:
        super().__init__(name, text, labels)
        self._bounds = bounds
        self._bound_names = [
            utils.floatToGoString(bound)  # type: ignore[no-untyped-call]
            for bound in (*bounds, math.inf)
        ]

    def observe(self, *values: str, number: float) -> None:
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = _Observed(len(self._bounds))
        series.counts[bisect.bisect_left(self._bounds, number)] += 1
        series.total += number

    def collect(self) -> core.Metric:
        family = exported.HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in list(self._series.items()):
            below = itertools.accumulate(series.counts)
            buckets = list(zip(self._bound_names, below, strict=True))
            family.add_metric(values, buckets, series.total)
        return family


class Metrics(prometheus_client.registry.Collector):
    """All series of one daemon, in one registry. Called from the event loop alone."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._registry = registry
        self._families: list[_Counter | _Gauge | _Histogram] = []
        self._labelled_adapters: dict[str, set[str]] = {}
        self._declare_requests()
        self._declare_rows()
        self._declare_batches()
        self._declare_state()
        registry.register(self)
        prometheus_client.ProcessCollector(registry=registry)

    # Requests: recorded by the RPC interceptor.

    def request(self, *, model: str, adapter: str, method: str, code: str, seconds: float) -> None:
        """One finished call. `code` is the gRPC status name, such as OK or NOT_FOUND."""
        self._requests.add(model, self.adapter_label(model, adapter), method, code)
        self._duration.observe(model, method, number=seconds)

    def call_without_deadline(self, *, method: str) -> None:
        """A call that got the daemon's own."""
        self._without_deadline.add(method)

    def request_parts(
        self, *, model: str, method: str, tokenize_s: float, queue_s: float, inference_s: float
    ) -> None:
        """Where the time of one answered call went."""
        self._tokenize.observe(model, method, number=tokenize_s)
        self._queue_wait.observe(model, method, number=queue_s)
        self._inference.observe(model, method, number=inference_s)

    def adapter_label(self, model: str, adapter: str) -> str:
        """The label value of an adapter: its name for the first `MAX_ADAPTER_LABELS` of a model."""
        if adapter in ("", INLINE):
            return adapter
        known = self._labelled_adapters.setdefault(model, set())
        if adapter in known:
            return adapter
        if len(known) >= MAX_ADAPTER_LABELS:
            return OTHER
        known.add(adapter)
        return adapter

    # Batches and queues: recorded by the runtime.

    def batch(self, *, model: str, rows: int, tokens: int, adapters: int) -> None:
        """One batch was sent to a worker; `adapters` counts the different ones, none included."""
        self._batch_rows.observe(model, number=rows)
        self._batch_tokens.observe(model, number=tokens)
        self._batch_adapters.observe(model, number=adapters)

    def efficiency(self, *, model: str, share: float) -> None:
        """Operations that answers needed, over what the busy lanes could have done, lately."""
        self._efficiency.set(model, to=share)

    def queue(
        self, *, model: str, rows: int, tokens: int, delay_s: float, running_tokens: int = 0
    ) -> None:
        """What waits, what the lanes run, and the predicted wait of a row that arrives now."""
        self._queue_rows.set(model, to=rows)
        self._queue_tokens.set(model, to=tokens)
        self._in_flight_tokens.set(model, to=tokens + running_tokens)
        self._queue_delay.set(model, to=delay_s)

    # Rows: recorded by the runtime.

    def rows_received(self, *, model: str, rows: int) -> None:
        """A call brought so many rows to a model."""
        self._rows_received.add(model, by=rows)

    def rows_ended(self, *, model: str, outcome: str, rows: int) -> None:
        """How the rows of one finished call ended: one of `OUTCOMES`."""
        self._rows_ended.add(model, outcome, by=rows)

    def admitted(self, *, model: str, rows: int = 1) -> None:
        """Rows that wait for a lane from now on."""
        self._admitted.add(model, by=rows)

    def shed(self, *, model: str, reason: str, rows: int = 1) -> None:
        """Rows that were refused, such as for QueueFull, QueueDelay or Draining."""
        self._shed.add(model, reason, by=rows)

    def expired(self, *, model: str, rows: int = 1) -> None:
        """Rows whose deadline passed while they waited; they were never computed."""
        self._expired.add(model, by=rows)

    def worker_restart(self, *, model: str) -> None:
        """A worker died or hung and was replaced."""
        self._restarts.add(model)

    # Objects: recorded by the reconciler.

    def revision(
        self, *, model: str, revision: str, precision: str, kernels: str, digest: str
    ) -> None:
        """The revision that serves from now on, instead of the one before."""
        self._revision.forget(model=model)
        self._revision.set(model, revision, precision, kernels, digest, to=1)

    def adapters(self, *, model: str, declared: int, resident: int, size_bytes: int) -> None:
        """How many different adapters a model serves, how many are in memory, and their bytes."""
        self._adapters.set(model, to=declared)
        self._resident.set(model, to=resident)
        self._resident_bytes.set(model, to=size_bytes)

    def adapter_bytes(self, *, model: str, slot: int) -> None:
        """Memory of one adapter in the table, its head not counted."""
        self._slot_bytes.set(model, to=slot)

    def adapter_hit(self, *, model: str) -> None:
        """A call found its adapter in memory."""
        self._hits.add(model)

    def adapter_miss(self, *, model: str) -> None:
        """A call waits until its adapter is loaded."""
        self._misses.add(model)

    def adapter_evicted(self, *, model: str) -> None:
        """An adapter made room for another."""
        self._evictions.add(model)

    def adapters_loaded(self, *, model: str, adapters: int, seconds: float) -> None:
        """The worker loaded a group of adapters."""
        self._loads.add(model, by=adapters)
        self._load_seconds.observe(model, number=seconds)

    def inline(self, *, model: str, result: str) -> None:
        """A request brought its own adapter: hit, new, refused or limited."""
        self._inline.add(model, result)

    def manifest_load(self, *, success: bool) -> None:
        """Whether the manifest that was read last could be used."""
        self._manifest.set(to=int(success))

    def forget_model(self, model: str) -> None:
        """Removes every series of a deleted model."""
        for family in self._families:
            family.forget(model=model)
        self._labelled_adapters.pop(model, None)

    def forget_adapter(self, model: str, adapter: str) -> None:
        """Removes every series of a deleted adapter and frees its label value."""
        known = self._labelled_adapters.get(model, set())
        if adapter in known:  # most have no label, and a look at all series is slow
            known.discard(adapter)
            self._requests.forget(model=model, adapter=adapter)

    def collect(self) -> Iterator[core.Metric]:
        """All series, for the registry."""
        for family in self._families:
            yield family.collect()

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format 0.0.4."""
        return prometheus_client.generate_latest(self._registry)

    def _declare_requests(self) -> None:
        self._requests = self._counter(
            "requests_total", "Finished calls.", "model", "adapter", "method", "code"
        )
        self._without_deadline = self._counter(
            "calls_without_deadline_total", "Calls that set none.", "method"
        )
        self._duration = self._histogram(
            "request_duration_seconds", "Whole call, as the daemon sees it.", _SECONDS, "method"
        )
        self._queue_wait = self._histogram(
            "request_queue_duration_seconds", "Waiting for a batch.", _SECONDS, "method"
        )
        self._tokenize = self._histogram(
            "request_tokenize_duration_seconds", "Turning text into ids.", _SECONDS, "method"
        )
        self._inference = self._histogram(
            "request_inference_duration_seconds", "Computing the batch.", _SECONDS, "method"
        )

    def _declare_rows(self) -> None:
        self._rows_received = self._counter("rows_received_total", "Rows of calls.", "model")
        self._rows_ended = self._counter(
            "rows_total",
            "Rows by how they ended; with those in flight all received.",
            *("model", "outcome"),
        )
        self._admitted = self._counter("admitted_total", "Rows that were queued.", "model")
        self._shed = self._counter("shed_total", "Rows refused.", "model", "reason")
        self._expired = self._counter("expired_total", "Rows that expired unrun.", "model")

    def _declare_batches(self) -> None:
        self._batch_rows = self._histogram("batch_rows", "Rows of a batch.", _ROWS)
        self._batch_tokens = self._histogram("batch_tokens", "Tokens of a batch.", _TOKENS)
        self._batch_adapters = self._histogram(
            "batch_adapters", "Different adapters in a batch.", _ROWS
        )
        self._efficiency = self._gauge(
            "compute_efficiency", "Useful operations over the measured peak of busy lanes.", "model"
        )
        self._queue_rows = self._gauge("queue_rows", "Rows that wait.", "model")
        self._queue_tokens = self._gauge("queue_tokens", "Tokens that wait.", "model")
        self._in_flight_tokens = self._gauge(
            "in_flight_tokens", "Tokens that wait or are computed.", "model"
        )
        self._queue_delay = self._gauge(
            "queue_delay_seconds", "Predicted wait of a row that arrives now.", "model"
        )
        self._restarts = self._counter("worker_restarts_total", "Workers replaced.", "model")

    def _declare_state(self) -> None:
        self._revision = self._gauge(
            "revision_info",
            "1 for what serves.",
            *("model", "revision", "precision", "kernels", "digest"),
        )
        self._declare_adapters()
        self._manifest = self._gauge(
            "manifest_last_load_success", "1 if the manifest that was read last could be used."
        )
        self._manifest.set(to=0)

    def _declare_adapters(self) -> None:
        self._adapters = self._gauge(
            "adapters", "Different adapters that can be asked for.", "model"
        )
        self._slot_bytes = self._gauge(
            "adapter_slot_bytes", "Memory of one adapter, its head not counted.", "model"
        )
        self._resident = self._gauge("adapter_cache_adapters", "Adapters in memory.", "model")
        self._resident_bytes = self._gauge(
            "adapter_cache_bytes", "Memory of the adapters in memory, heads included.", "model"
        )
        self._hits = self._counter(
            "adapter_cache_hits_total", "Calls whose adapter was in memory.", "model"
        )
        self._misses = self._counter(
            "adapter_cache_misses_total", "Calls that waited for their adapter.", "model"
        )
        self._evictions = self._counter(
            "adapter_cache_evictions_total", "Adapters that made room for another.", "model"
        )
        self._loads = self._counter("adapter_cache_loads_total", "Adapters loaded.", "model")
        self._load_seconds = self._histogram(
            "adapter_cache_load_seconds", "Loading a group of adapters.", _SECONDS
        )
        self._inline = self._counter(
            "inline_adapters_total", "Adapters that came with a request.", "model", "result"
        )

    def _counter(self, name: str, text: str, *labels: str) -> _Counter:
        family = _Counter(name, text, labels)
        self._families.append(family)
        return family

    def _gauge(self, name: str, text: str, *labels: str) -> _Gauge:
        family = _Gauge(name, text, labels)
        self._families.append(family)
        return family

    def _histogram(
        self, name: str, text: str, bounds: tuple[float, ...], *labels: str
    ) -> _Histogram:
        family = _Histogram(name, text, ("model", *labels), bounds)
        self._families.append(family)
        return family
