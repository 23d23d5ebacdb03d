"""`bertd get` and `bertd describe`: objects as tables, YAML, JSON or names."""

import json
from collections.abc import Mapping, Sequence

from bertd.cli import references, table, terminal
from bertd.client import admin

API_VERSION = "bertd.dev/v1"
DIGEST_CHARACTERS = 12


def get(names: Sequence[str], output: str) -> None:
    """Prints objects: `output` is "" (a table), wide, yaml, json or name."""
    objects = _fetch(names)
    if output == "json":
        values = [as_dict(each) for each in objects]
        whole = values[0] if _are_named(names) and len(values) == 1 else values
        terminal.out(json.dumps(whole, indent=2, ensure_ascii=False))
    elif output == "yaml":
        terminal.out(as_yaml(objects))
    elif output == "name":
        for each in objects:
            terminal.out(references.text(each.kind, each.name))
    elif objects:
        terminal.out(as_table(objects, wide=output == "wide"))
    else:
        terminal.note(f"no {references.kind(names[0]).lower()}s are declared")


def describe(names: Sequence[str]) -> None:
    """Prints everything about objects: conditions with reasons, facts, and the whole spec."""
    terminal.out("\n\n".join(as_description(each) for each in _fetch(names)))


def as_table(objects: Sequence[admin.Object], *, wide: bool) -> str:
    """Aligned columns; objects of several kinds get a table each."""
    parts = []
    for kind, header in (("Model", _MODEL), ("Adapter", _ADAPTER)):
        rows = [_row(each, wide) for each in objects if each.kind == kind]
        if rows:
            parts.append(table.render([*header, *_WIDE[kind]] if wide else header, rows))
    return "\n\n".join(parts)


def as_dict(shown: admin.Object) -> dict[str, object]:
    """The object as JSON values: its manifest, its generation and its status."""
    document = _document(shown)
    metadata = {"name": shown.name, "labels": shown.labels, "generation": shown.generation}
    return {**document, "metadata": metadata, "status": _status(shown.status)}


def as_yaml(objects: Sequence[admin.Object]) -> str:
    """A manifest of the objects; what a Model declares inline is named in a comment instead."""
    from bertd.manifest import writing  # noqa: PLC0415 (a table must not wait for pydantic)

    parts = []
    for each in objects:
        if "/" in each.name:
            model = each.name.partition("/")[0]
            parts.append(f"# {each.name} is declared inside model/{model}\n")
        else:
            parts.append(writing.dump(_document(each)))
    return "---\n".join(parts).rstrip("\n")


def as_description(shown: admin.Object) -> str:
    """Every fact on a line of its own."""
    from bertd.manifest import writing  # noqa: PLC0415 (a table must not wait for pydantic)

    status = shown.status
    facts = {
        "Name": shown.name,
        "Kind": shown.kind,
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted(shown.labels.items())),
        "Generation": f"{shown.generation} (observed: {status.observed_generation})",
        "Revision": status.revision,
        "Digest": status.digest,
        **{_title(key): _fact(value) for key, value in sorted(status.details.items())},
    }
    widest = max(map(table.width, facts)) + 1
    lines = [f"{key + ':':{widest}} {value or '-'}" for key, value in facts.items()]
    rows = [
        (each.type, each.status, each.reason, each.last_transition_time, each.message)
        for each in status.conditions
    ]
    conditions = table.render(
        ("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"), [_visible(row) for row in rows]
    )
    spec = writing.dump(shown.spec).rstrip("\n")
    return "\n".join([*lines, "", conditions, "", "Spec:", *_indented(spec)])


_MODEL = ("NAME", "READY", "REASON", "REVISION", "ADAPTERS")
_ADAPTER = ("NAME", "MODEL", "READY", "REASON", "DIGEST")
_WIDE = {
    "Model": ("GENERATION", "DIGEST", "LABELS", "MESSAGE"),
    "Adapter": ("GENERATION", "LABELS", "MESSAGE"),
}


def _are_named(names: Sequence[str]) -> bool:
    return len(names) > 1 or "/" in names[0]


def _fetch(names: Sequence[str]) -> list[admin.Object]:
    wanted = references.several(names) if _are_named(names) else []
    kind = "" if wanted else references.kind(names[0])
    with admin.AdminClient() as daemon:
        if kind:
            return list(daemon.list(kind))
        return [daemon.get(kind, name) for kind, name in wanted]


def _row(shown: admin.Object, wide: bool) -> list[str]:
    status = shown.status
    ready = status.condition("Ready")
    health = [ready.status, ready.reason] if ready else ["Unknown", ""]
    if shown.kind == "Model":
        row = [shown.name, *health, status.revision, _count(status.details.get("adapters"))]
    else:
        model = str(shown.spec.get("model", "")) or shown.name.partition("/")[0]
        row = [shown.name, model, *health, _short(status.digest)]
    if wide:
        labels = ",".join(f"{key}={value}" for key, value in sorted(shown.labels.items()))
        message = ready.message if ready else ""
        digest = [_short(status.digest)] if shown.kind == "Model" else []
        row += [str(shown.generation), *digest, labels, message]
    return _visible(row)


def _document(shown: admin.Object) -> dict[str, object]:
    metadata: dict[str, object] = {"name": shown.name}
    if shown.labels:
        metadata["labels"] = shown.labels
    return {
        "apiVersion": API_VERSION,
        "kind": shown.kind,
        "metadata": metadata,
        "spec": shown.spec,
    }


def _status(status: admin.Status) -> dict[str, object]:
    conditions = [
        {
            "type": each.type,
            "status": each.status,
            "reason": each.reason,
            "message": each.message,
            "lastTransitionTime": each.last_transition_time,
            "observedGeneration": each.observed_generation,
        }
        for each in status.conditions
    ]
    return {
        "observedGeneration": status.observed_generation,
        "conditions": conditions,
        "revision": status.revision,
        "digest": status.digest,
        "details": status.details,
    }


def _count(adapters: object) -> str:
    if isinstance(adapters, (Sequence, Mapping)) and not isinstance(adapters, str):
        return str(len(adapters))
    return "" if adapters is None else str(adapters)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:DIGEST_CHARACTERS]


def _title(key: str) -> str:
    return key[:1].upper() + key[1:]


def _fact(value: object) -> str:
    plain = isinstance(value, str | int | float)
    return terminal.visible(str(value) if plain else json.dumps(value, ensure_ascii=False))


def _visible(cells: Sequence[str]) -> list[str]:
    return [terminal.visible(cell) for cell in cells]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
