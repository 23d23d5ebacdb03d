"""The door of the room: manifest text to declared objects, or every error at once."""

import dataclasses
import posixpath
from collections.abc import Iterator, Sequence

from bertd import errors
from bertd.manifest import checking, problems, reader, spec, validation, views

# (where the daemon's words may stand in a manifest, why they are ignored)
IGNORED = (
    (("status",), "is ignored: only the daemon writes it"),
    (("metadata", "generation"), "is ignored: the daemon counts changes itself"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One object as its author wants it, defaults filled in and sources absolute."""

    kind: views.Kind
    name: str
    labels: dict[str, str]
    spec: spec.ModelSpec | spec.AdapterSpec
    where: str = dataclasses.field(default="", compare=False)
    """`file:line:column` of the document, for messages about the whole object."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one manifest declares, in the order of its documents."""

    objects: tuple[Declared, ...]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Checked:
    """A document of known kind; `document` is None when its fields are wrong."""

    node: reader.Node
    document: checking.Document | None


def parse(
    text: str, *, file: str, base_dir: str | None, loader: reader.Loader = reader.DEFAULT_LOADER
) -> Manifest:
    """Read, validate and default all documents of a manifest.

    `file` is the name that positions are printed with; relative sources resolve against `base_dir`
    (absolute), and are refused when it is None. Nothing is opened: what a source names is not
    looked at. Raises `errors.InvalidManifest`, whose text lists every problem of every document,
    each as `file:line:column: path: message` with an excerpt and a caret.
    """
    if base_dir is not None and not posixpath.isabs(base_dir):
        raise errors.InvalidManifest("the manifest's directory must be an absolute path")
    reading = reader.read(text, loader=loader)
    found = list(reading.problems)
    nodes = [node for node in reading.documents if node.value is not None or node.refused]
    if not nodes and not found:
        found.append(problems.Problem(problems.START, (), "must declare at least one object"))
    checked: list[_Checked] = []
    for node in nodes:
        # What nobody will see is not looked for, which bounds the time for a hostile text.
        if len(found) <= problems.PROBLEMS_LIMIT:
            checked.append(_check(node, base_dir, found))
    found.extend(_across_documents(checked))
    if found:
        raise errors.InvalidManifest(problems.report(found, text=text, file=file))
    return Manifest(
        objects=tuple(_declared(one, file) for one in checked),
        warnings=tuple(warning for node in nodes for warning in _warnings(node, file)),
    )


def _check(node: reader.Node, base_dir: str | None, found: list[problems.Problem]) -> _Checked:
    """Validate one document; what is wrong with it is appended to `found`."""
    document, wrong = checking.check(node, base_dir)
    found.extend(wrong)
    kind = node.value.get("kind") if isinstance(node.value, dict) else None
    if kind is not None and isinstance(kind.value, str) and kind.value in validation.NOT_YET:
        known = {problem.path for problem in wrong}
        later = validation.not_yet(node, kind.value)
        found.extend(problem for problem in later if problem.path not in known)
    if document is not None:
        found.extend(_located(node, finding) for finding in validation.across_fields(document))
    return _Checked(node, document)


def _across_documents(checked: Sequence[_Checked]) -> list[problems.Problem]:
    valid = [(one.document, one.node) for one in checked if one.document is not None]
    findings = validation.across_documents([(document, node.mark) for document, node in valid])
    return [_located(valid[index][1], finding) for index, finding in findings]


def _located(node: reader.Node, finding: validation.Finding) -> problems.Problem:
    return problems.Problem(checking.place(node, finding.path), finding.path, finding.text)


def _declared(one: _Checked, file: str) -> Declared:
    document = one.document
    if document is None:
        raise errors.Bug("a document without problems was not validated")
    return Declared(
        kind=document.kind,
        name=document.metadata.name,
        labels=dict(document.metadata.labels),
        spec=document.spec,
        where=f"{file}:{one.node.mark.line}:{one.node.mark.column}",
    )


def _warnings(node: reader.Node, file: str) -> Iterator[str]:
    for path, text in IGNORED:
        nodes = list(reader.walk(node, path))
        if len(nodes) == len(path) + 1:
            mark = nodes[-2].keys[path[-1]]
            yield problems.headline(problems.Problem(mark, path, text), file)
