"""YAML as hostile input: scalars, limits, and nothing but InvalidManifest for any text."""

import math
import pathlib
import subprocess
import sys
import textwrap
from typing import TypeGuard

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.manifest import fields, parsing, reader, spec

ROOT = pathlib.Path(__file__).parents[2]
LOADERS = [yaml.CSafeLoader, yaml.SafeLoader]
both_loaders = pytest.mark.parametrize("loader", LOADERS, ids=["libyaml", "pure"])
VALID = """\
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: english, labels: {team: search}}
spec:
  base: {source: /models/minilm}
  batching: {maxTokens: 4096, maxDelay: 2ms}
  adapters:
    - {name: cola, source: /a/cola.safetensors, thresholds: {acceptable: 0.7}}
---
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {name: acme}
spec: {model: english, source: "/a/acme.safetensors", labelNames: [a, b]}
"""


@both_loaders
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("22:22", "22:22"),
        ("014", 14),
        ("0o14", 12),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("+12", 12),
        ("-0", 0),
        ("1e", "1e"),
        ("2026-01-01", "2026-01-01"),
        ("2026-13-45", "2026-13-45"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("NULL", None),
        ("nULL", "nULL"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("'014'", "014"),
        ('"true"', "true"),
        ('"a\\u00e9\\n"', "aé\n"),
        ("|\n  text", "text\n"),
        ("=", "="),
    ],
)
def test_scalars_decode_by_yaml_1_2(written: str, value: object, loader: reader.Loader) -> None:
    """Plain scalars follow the YAML 1.2 core schema, quoted ones are strings (checklist 7)."""
    reading = reader.read(f"key: {written}\n", loader=loader)
    assert reading.problems == ()
    plain = reader.plain(reading.documents[0])
    assert plain == {"key": value}
    assert isinstance(plain, dict)
    assert type(plain["key"]) is type(value)


@both_loaders
def test_not_a_number_is_a_float(loader: reader.Loader) -> None:
    """`.nan` is read as what it says; the spec refuses it as a number (checklist 7)."""
    plain = reader.plain(reader.read(".nan", loader=loader).documents[0])
    assert isinstance(plain, float)
    assert math.isnan(plain)


HOSTILE = {
    "bytes": "a" * (reader.TEXT_LIMIT_BYTES + 1),
    "bytes of wide characters": "a: " + "é" * (reader.TEXT_LIMIT_BYTES // 2),
    "levels of lists": "[" * 200_000,
    "levels of mappings": "{a: " * 60_000,
    "levels of dashes": "- " * 120_000,
    "levels of complex keys": "? " * 120_000,
    "nodes": "".join(f"a{i}: 1\n" for i in range(20_000)),
    "equal keys": "{" + "a," * 120_000,
    "scalar": "a: " + "x" * 200_000,
    "quoted scalar": "a: '" + "x\n" * 100_000 + "'",
    "documents": "--- a\n" * 40_000,
    "aliases": "a: &a [x]\n" + "".join(f"b{i}: [*a, *a, *a]\n" for i in range(3_000)),
    "alias bomb": "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(10)
    ),
    "long number": "a: " + "1" * 16_000,
    "unknown fields": VALID[: VALID.index("---")] + "".join(f"  f{i}: 1\n" for i in range(4_500)),
}


@both_loaders
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused(name: str, loader: reader.Loader) -> None:
    """Text over any limit is refused with a position, under either loader (checklist 5, 6)."""
    with pytest.raises(errors.InvalidManifest, match=r"m.yaml:\d+:\d+: .*must "):
        parsing.parse(HOSTILE[name], file="m.yaml", base_dir=None, loader=loader)


@both_loaders
def test_nested_brackets_stop_at_the_first_level_too_many(loader: reader.Loader) -> None:
    """200,000 brackets are refused at column 33, whatever follows (checklist 6)."""
    reading = reader.read("[" * 200_000, loader=loader)
    assert [(problem.mark.line, problem.mark.column) for problem in reading.problems] == [(1, 33)]


