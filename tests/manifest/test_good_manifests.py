"""Manifests that must be accepted, what they mean, and that they print back as the same objects."""

import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.manifest import fields, parsing, schema, spec, views, writing

GOOD = sorted((pathlib.Path(__file__).parent / "good").glob("*.yaml"))
NAMES = [path.stem for path in GOOD]


def read_good(name: str) -> parsing.Manifest:
    """A manifest of the corpus as if it lay in `/base`."""
    text = (pathlib.Path(__file__).parent / "good" / f"{name}.yaml").read_bytes().decode()
    return parsing.parse(text, file=f"{name}.yaml", base_dir="/base")


@pytest.mark.parametrize("name", NAMES)
def test_applying_what_is_printed_changes_nothing(name: str) -> None:
    """What `get -o yaml` prints parses to equal objects, from any directory (checklist 17)."""
    objects = read_good(name).objects
    printed = writing.to_yaml(objects)
    again = parsing.parse(printed, file="-", base_dir=None)
    assert again.objects == objects
    assert again.warnings == ()
    assert writing.to_yaml(again.objects) == printed


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_spec_reads_back(name: str) -> None:
    """The dictionary that the store keeps gives the same spec again (checklist 17)."""
    for declared in read_good(name).objects:
        stored = writing.spec_to_dict(declared.spec)
        assert writing.spec_from_dict(declared.kind, stored) == declared.spec


def test_defaults_are_written_out() -> None:
    """The smallest Model prints with every default and an absolute source (checklist 17)."""
    expected = """\
apiVersion: bertd.dev/v1
kind: Model
metadata:
  name: english
spec:
  base:
    source: /base/models/minilm
  precision: auto
  onTooLong: truncate
  offload:
    device: auto
    prefetch: 2
  batching:
    maxTokens: 4096
    maxRows: 256
    maxDelay: 0ms
    maxQueueDelay: 500ms
  update:
    strategy: blueGreen
  adapters: []
  allowInlineAdapters: false
"""
    assert writing.to_yaml(read_good("minimal").objects) == expected


def test_values_print_the_way_they_are_written() -> None:
    """Durations keep their notation, adapters their declared form, and globs stay globs."""
    expected = """\
  batching:
    maxTokens: 8192
    maxRows: 64
    maxDelay: 1500us
    maxQueueDelay: 250ms
  update:
    strategy: blueGreen
  adapters:
  - name: cola
    source: /base/adapters/cola.safetensors
    labelNames: [unacceptable, acceptable]
    temperature: 1
    thresholds:
      acceptable: 0.7
    weight: 1
  - name: sst2
    source: /base/adapters/sst2.safetensors
    weight: 1
  - source: /base/adapters/tenants/*.safetensors
    weight: 1
  allowInlineAdapters: true
"""
    assert writing.to_yaml(read_good("everything").objects).endswith(expected)


def test_specs_carry_units_in_python() -> None:
    """Python sees seconds and plain numbers under names with units."""
    (declared,) = read_good("everything").objects
    model = declared.spec
    assert isinstance(model, spec.ModelSpec)
    assert model.batching == spec.Batching(
        max_tokens=8192, max_rows=64, max_delay_s=0.0015, max_queue_delay_s=0.25
    )
    assert model.pooling == spec.Pooling(mode="mean", normalize=True)
    assert model.max_length == 128
    assert declared.labels == {"team": "search", "bertd.dev/stage": "1"}
    assert declared.where == "everything.yaml:2:1"


def test_words_stay_words() -> None:
    """What YAML 1.1 reads as booleans, times or dates are names, labels and label names here."""
    (declared,) = read_good("words_that_yaml_1_1_misreads").objects
    assert declared.name == "no"
    assert declared.labels["day"] == "2026-01-01"
    assert isinstance(declared.spec, spec.AdapterSpec)
    assert declared.spec.label_names is not None
    assert declared.spec.model == "on"
    assert declared.spec.label_names[:4] == ("y", "n", "off", "22:22")
    assert declared.spec.label_names[4:] == ("true", "1e3", "0o17", "null", "~", "014")


def test_documents_keep_their_order() -> None:
    """Objects come in the order of their documents, an Adapter may precede its Model."""
    objects = read_good("several_documents").objects
    assert [(one.kind, one.name) for one in objects] == [
        ("Adapter", "cola"),
        ("Model", "english"),
        ("Model", "german"),
    ]
    assert isinstance(objects[1].spec, spec.ModelSpec)
    assert objects[1].spec.base.source == "hub://sentence-transformers/all-MiniLM-L6-v2@main"


def test_null_means_unset() -> None:
    """`null` on an optional field is the same as leaving it out."""
    (declared,) = read_good("nulls_mean_unset").objects
    model = declared.spec
    assert isinstance(model, spec.ModelSpec)
    assert model == spec.ModelSpec(
        base=spec.Base(source="/models/minilm"),
        adapters=(spec.InlineAdapter(name="cola", source="/a/cola.safetensors"),),
    )


def test_what_the_daemon_writes_is_ignored() -> None:
    """`status` and `metadata.generation` are ignored with a placed warning (checklist 18)."""
    manifest = read_good("printed_by_get")
    assert manifest.objects == (
        parsing.Declared(
            kind="Model",
            name="english",
            labels={},
            spec=spec.ModelSpec(base=spec.Base(source="/models/minilm")),
        ),
    )
    at = "printed_by_get.yaml"
    assert manifest.warnings == (
        f"{at}:6:1: status: is ignored: only the daemon writes it",
        f"{at}:4:27: metadata.generation: is ignored: the daemon counts changes itself",
    )


