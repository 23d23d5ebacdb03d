"""Specs back to plain dictionaries and YAML, every default written out.

What is written here reads back as the same object: this is what the store keeps and what
`bertd get -o yaml` prints. Fields without a value (`digest`, `maxLength`) are left out.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic
import yaml
from pydantic.alias_generators import to_camel

from bertd import errors
from bertd.manifest import parsing, scalars, spec, views

SPECS: dict[str, type[spec.ModelSpec] | type[spec.AdapterSpec]] = {
    "Model": spec.ModelSpec,
    "Adapter": spec.AdapterSpec,
}
LINE_WIDTH = 100


def spec_to_dict(written: spec.ModelSpec | spec.AdapterSpec) -> dict[str, Any]:
    """YAML names, JSON values, durations and sizes as text."""
    entries: dict[str, Any] = written.model_dump(mode="json", by_alias=True, exclude_none=True)
    if entries.get("pooling") == {}:
        del entries["pooling"]
    return entries


def spec_from_dict(kind: str, entries: Mapping[str, object]) -> spec.ModelSpec | spec.AdapterSpec:
    """The spec of a stored dictionary; BadArtifact when it is not one (an older or newer store)."""
    try:
        context = spec.Written(base_dir=None)
        return SPECS[kind].model_validate(dict(entries), context=context, by_name=False)
    except (pydantic.ValidationError, KeyError) as error:
        raise errors.BadArtifact(
            f"a stored spec of kind '{kind}' must be readable by this version",
            reason="StateCorrupt",
            hint="apply the object's manifest again",
        ) from error


def to_yaml(objects: Iterable[parsing.Declared | views.ObjectView]) -> str:
    """One document per object; a view also prints its generation and status."""
    return "---\n".join(dump(document(one)) for one in objects)


def document(one: parsing.Declared | views.ObjectView) -> dict[str, Any]:
    """The mapping that a manifest's document would hold; JSON values."""
    metadata: dict[str, Any] = {"name": one.name}
    if one.labels:
        metadata["labels"] = dict(one.labels)
    head = {"apiVersion": spec.API_VERSION, "kind": one.kind, "metadata": metadata}
    if isinstance(one, parsing.Declared):
        return {**head, "spec": spec_to_dict(one.spec)}
    metadata["generation"] = one.generation
    return {**head, "spec": dict(one.spec), "status": _status(one.status)}


def dump(value: Mapping[str, object]) -> str:
    """YAML that YAML 1.1 and 1.2 readers, and our own, read back as the same value."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=LINE_WIDTH,
    )


def _status(status: views.StatusView) -> dict[str, Any]:
    entries: dict[str, Any] = {"observedGeneration": status.observed_generation}
    entries |= {"revision": status.revision} if status.revision else {}
    entries |= {"digest": status.digest} if status.digest else {}
    entries["conditions"] = [_condition(condition) for condition in status.conditions]
    return entries | ({"details": dict(status.details)} if status.details else {})


def _condition(condition: views.Condition) -> dict[str, Any]:
    entries = dataclasses.asdict(condition)
    return {to_camel(name): value for name, value in entries.items()}


class _Dumper(yaml.SafeDumper):
    """Quotes what any YAML version would read as something else; never writes aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_string(self, data: str) -> yaml.ScalarNode:
        node: yaml.ScalarNode = self.represent_str(data)
        if not isinstance(_resolved(data), str):
            node.style = "'"
        return node

    def represent_items(self, data: list[object]) -> yaml.SequenceNode:
        """A list of words stands in one line."""
        node: yaml.SequenceNode = self.represent_list(data)
        node.flow_style = not any(isinstance(item, list | dict) for item in data)
        return node


def _resolved(text: str) -> scalars.Scalar:
    try:
        return scalars.resolve(text)
    except ValueError:
        return None


_Dumper.add_representer(str, _Dumper.represent_string)
_Dumper.add_representer(list, _Dumper.represent_items)