def test_hostile_text_costs_little() -> None:
    """Refusing any hostile text takes under 100 ms and 64 MB (checklist 5)."""
    program = textwrap.dedent("""\
        import pathlib, re, time
        from bertd import errors
        from bertd.manifest import parsing
        from tests.manifest import test_reader

        def peak_kb():
            status = pathlib.Path("/proc/self/status").read_text()
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
        def seconds(text):
            start = time.process_time()
            try:
                parsing.parse(text, file="m.yaml", base_dir=None)
            except errors.InvalidManifest:
                return time.process_time() - start

        before = peak_kb()
        for name, text in test_reader.HOSTILE.items():
            print(f"{min(seconds(text) for _ in range(3)):.3f} {name}")
        print(f"{(peak_kb() - before) / 1e3:.0f} MB")
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    *times, memory = done.stdout.splitlines()
    assert len(times) == len(HOSTILE)
    assert [line for line in times if float(line.split()[0]) >= 0.1] == []
    assert int(memory.split()[0]) < 64


@both_loaders
def test_limits_themselves_are_legal(loader: reader.Loader) -> None:
    """A text exactly at a limit is read (checklist 5)."""
    at_limits = {
        "depth": "[" * reader.DEPTH_LIMIT_LEVELS + "]" * reader.DEPTH_LIMIT_LEVELS,
        "nodes": "- a\n" * (reader.NODES_LIMIT - 1),
        "scalar": "a" * reader.SCALAR_LIMIT_BYTES,
        "documents": "--- a\n" * reader.DOCUMENTS_LIMIT,
        "bytes": "#" * reader.TEXT_LIMIT_BYTES,
    }
    for name, text in at_limits.items():
        assert reader.read(text, loader=loader).problems == (), name


@both_loaders
def test_documents_before_a_broken_one_are_kept(loader: reader.Loader) -> None:
    """Broken syntax ends the reading, but what came before is still validated (checklist 2)."""
    reading = reader.read("a: 1\n---\nb: 2\n---\nc: [", loader=loader)
    assert [reader.plain(document) for document in reading.documents] == [{"a": 1}, {"b": 2}]
    assert len(reading.problems) == 1


@both_loaders
def test_the_value_of_a_refused_key_is_forgotten(loader: reader.Loader) -> None:
    """After a refused key the rest of the mapping is read as if the pair were absent."""
    text = "{[a]: [b], {c: d}: {e: f}, 1: [g], <<: {h: i}, *j : [k], l: m, l: n}"
    (document,) = reader.read(text, loader=loader).documents
    assert reader.plain(document) == {"l": "m"}


def is_part(value: object) -> TypeGuard[type[spec.Part]]:
    """Whether it is a class of the spec."""
    return isinstance(value, type) and issubclass(value, spec.Part)


def attempt(text: str, loader: reader.Loader) -> None:
    """Parse; anything but a manifest or InvalidManifest with positions fails the test."""
    try:
        parsing.parse(text, file="m.yaml", base_dir="/base", loader=loader)
    except errors.InvalidManifest as error:
        found = str(error)
    else:
        return
    assert found.startswith("m.yaml:")
    assert "must " in found


YAMLISH = st.text(st.sampled_from("ab:-?&*!%@`'\"#{}[],|><=~. \n\t\r\\01\u2028\x85\ufeffé\ud800"))
KEYS = st.sampled_from(
    [name for part in vars(spec).values() if is_part(part) for name in fields.named(part)]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["bertd.dev/v1", "Model", "Adapter", "5ms", "1GiB", "/a", "int8", "cola"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
DOCUMENTS = st.fixed_dictionaries(
    {"apiVersion": st.just("bertd.dev/v1"), "kind": st.sampled_from(["Model", "Adapter"])},
    optional={"metadata": VALUES, "spec": VALUES, "status": VALUES},
)


@both_loaders
@settings(max_examples=300, deadline=None)
@given(text=st.text() | YAMLISH)
@example(text='"\\U00110000"')
@example(text='"\\ud800"')
@example(text="%YAML 1." + "9" * 5000 + "\n--- a")
@example(text="!<tag:%ff> a")
@example(text="\ud800")
@example(text="a: 0x" + "f" * 5000)
def test_any_text_is_read_or_refused(text: str, loader: reader.Loader) -> None:
    """No text makes the reader raise anything but InvalidManifest (checklist 8)."""
    attempt(text, loader)


@both_loaders
@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, len(VALID)), length=st.integers(0, 12), put=YAMLISH | st.text(max_size=6))
def test_any_damage_is_refused(cut: int, length: int, put: str, loader: reader.Loader) -> None:
    """No damage to a valid manifest makes it raise anything but InvalidManifest (checklist 8)."""
    attempt(VALID[:cut] + put + VALID[cut + length :], loader)


@settings(max_examples=300, deadline=None)
@given(document=DOCUMENTS)
def test_any_content_is_refused(document: dict[str, object]) -> None:
    """No values under known keys raise anything but InvalidManifest (checklist 8)."""
    attempt(yaml.safe_dump(document, allow_unicode=True), yaml.CSafeLoader)
