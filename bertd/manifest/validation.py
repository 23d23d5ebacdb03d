"""Rules across fields and across documents, and the list of what does not work yet.

The first look at values that are valid by themselves. `NOT_YET` looks at what was written, so that
a field of a later version is refused together with everything else that is wrong.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from bertd.manifest import problems, reader, sources, spec, suggestion


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong inside a document, not yet located in its text."""

    path: problems.Path
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """A field that is declared already and works in a later version."""

    path: tuple[str, ...]
    works: Callable[[object], bool]
    must: str


def _absent(value: object) -> bool:
    return value is None


def _one_of(*words: object) -> Callable[[object], bool]:
    return lambda value: value in words


# Every field that is parsed and validated, but does not work in this version. `*` is any index.
NOT_YET = {
    "Model": (
        Later(("compression",), _absent, "must be absent"),
        Later(("offload", "budget"), _absent, "must be absent"),
        Later(("offload", "prefetch"), _one_of(2), "must be 2"),
        Later(("offload", "idle"), _absent, "must be absent"),
        Later(("update", "strategy"), _one_of("blueGreen"), "must be 'blueGreen'"),
    ),
    "Adapter": (),
}


def not_yet(node: reader.Node, kind: str) -> list[problems.Problem]:
    """What the document asks for that this version cannot do."""
    return [
        problems.Problem(found.mark, path, f"{later.must}: {_what(path, found)}")
        for later in NOT_YET[kind]
        for path, found in _matches(node, ("spec", *later.path))
        if not (found.refused or later.works(reader.plain(found)))
    ]


def across_fields(document: spec.ModelDocument | spec.AdapterDocument) -> list[Finding]:
    """What is wrong between the fields of one valid document, as much of it as is ever shown."""
    if isinstance(document, spec.AdapterDocument):
        found = _output(document.spec, ("spec",))
    else:
        found = _model(document.spec)
    return list(itertools.islice(found, problems.PROBLEMS_LIMIT + 1))


def across_documents(
    objects: Sequence[tuple[spec.ModelDocument | spec.AdapterDocument, problems.Mark]],
) -> list[tuple[int, Finding]]:
    """What is wrong between documents: (index of the later one, finding)."""
    return [*_twins(objects), *_adapter_twins(objects)]


def _what(path: problems.Path, node: reader.Node) -> str:
    """What this version lacks: the value, or the whole field."""
    value = reader.plain(node)
    lacking = f"`{path[-1]}`" if isinstance(value, dict | list) else problems.described(value)
    return f"{lacking} is not available in this version"


def _matches(
    node: reader.Node, path: tuple[str, ...], done: problems.Path = ()
) -> Iterator[tuple[problems.Path, reader.Node]]:
    if not path:
        yield done, node
    elif path[0] == "*" and isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _matches(child, path[1:], (*done, index))
    elif isinstance(node.value, dict) and path[0] in node.value:
        yield from _matches(node.value[path[0]], path[1:], (*done, path[0]))


def _model(model: spec.ModelSpec) -> Iterator[Finding]:
    most = model.batching.max_tokens
    if model.max_length is not None and model.max_length > most:
        text = f"must be at least `spec.maxLength`, which is {model.max_length}"
        yield Finding(("spec", "batching", "maxTokens"), text)
    yield from _precision(model)
    yield from _compression(model)
    names: set[str] = set()
    for index, adapter in enumerate(model.adapters):
        path = ("spec", "adapters", index)
        yield from _output(adapter, path)
        yield from _adapter_name(adapter, path, names)


def _precision(model: spec.ModelSpec) -> Iterator[Finding]:
    path, on_gpu = ("spec", "precision"), model.offload.device.startswith("cuda")
    if model.precision == "fp8" and not on_gpu:
        text = "must be 'auto', 'fp32', 'bf16' or 'int8': 'fp8' needs a GPU, `offload.device: cuda`"
        yield Finding(path, text)
    if model.precision == "int8" and on_gpu:
        text = "must be 'auto', 'fp32', 'bf16' or 'fp8' on a GPU: 'int8' is for the CPU"
        yield Finding(path, text)


def _compression(model: spec.ModelSpec) -> Iterator[Finding]:
    stages = () if model.compression is None else model.compression.stages
    for index, stage in enumerate(stages):
        if len(stage.model_dump(exclude_none=True)) != 1:
            path = ("spec", "compression", "stages", index)
            yield Finding(path, f"must have exactly one key: {problems.one_of(_stage_names())}")
        if stage.quantize is not None and model.precision != "auto":
            text = "must be absent, because a stage `quantize` fixes the precision"
            yield Finding(("spec", "precision"), text)


def _stage_names() -> list[str]:
    return [info.alias or name for name, info in spec.Stage.model_fields.items()]


def _adapter_name(
    adapter: spec.InlineAdapter, path: problems.Path, names: set[str]
) -> Iterator[Finding]:
    called, key = ("source", adapter.source) if adapter.name is None else ("name", adapter.name)
    text = ""
    if sources.is_glob(adapter.source) and adapter.name is not None:
        text = "must be absent, because `source` is a glob: each file's stem is its name"
    elif not sources.is_glob(adapter.source) and adapter.name is None:
        stem = problems.quoted(sources.stem(adapter.source))
        text = f"must be set, because the file's stem {stem} is not a DNS label"
        called = "name"
    elif key in names:
        text = f"must be unique: {problems.quoted(key)} is declared above"
    names.add(key)
    if text:
        yield Finding((*path, called), text)


def _output(
    adapter: spec.InlineAdapter | spec.AdapterSpec, path: problems.Path
) -> Iterator[Finding]:
    if adapter.thresholds is None or adapter.label_names is None:
        return
    for label in adapter.thresholds:
        if label not in adapter.label_names:
            text = "must be one of `labelNames`"
            text += suggestion.did_you_mean(label, adapter.label_names)
            yield Finding((*path, "thresholds", label), text)


def _twins(
    objects: Sequence[tuple[spec.ModelDocument | spec.AdapterDocument, problems.Mark]],
) -> Iterator[tuple[int, Finding]]:
    seen: dict[tuple[str, str], problems.Mark] = {}
    for index, (document, mark) in enumerate(objects):
        first = seen.setdefault((document.kind, document.metadata.name), mark)
        if first is not mark:
            text = f"must be unique: another {document.kind} of this name is in line {first.line}"
            yield index, Finding(("metadata", "name"), text)


def _adapter_twins(
    objects: Sequence[tuple[spec.ModelDocument | spec.AdapterDocument, problems.Mark]],
) -> Iterator[tuple[int, Finding]]:
    """An Adapter object that a Model of the same manifest declares inline too."""
    inline = {
        (document.metadata.name, adapter.name)
        for document, _ in objects
        if isinstance(document, spec.ModelDocument)
        for adapter in document.spec.adapters
    }
    for index, (document, _) in enumerate(objects):
        if not isinstance(document, spec.AdapterDocument):
            continue
        if (document.spec.model, document.metadata.name) in inline:
            text = f"must be unique: Model '{document.spec.model}' declares this adapter inline"
            yield index, Finding(("metadata", "name"), text)
