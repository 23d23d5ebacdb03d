"""The manifest reference, written from the JSON Schema: every field, its form, default and meaning.

The text of `docs/manifest.md`; a test compares them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bertd.manifest import problems, quantities, schema, spec

HEAD = """\
# Manifest reference

This file is generated from the field descriptions in `bertd/manifest/spec.py`.

A manifest is YAML text with one or more documents, each a `Model` or an `Adapter`.

```yaml
# yaml-language-server: $schema=manifest.schema.json
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: english}
spec:
  base: {source: ./models/minilm}
  batching: {maxTokens: 4096, maxDelay: 2ms}
  adapters:
    - {name: cola, source: ./adapters/cola.safetensors}
    - {source: ./adapters/tenants/*.safetensors}
---
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {name: acme-sentiment, labels: {tenant: acme}}
spec:
  model: english
  source: ./adapters/acme.safetensors
  thresholds: {positive: 0.7}
```

Scalars are read by the YAML 1.2 core schema: `no` and `22:22` are strings.
Anchors, aliases, tags, merge keys, directives, equal keys and keys other than strings are refused.
A manifest has at most 256 KiB, 64 documents, 10,000 keys and values, 32 levels, and 16 KiB per
scalar.

Durations are one number and one of the units {durations}; sizes one number and one of {sizes}.
A relative path begins at the directory of the manifest's file.
"""
NAMED_PATTERNS = {
    spec.NAME_PATTERN: "DNS label",
    spec.LABEL_KEY_PATTERN: "label key",
    spec.LABEL_VALUE_PATTERN: "label value",
    spec.DIGEST_PATTERN: "`sha256:` and 64 hexadecimal digits",
    spec.DEVICE_PATTERN: "`auto`, `cpu`, `cuda` or `cuda:N`",
    quantities.DURATION_PATTERN: "duration",
    quantities.SIZE_PATTERN: "size",
}
TYPE_NAMES = {
    "string": "string",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "array": "list",
    "object": "mapping",
}

Schema = Mapping[str, Any]


def text() -> str:
    """The whole reference as Markdown."""
    definitions = schema.json_schema()["$defs"]
    head = HEAD.replace("{durations}", _words(quantities.DURATION_UNITS_US))
    parts = [head.replace("{sizes}", _words(quantities.SIZE_UNITS_BYTES))]
    for kind, root in (("Model", "ModelDocument"), ("Adapter", "AdapterDocument")):
        parts.append(f"\n## {kind}\n\n{definitions[root]['description']}\n")
        parts.extend(_section(definitions, root, ""))
    return "".join(parts)


def _section(definitions: Schema, name: str, path: str) -> Iterator[str]:
    """One mapping's fields, then the mappings inside it."""
    part = definitions[name]
    if path:
        yield f"\n### `{path}`\n\n{part['description']}\n"
    yield "\n"
    for field, form in part["properties"].items():
        yield _line(field, form, required=field in part.get("required", ()))
    for field, form in part["properties"].items():
        below = _below(form)
        if below is not None and below in definitions and "properties" in definitions[below]:
            yield from _section(definitions, below, f"{path}.{field}" if path else field)


def _line(field: str, form: Schema, *, required: bool) -> str:
    about = _form(form) + ("; required" if required else "")
    if "default" in form:
        default = form["default"]
        shown = str(default).lower() if isinstance(default, bool) else f"{default}"
        about += f"; default `{shown.removesuffix('.0')}`"
    meaning = " ".join(form["description"].split())
    return f"- `{field}` ({about}): {meaning}\n"


def _form(form: Schema) -> str:
    """What the value looks like, in a few words."""
    for alternative in form.get("anyOf", ()):
        if alternative.get("type") != "null":
            return _form(alternative)
    if "$ref" in form:
        return "anything" if form["$ref"].endswith("/JsonValue") else "mapping"
    if "const" in form:
        return f"`{form['const']}`"
    if "enum" in form:
        return problems.one_of(form["enum"]).replace("'", "`")
    if form.get("type") == "array":
        return f"list of {_form(form['items'])}s"
    named = NAMED_PATTERNS.get(form.get("pattern", ""))
    return named or TYPE_NAMES[form["type"]] + _range(form)


def _range(form: Schema) -> str:
    if "minimum" in form:
        return f", {form['minimum']:.6g} to {form['maximum']:.7g}"
    if "exclusiveMinimum" in form:
        return f" between {form['exclusiveMinimum']:g} and {form['exclusiveMaximum']:g}"
    return ""


def _below(form: Schema) -> str | None:
    """The definition that a field's value, or the items of its list, follow."""
    for alternative in form.get("anyOf", ()):
        if "$ref" in alternative:
            return _below(alternative)
    if "items" in form:
        return _below(form["items"])
    reference: str | None = form.get("$ref")
    return None if reference is None else reference.rpartition("/")[2]


def _words(units: Mapping[str, int]) -> str:
    return problems.one_of(list(units)).replace("'", "`")
