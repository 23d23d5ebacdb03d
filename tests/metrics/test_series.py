"""What is counted, under which names, and when a series ends."""

import prometheus_client
import pytest
from prometheus_client import parser

from bertd import metrics


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    """An empty registry."""
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def recorded(registry) -> metrics.Metrics:
    """Everything recorded once, for two models."""
    made = metrics.Metrics(registry)
    for model in ("english", "german"):
        made.request(model=model, adapter="cola", method="Classify", code="OK", seconds=0.003)
        made.request_parts(
            model=model, method="Classify", tokenize_s=0.001, queue_s=0.0, inference_s=0.002
        )
        made.batch(model=model, rows=3, tokens=40, adapters=2)
        made.efficiency(model=model, share=0.75)
        made.queue(model=model, rows=5, tokens=70, delay_s=0.25)
        made.shed(model=model, reason="QueueFull", rows=2)
        made.expired(model=model)
        made.worker_restart(model=model)
        made.revision(model=model, revision="r1", precision="fp32", kernels="avx2", digest="ab")
        made.adapters(model=model, declared=4, resident=3, size_bytes=1000)
        made.adapter_bytes(model=model, slot=300)
        made.adapter_hit(model=model)
        made.adapter_miss(model=model)
        made.adapter_evicted(model=model)
        made.adapters_loaded(model=model, adapters=3, seconds=0.02)
        made.inline(model=model, result="new")
    made.manifest_load(success=True)
    return made


def test_every_series_has_its_name_and_value(recorded, registry):
    """The names and labels of the design are exported with what was recorded."""
    english = {"model": "english"}
    call = {**english, "method": "Classify"}
    counts = [
        ("bertd_requests_total", {**call, "adapter": "cola", "code": "OK"}, 1),
        ("bertd_request_duration_seconds_count", call, 1),
        ("bertd_request_queue_duration_seconds_count", call, 1),
        ("bertd_request_tokenize_duration_seconds_sum", call, 0.001),
        ("bertd_request_inference_duration_seconds_sum", call, 0.002),
        ("bertd_batch_rows_sum", english, 3),
        ("bertd_batch_tokens_sum", english, 40),
        ("bertd_batch_adapters_sum", english, 2),
        ("bertd_compute_efficiency", english, 0.75),
        ("bertd_queue_rows", english, 5),
        ("bertd_queue_tokens", english, 70),
        ("bertd_queue_delay_seconds", english, 0.25),
        ("bertd_shed_total", {**english, "reason": "QueueFull"}, 2),
        ("bertd_expired_total", english, 1),
        ("bertd_worker_restarts_total", english, 1),
        (
            "bertd_revision_info",
            {**english, "revision": "r1", "precision": "fp32", "kernels": "avx2", "digest": "ab"},
            1,
        ),
        ("bertd_adapters", english, 4),
        ("bertd_adapter_slot_bytes", english, 300),
        ("bertd_adapter_cache_adapters", english, 3),
        ("bertd_adapter_cache_bytes", english, 1000),
        ("bertd_adapter_cache_hits_total", english, 1),
        ("bertd_adapter_cache_misses_total", english, 1),
        ("bertd_adapter_cache_evictions_total", english, 1),
        ("bertd_adapter_cache_loads_total", english, 3),
        ("bertd_adapter_cache_load_seconds_sum", english, 0.02),
        ("bertd_inline_adapters_total", {**english, "result": "new"}, 1),
        ("bertd_manifest_last_load_success", {}, 1),
    ]
    for name, labels, value in counts:
        assert registry.get_sample_value(name, labels) == value, name


def test_the_exposition_is_prometheus_text(recorded):
    """What is served parses, and includes the process itself."""
    text = recorded.exposition().decode()
    names = {family.name for family in parser.text_string_to_metric_families(text)}
    assert {"bertd_requests", "bertd_batch_rows", "process_resident_memory_bytes"} <= names


def test_the_batch_of_one_shows(recorded, registry):
    """A batch of a single row lands in the bucket of 1 (D1)."""
    recorded.batch(model="idle", rows=1, tokens=12, adapters=1)
    labels = {"model": "idle", "le": "1.0"}
    assert registry.get_sample_value("bertd_batch_rows_bucket", labels) == 1


def test_a_deleted_model_leaves_no_series(recorded):
    """Every series of a forgotten model ends, and those of others stay."""
    recorded.forget_model("english")
    text = recorded.exposition().decode()
    assert "english" not in text
    assert text.count('"german"') > 10


def test_a_deleted_adapter_leaves_no_series(recorded):
    """Only the series of that adapter of that model end."""
    recorded.request(model="english", adapter="sst", method="Classify", code="OK", seconds=1)
    recorded.forget_adapter("english", "cola")
    lines = [
        line for line in recorded.exposition().decode().splitlines() if "requests_total{" in line
    ]
    assert len(lines) == 2
    assert not any("cola" in line and "english" in line for line in lines)