def test_a_view_prints_its_status_and_applies_unchanged() -> None:
    """`get -o yaml` shows generation and status, and is legal input again (checklist 17, 18)."""
    (declared,) = read_good("everything").objects
    view = views.ObjectView(
        kind="Model",
        name="english",
        labels=declared.labels,
        generation=3,
        spec=writing.spec_to_dict(declared.spec),
        status=views.StatusView(
            observed_generation=3,
            conditions=(
                views.Condition(
                    type="Ready",
                    status="True",
                    reason="Serving",
                    message="4 adapters: all loaded",
                    last_transition_time="2026-01-01T00:00:00Z",
                    observed_generation=3,
                ),
            ),
            revision="english-3f2a9c1b",
            digest="sha256:00",
            details={"bytes": 90_000_000, "lanes": 2},
        ),
    )
    printed = writing.to_yaml([view])
    assert printed.endswith("""\
status:
  observedGeneration: 3
  revision: english-3f2a9c1b
  digest: sha256:00
  conditions:
  - type: Ready
    status: 'True'
    reason: Serving
    message: '4 adapters: all loaded'
    lastTransitionTime: '2026-01-01T00:00:00Z'
    observedGeneration: 3
  details:
    bytes: 90000000
    lanes: 2
""")
    again = parsing.parse(printed, file="-", base_dir=None)
    assert again.objects == (declared,)
    assert len(again.warnings) == 2


@pytest.mark.parametrize(
    "entries",
    [{}, {"base": {"source": "relative"}}, {"base": {"source": "/m"}, "batching": {"maxDelay": 5}}],
)
def test_a_foreign_stored_spec_is_a_bad_artifact(entries: dict[str, object]) -> None:
    """A stored spec that this version cannot read is reported as corrupt state, not as a crash."""
    with pytest.raises(errors.BadArtifact) as raised:
        writing.spec_from_dict("Model", entries)
    assert raised.value.reason == "StateCorrupt"


TEXTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("yn01e.:-~#'\"{}[]&*! "),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(labels=st.lists(TEXTS, min_size=1, max_size=4, unique=True), data=st.data())
def test_any_label_name_prints_back(labels: list[str], data: st.DataObject) -> None:
    """Label names of any spelling survive printing and parsing, as list items and as keys."""
    thresholds = data.draw(st.dictionaries(st.sampled_from(labels), st.floats(0, 1)))
    adapter = spec.AdapterSpec(
        model="english", source="/a", label_names=tuple(labels), thresholds=thresholds
    )
    declared = parsing.Declared(kind="Adapter", name="mood", labels={}, spec=adapter)
    again = parsing.parse(writing.to_yaml([declared]), file="-", base_dir=None)
    assert again.objects == (declared,)


@pytest.mark.parametrize(
    ("precision", "device"),
    [
        *((precision, "auto") for precision in ("auto", "fp32", "bf16", "int8")),
        *((precision, "cpu") for precision in ("auto", "fp32", "bf16", "int8")),
        *((precision, "cuda:1") for precision in ("auto", "fp32", "bf16", "fp8")),
    ],
)
def test_every_precision_that_a_device_has(precision: str, device: str) -> None:
    """A CPU has int8 and no fp8, a GPU fp8 and no int8; all of them print back as written (F1)."""
    text = f"""
apiVersion: bertd.dev/v1
kind: Model
metadata: {{name: english}}
spec:
  base: {{source: /models/minilm}}
  precision: {precision}
  offload: {{device: '{device}'}}
"""
    (declared,) = parsing.parse(text, file="-", base_dir=None).objects
    assert isinstance(declared.spec, spec.ModelSpec)
    assert (declared.spec.precision, declared.spec.offload.device) == (precision, device)
    stored = writing.spec_to_dict(declared.spec)
    assert writing.spec_from_dict("Model", stored) == declared.spec


def test_the_keys_of_version_1_are_frozen() -> None:
    """Fields of `bertd.dev/v1` are only ever added: a removed or renamed one fails here."""
    expected = """\
adapterMemory adapters[].labelNames adapters[].name adapters[].source adapters[].temperature \
adapters[].thresholds adapters[].weight allowInlineAdapters base.digest base.source \
batching.maxDelay batching.maxQueueDelay batching.maxRows batching.maxTokens \
compression.gate.adapters compression.gate.data compression.gate.metric compression.gate.min \
compression.stages[].pruneHeads.adapters compression.stages[].pruneHeads.data \
compression.stages[].pruneHeads.fraction compression.stages[].quantize.scheme maxLength \
offload.budget.cpu offload.budget.gpu offload.device offload.idle.after offload.idle.to \
offload.prefetch onTooLong pooling.mode pooling.normalize precision update.strategy"""
    found = sorted(path for path, _ in fields.leaves(spec.ModelSpec))
    assert " ".join(found) == expected
    assert [path for path, _ in fields.leaves(spec.AdapterSpec)] == [
        "model", "source", "labelNames", "temperature", "thresholds", "weight",
    ]  # fmt: skip
    assert schema.json_schema()["$defs"]["ModelSpec"]["properties"].keys() == {
        info.alias for info in spec.ModelSpec.model_fields.values()
    }
