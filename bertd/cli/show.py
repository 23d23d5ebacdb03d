"""`bertd get` and `bertd describe`: objects as tables, YAML, JSON or names."""

import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bertd import errors
from bertd.cli import facts as facts_in_words
from bertd.cli import references, table, terminal
from bertd.client import admin

API_VERSION = "bertd.dev/v1"
DIGEST_CHARACTERS = 12
JSON_INDENT = "  "


def get(names: Sequence[str], output: str, *, model: str = "") -> None:
    """Prints objects as they come: `output` is "" (a table), wide, yaml, json or name.

    Args:
        names: a kind, or objects.
        output: the form.
        model: only adapters of this Model; empty: all.

    Raises:
        errors.InvalidRequest: `model` together with anything but the kind `adapters`.
    """
    are_named = _are_named(names)
    if model and (are_named or references.kind(names[0]) != "Adapter"):
        raise errors.InvalidRequest("`--model` must be used with 'adapters' alone")
    pages = (page for page in _fetch(names, model) if page)
    if output == "json":
        _print_json(pages, alone=are_named)
    elif output == "yaml":
        for text in as_yaml(itertools.chain.from_iterable(pages)):
            terminal.out(text)
    elif output == "name":
        for each in itertools.chain.from_iterable(pages):
            terminal.out(references.text(each.kind, each.name))
    elif not _print_tables(pages, wide=output == "wide"):
        of_model = f" of model '{model}'" if model else ""
        terminal.note(f"no {references.kind(names[0]).lower()}s{of_model} are declared")


def describe(names: Sequence[str]) -> None:
    """Prints everything about objects: conditions with reasons, facts, and the whole spec."""
    objects = itertools.chain.from_iterable(_fetch(names))
    for number, each in enumerate(objects):
        terminal.out(f"\n{as_description(each)}" if number else as_description(each))


def header(kind: str, *, wide: bool) -> tuple[str, ...]:
    """The columns of `row`."""
    return (*_COLUMNS[kind], *_WIDE[kind]) if wide else _COLUMNS[kind]


def row(shown: admin.Object, *, wide: bool) -> list[str]:
    """An object as a line of a table."""
    status = shown.status
    ready = status.condition("Ready")
    health = [ready.status, ready.reason] if ready else ["Unknown", ""]
    if shown.kind == "Model":
        cells = [shown.name, *health, status.revision, _count(status.details.get("adapters"))]
    else:
        cells = [shown.name, model_of(shown), *health, _short(status.digest)]
    if wide:
        labels = ",".join(f"{key}={value}" for key, value in sorted(shown.labels.items()))
        message = ready.message if ready else ""
        digest = [_short(status.digest)] if shown.kind == "Model" else []
        cells += [str(shown.generation), *digest, labels, message]
    return _visible(cells)


def model_of(shown: admin.Object) -> str:
    """The Model that an adapter belongs to."""
    return str(shown.spec.get("model", "")) or shown.name.partition("/")[0]


def as_dict(shown: admin.Object) -> dict[str, object]:
    """The object as JSON values: its manifest, its generation and its status."""
    document = _document(shown)
    metadata = {"name": shown.name, "labels": shown.labels, "generation": shown.generation}
    return {**document, "metadata": metadata, "status": _status(shown.status)}


def as_yaml(objects: Iterable[admin.Object]) -> Iterator[str]:
    """A manifest of the objects, a part for each.

    What a Model declares inline is named in a comment instead, which is no document of its own.
    """
    from bertd.manifest import writing  # noqa: PLC0415 (a table must not wait for pydantic)

    begin = ""
    for each in objects:
        if "/" in each.name:
            model = each.name.partition("/")[0]
            yield f"# {each.name} is declared inside model/{model}"
        else:
            yield begin + writing.dump(_document(each)).rstrip("\n")
            begin = "---\n"


def as_description(shown: admin.Object) -> str:
    """Every fact on a line of its own."""
    from bertd.manifest import writing  # noqa: PLC0415 (a table must not wait for pydantic)

    status = shown.status
    details = facts_in_words.engine(status.details)
    facts = {
        "Name": shown.name,
        "Kind": shown.kind,
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted(shown.labels.items())),
        "Generation": f"{shown.generation} (observed: {status.observed_generation})",
        "Revision": status.revision,
        "Digest": status.digest,
        **{_title(key): _fact(value) for key, value in sorted(details.items())},
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
    versions = "\n".join(f"{each.digest} since {each.since}" for each in status.versions)
    parts = [*lines, "", conditions, ""]
    if versions:
        parts += ["Versions:", *_indented(versions), ""]
    return "\n".join([*parts, "Spec:", *_indented(writing.dump(shown.spec))])


_COLUMNS = {
    "Model": ("NAME", "READY", "REASON", "REVISION", "ADAPTERS"),
    "Adapter": ("NAME", "MODEL", "READY", "REASON", "DIGEST"),
}
_WIDE = {
    "Model": ("GENERATION", "DIGEST", "LABELS", "MESSAGE"),
    "Adapter": ("GENERATION", "LABELS", "MESSAGE"),
}


def _are_named(names: Sequence[str]) -> bool:
    return len(names) > 1 or "/" in names[0]


def _fetch(names: Sequence[str], model: str = "") -> Iterator[Sequence[admin.Object]]:
    wanted = references.several(names) if _are_named(names) else []
    kind = "" if wanted else references.kind(names[0])
    with admin.AdminClient() as daemon:
        if kind:
            yield from daemon.pages(kind, model=model)
        else:
            yield [daemon.get(kind, name) for kind, name in wanted]


def _print_tables(pages: Iterable[Sequence[admin.Object]], *, wide: bool) -> bool:
    """A table for each kind; returns whether there was anything."""
    tables: dict[str, table.Growing] = {}
    for page in pages:
        for kind in _COLUMNS:
            rows = [row(each, wide=wide) for each in page if each.kind == kind]
            if rows:
                gap = "\n" if tables and kind not in tables else ""
                shown = tables.setdefault(kind, table.Growing(header(kind, wide=wide)))
                terminal.out(gap + shown.add(rows))
    return bool(tables)


def _print_json(pages: Iterable[Sequence[admin.Object]], *, alone: bool) -> None:
    """A list, or the one object that was named `alone`."""
    objects = itertools.chain.from_iterable(pages)
    head = list(itertools.islice(objects, 2))
    if len(head) < 2:
        values = [as_dict(each) for each in head]
        terminal.out(_json(values[0] if alone and values else values))
        return
    terminal.out("[")
    waiting = head.pop(0)
    for each in itertools.chain(head, objects):
        terminal.out(f"{textwrap.indent(_json(as_dict(waiting)), JSON_INDENT)},")
        waiting = each
    terminal.out(f"{textwrap.indent(_json(as_dict(waiting)), JSON_INDENT)}\n]")


def _json(value: object) -> str:
    return json.dumps(value, indent=JSON_INDENT, ensure_ascii=False)


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
    shown: dict[str, object] = {
        "observedGeneration": status.observed_generation,
        "conditions": conditions,
        "revision": status.revision,
        "digest": status.digest,
        "details": status.details,
    }
    if status.versions:
        shown["versions"] = [{"digest": v.digest, "since": v.since} for v in status.versions]
    return shown


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