def test_a_new_revision_replaces_the_old(recorded, registry):
    """There is one revision_info series per model."""
    recorded.revision(
        model="english", revision="r2", precision="bf16", kernels="torch", digest="cd"
    )
    lines = [
        line
        for line in recorded.exposition().decode().splitlines()
        if line.startswith("bertd_revision_info") and "english" in line
    ]
    assert len(lines) == 1
    assert 'revision="r2"' in lines[0]


def test_a_forgotten_series_starts_again_at_nothing(recorded, registry):
    """An object that comes back with the same name does not inherit counts."""
    recorded.forget_model("english")
    recorded.expired(model="english")
    assert registry.get_sample_value("bertd_expired_total", {"model": "english"}) == 1


def test_adapter_labels_are_bounded(recorded):
    """The first 100 adapters of a model get their own label, all further ones share 'other'."""
    labels = {recorded.adapter_label("many", f"a{i}") for i in range(1000)}
    assert len(labels) == metrics.MAX_ADAPTER_LABELS + 1
    assert metrics.OTHER in labels
    assert recorded.adapter_label("many", "a0") == "a0"
    assert recorded.adapter_label("elsewhere", "a999") == "a999"
    assert recorded.adapter_label("many", "") == ""


def test_a_deleted_adapter_frees_its_label(recorded):
    """After one of the 100 is forgotten, the next new one gets a label of its own."""
    for i in range(metrics.MAX_ADAPTER_LABELS):
        recorded.adapter_label("many", f"a{i}")
    assert recorded.adapter_label("many", "late") == metrics.OTHER
    recorded.forget_adapter("many", "a0")
    assert recorded.adapter_label("many", "late") == "late"


def test_an_adapter_without_a_label_takes_no_series_along(recorded, registry):
    """An adapter that is called as the rest are called together is not the rest."""
    for i in range(metrics.MAX_ADAPTER_LABELS):
        recorded.adapter_label("many", f"a{i}")
    recorded.request(model="many", adapter="late", method="Classify", code="OK", seconds=1)
    recorded.forget_adapter("many", metrics.OTHER)
    labels = {"model": "many", "adapter": metrics.OTHER, "method": "Classify", "code": "OK"}
    assert registry.get_sample_value("bertd_requests_total", labels) == 1


def test_forgetting_the_unknown_is_nothing(recorded):
    """Forgetting what was never recorded raises nothing."""
    recorded.forget_model("never")
    recorded.forget_adapter("never", "never")


def test_two_daemons_in_one_process_do_not_meet():
    """Metrics live in the registry they are given, not in a global one."""
    first, second = (prometheus_client.CollectorRegistry() for _ in range(2))
    metrics.Metrics(first).expired(model="m")
    metrics.Metrics(second)
    assert second.get_sample_value("bertd_expired_total", {"model": "m"}) is None


def test_adapters_of_requests_share_one_label(recorded, registry):
    """Adapters that came with calls are counted together, apart from those beyond the first."""
    for number in range(metrics.MAX_ADAPTER_LABELS + 5):
        recorded.adapter_label("english", f"a{number}")
    assert recorded.adapter_label("english", "late") == metrics.OTHER
    assert recorded.adapter_label("english", metrics.INLINE) == metrics.INLINE


def test_rows_and_calls_without_a_deadline_have_their_series(recorded, registry):
    """Rows that were received, queued and ended, and what lanes and queue hold (checklist 70)."""
    recorded.rows_received(model="english", rows=5)
    recorded.admitted(model="english", rows=4)
    recorded.rows_ended(model="english", outcome="answered", rows=3)
    recorded.queue(model="english", rows=1, tokens=20, delay_s=0.5, running_tokens=30)
    recorded.call_without_deadline(method="Tag")
    english = {"model": "english"}
    assert registry.get_sample_value("bertd_rows_received_total", english) == 5
    assert registry.get_sample_value("bertd_admitted_total", english) == 4
    labels = {**english, "outcome": "answered"}
    assert registry.get_sample_value("bertd_rows_total", labels) == 3
    assert registry.get_sample_value("bertd_in_flight_tokens", english) == 50
    labels = {"method": "Tag"}
    assert registry.get_sample_value("bertd_calls_without_deadline_total", labels) == 1


@pytest.mark.parametrize(
    ("seconds", "first"), [(0.0, "0.0005"), (0.0005, "0.0005"), (0.0006, "0.001"), (99.0, "+Inf")]
)
def test_a_bucket_counts_what_is_at_most_its_bound(registry, seconds, first):
    """Buckets are cumulative, bounds included, and everything is in the last."""
    made = metrics.Metrics(registry)
    made.request(model="m", adapter="", method="Tag", code="OK", seconds=seconds)
    name = "bertd_request_duration_seconds_bucket"
    bounds = [*map(str, metrics._SECONDS), "+Inf"]
    counts = [
        registry.get_sample_value(name, {"model": "m", "method": "Tag", "le": bound})
        for bound in bounds
    ]
    assert counts == [float(at >= bounds.index(first)) for at in range(len(bounds))]
