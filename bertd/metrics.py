"""Every metric that bertd exports.

Recorded in three places: the RPC interceptor (requests), the runtime (batches, queues, workers)
and the reconciler (revisions, manifest). A series dies with its object: see `forget_model` and
`forget_adapter`. Label values come from declared names only: for a request that names an unknown
model or adapter, record an empty label.
"""

from typing import Generic, TypeVar

import prometheus_client
from prometheus_client import metrics as prometheus

# Adapters of one model that get a label value of their own; the rest share "other".
MAX_ADAPTER_LABELS = 100
OTHER = "other"
INLINE = "(inline)"  # every adapter that came with a request

_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

_M = TypeVar("_M", prometheus.Counter, prometheus.Gauge, prometheus.Histogram)


class _Family(Generic[_M]):
    """One metric with its series by label values: a dict is ten times faster than `labels()`."""

    def __init__(self, metric: _M, labels: tuple[str, ...]) -> None:
        self._metric: _M = metric
        self._labels = labels
        self._series: dict[tuple[str, ...], _M] = {}

    def at(self, *values: str) -> _M:
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._metric.labels(*values)
        return series

    def forget(self, **wanted: str) -> None:
        """Removes every series that has all of these label values."""
        if not wanted.keys() <= set(self._labels):
            return
        places = {self._labels.index(label): value for label, value in wanted.items()}
        for values in [v for v in self._series if all(v[i] == w for i, w in places.items())]:
            del self._series[values]
            self._metric.remove(*values)


class Metrics:
    """All series of one daemon, in one registry. Called from the event loop alone."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._registry = registry
        self._families: list[
            _Family[prometheus.Counter] | _Family[prometheus.Gauge] | _Family[prometheus.Histogram]
        ] = []
        self._labelled_adapters: dict[str, set[str]] = {}
        self._declare_requests()
        self._declare_batches()
        self._declare_state()
        prometheus_client.ProcessCollector(registry=registry)

    # Requests: recorded by the RPC interceptor.

    def request(self, *, model: str, adapter: str, method: str, code: str, seconds: float) -> None:
        """One finished call. `code` is the gRPC status name, such as OK or NOT_FOUND."""
        self._requests.at(model, self.adapter_label(model, adapter), method, code).inc()
        self._duration.at(model, method).observe(seconds)

    def request_parts(
        self, *, model: str, method: str, tokenize_s: float, queue_s: float, inference_s: float
    ) -> None:
        """Where the time of one answered call went."""
        self._tokenize.at(model, method).observe(tokenize_s)
        self._queue_wait.at(model, method).observe(queue_s)
        self._inference.at(model, method).observe(inference_s)

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
        self._batch_rows.at(model).observe(rows)
        self._batch_tokens.at(model).observe(tokens)
        self._batch_adapters.at(model).observe(adapters)

    def efficiency(self, *, model: str, share: float) -> None:
        """Operations that answers needed, over what the busy lanes could have done, lately."""
        self._efficiency.at(model).set(share)

    def queue(self, *, model: str, rows: int, tokens: int, delay_s: float) -> None:
        """The state of a queue: what waits, and the predicted wait of a row that arrives now."""
        self._queue_rows.at(model).set(rows)
        self._queue_tokens.at(model).set(tokens)
        self._queue_delay.at(model).set(delay_s)

    def shed(self, *, model: str, reason: str, rows: int = 1) -> None:
        """Rows that were refused, such as for QueueFull, QueueDelay or Draining."""
        self._shed.at(model, reason).inc(rows)

    def expired(self, *, model: str, rows: int = 1) -> None:
        """Rows whose deadline passed while they waited; they were never computed."""
        self._expired.at(model).inc(rows)

    def worker_restart(self, *, model: str) -> None:
        """A worker died or hung and was replaced."""
        self._restarts.at(model).inc()

    # Objects: recorded by the reconciler.

    def revision(
        self, *, model: str, revision: str, precision: str, kernels: str, digest: str
    ) -> None:
        """The revision that serves from now on, instead of the one before."""
        self._revision.forget(model=model)
        self._revision.at(model, revision, precision, kernels, digest).set(1)

    def adapters(self, *, model: str, declared: int, resident: int, size_bytes: int) -> None:
        """How many different adapters a model serves, how many are in memory, and their bytes."""
        self._adapters.at(model).set(declared)
        self._resident.at(model).set(resident)
        self._resident_bytes.at(model).set(size_bytes)

    def adapter_bytes(self, *, model: str, slot: int) -> None:
        """Memory of one adapter in the table, its head not counted."""
        self._slot_bytes.at(model).set(slot)

    def adapter_hit(self, *, model: str) -> None:
        """A call found its adapter in memory."""
        self._hits.at(model).inc()

    def adapter_miss(self, *, model: str) -> None:
        """A call waits until its adapter is loaded."""
        self._misses.at(model).inc()

    def adapter_evicted(self, *, model: str) -> None:
        """An adapter made room for another."""
        self._evictions.at(model).inc()

    def adapters_loaded(self, *, model: str, adapters: int, seconds: float) -> None:
        """The worker loaded a group of adapters."""
        self._loads.at(model).inc(adapters)
        self._load_seconds.at(model).observe(seconds)

    def inline(self, *, model: str, result: str) -> None:
        """A request brought its own adapter: hit, new, refused or limited."""
        self._inline.at(model, result).inc()

    def manifest_load(self, *, success: bool) -> None:
        """Whether the manifest that was read last could be used."""
        self._manifest.set(int(success))

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

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format 0.0.4."""
        return prometheus_client.generate_latest(self._registry)

    def _declare_requests(self) -> None:
        self._requests = self._counter(
            "requests_total", "Finished calls.", "model", "adapter", "method", "code"
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
        self._queue_delay = self._gauge(
            "queue_delay_seconds", "Predicted wait of a row that arrives now.", "model"
        )
        self._shed = self._counter("shed_total", "Rows refused.", "model", "reason")
        self._expired = self._counter("expired_total", "Rows that expired unrun.", "model")
        self._restarts = self._counter("worker_restarts_total", "Workers replaced.", "model")

    def _declare_state(self) -> None:
        self._revision = self._gauge(
            "revision_info",
            "1 for what serves.",
            *("model", "revision", "precision", "kernels", "digest"),
        )
        self._declare_adapters()
        self._manifest = prometheus_client.Gauge(
            "bertd_manifest_last_load_success",
            "1 if the manifest that was read last could be used.",
            registry=self._registry,
        )

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

    def _counter(self, name: str, text: str, *labels: str) -> _Family[prometheus.Counter]:
        metric = prometheus_client.Counter(f"bertd_{name}", text, labels, registry=self._registry)
        family = _Family(metric, labels)
        self._families.append(family)
        return family

    def _gauge(self, name: str, text: str, *labels: str) -> _Family[prometheus.Gauge]:
        metric = prometheus_client.Gauge(f"bertd_{name}", text, labels, registry=self._registry)
        family = _Family(metric, labels)
        self._families.append(family)
        return family

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> _Family[prometheus.Histogram]:
        metric = prometheus_client.Histogram(
            f"bertd_{name}", text, ("model", *labels), buckets=buckets, registry=self._registry
        )
        family = _Family(metric, ("model", *labels))
        self._families.append(family)
        return family
