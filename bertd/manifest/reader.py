"""YAML as hostile input: bounded events to trees that know where everything was written.

PyYAML's composers recurse, keep the last of two equal keys, expand aliases and read YAML 1.1; its
parsers only emit events, one at a time. This module takes those events, keeps its own stack, and
refuses what a manifest never needs: anchors, aliases, tags, directives, merge keys, keys that are
not strings, equal keys. All such problems of a text are collected; only broken syntax and a limit
end the reading, and the documents before that place are still returned.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterator
from typing import Protocol

import yaml

from bertd.manifest import problems, scalars

TEXT_LIMIT_BYTES = 256 * 1024
DEPTH_LIMIT_LEVELS = 32
NODES_LIMIT = 10_000
SCALAR_LIMIT_BYTES = 16 * 1024
DOCUMENTS_LIMIT = 64

# What YAML 1.2 calls non-printable (section 5.1), and surrogates, which UTF-8 cannot hold.
UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
Loader = type[yaml.CSafeLoader] | type[yaml.SafeLoader]
DEFAULT_LOADER: Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """A value with the place where it begins; `keys` holds the places of a mapping's keys."""

    mark: problems.Mark
    value: "scalars.Scalar | list[Node] | dict[str, Node]"
    keys: dict[str, problems.Mark] = dataclasses.field(default_factory=dict)
    refused: bool = False
    """A problem was already reported here; what is missing or wrong inside follows from it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The whole documents of a text, and everything that is wrong with its form."""

    documents: tuple[Node, ...]
    problems: tuple[problems.Problem, ...]


def read(text: str, *, loader: Loader = DEFAULT_LOADER) -> Reading:
    """Read all documents; never raises for any text. The loader is one of PyYAML's two."""
    building = _Building()
    try:
        text = text.removeprefix("\ufeff")
        _check_text(text)
        for event in yaml.parse(text, Loader=loader):
            building.feed(event)
    except _Stop as stop:
        building.problems.append(stop.problem)
    except yaml.MarkedYAMLError as error:
        building.refuse(_mark(_syntax_mark(error)), f"must be valid YAML: {_syntax(error)}")
    except (yaml.YAMLError, ValueError, OverflowError):
        # The pure loader turns some escapes and directives into bare ValueErrors without a mark.
        building.refuse(problems.START, "must be valid YAML: an escape or a directive is wrong")
    return Reading(tuple(building.documents), tuple(building.problems))


def plain(node: Node) -> object:
    """The value without positions: dicts, lists and scalars."""
    match node.value:
        case dict() as entries:
            return {key: plain(child) for key, child in entries.items()}
        case list() as items:
            return [plain(child) for child in items]
        case scalar:
            return scalar


def walk(node: Node, path: problems.Path) -> Iterator[Node]:
    """The node and those under it along the path, as far as the path exists."""
    yield node
    for step in path:
        child = _child(node, step)
        if child is None:
            return
        node = child
        yield node


def _child(node: Node, step: str | int) -> Node | None:
    inside = node.value
    if isinstance(inside, dict) and isinstance(step, str):
        return inside.get(step)
    if isinstance(inside, list) and isinstance(step, int) and step < len(inside):
        return inside[step]
    return None


class _YamlMark(Protocol):
    """What the marks of both loaders have; they count from 0."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class _Stop(Exception):
    """Reading cannot go on; carries why."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


@dataclasses.dataclass(slots=True)
class _Frame:
    """An open collection. A mapping alternates between keys and values."""

    node: Node
    key: str | None = None
    awaits_value: bool = False
    detached: bool = False
    """The value of a refused key: read to its end, then forgotten."""

    def step(self) -> str | int | None:
        if isinstance(self.node.value, list):
            return len(self.node.value)
        return self.key if self.awaits_value else None


class _Building:
    """Grows documents from events."""

    def __init__(self) -> None:
        self.documents: list[Node] = []
        self.problems: list[problems.Problem] = []
        self._stack: list[_Frame] = []
        self._nodes = 0
        self._documents_begun = 0

    def feed(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._begin_document(event)
            case yaml.AliasEvent():
                self.refuse(_mark(event.start_mark), "must be written out: aliases are not allowed")
                self._add(Node(_mark(event.start_mark), None, refused=True))
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.SequenceStartEvent():
                self._open(event, Node(_mark(event.start_mark), []))
            case yaml.MappingStartEvent():
                self._open(event, Node(_mark(event.start_mark), {}))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._close()

    def refuse(self, mark: problems.Mark, text: str, path: problems.Path | None = None) -> None:
        path = self._path() if path is None else path
        problem = problems.Problem(mark, path, text)
        if len(self.problems) >= problems.PROBLEMS_LIMIT:
            # What nobody will see is not looked for, which bounds the time for a hostile text.
            raise _Stop(problem)
        self.problems.append(problem)

    def _path(self) -> problems.Path:
        steps = [frame.step() for frame in self._stack]
        return tuple(step for step in steps if step is not None)

    def _begin_document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents_begun += 1
        mark = _mark(event.start_mark)
        if self._documents_begun > DOCUMENTS_LIMIT:
            self._stop(mark, f"must have at most {DOCUMENTS_LIMIT} documents")
        if event.version or event.tags:
            self.refuse(mark, "must not have directives ('%YAML', '%TAG')")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        mark = _mark(event.start_mark)
        self._count(mark)
        if len(event.value) * 4 > SCALAR_LIMIT_BYTES:
            self._check_scalar_size(event.value, mark)
        self._check_anchor(event)
        refused = self._is_tagged(event)
        value: scalars.Scalar = event.value
        try:
            value = _clean(event.value) if event.style else scalars.resolve(event.value)
        except ValueError as error:
            self.refuse(mark, str(error))
            refused = True
        if self._awaits_key():
            self._key(value, mark, refused)
        else:
            self._add(Node(mark, value, refused=refused))

    def _check_scalar_size(self, value: str, mark: problems.Mark) -> None:
        if len(value.encode("utf-8", "surrogatepass")) > SCALAR_LIMIT_BYTES:
            self._stop(mark, f"must be at most {SCALAR_LIMIT_BYTES // 1024} KiB long")

    def _check_anchor(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            text = "must be written without '&': anchors are not allowed"
            self.refuse(_mark(event.start_mark), text)

    def _is_tagged(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> bool:
        if event.tag is not None:
            text = "must be written without '!': tags are not allowed"
            self.refuse(_mark(event.start_mark), text)
        return event.tag is not None

    def _open(self, event: yaml.CollectionStartEvent, node: Node) -> None:
        self._count(node.mark)
        if len(self._stack) >= DEPTH_LIMIT_LEVELS:
            self._stop(node.mark, f"must be nested at most {DEPTH_LIMIT_LEVELS} levels deep")
        self._check_anchor(event)
        node.refused = self._is_tagged(event)
        if self._awaits_key():
            self.refuse(node.mark, "must have string keys, not a list or a mapping as a key")
            self._stack.append(_Frame(node, detached=True))
        else:
            self._stack.append(_Frame(node))

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.detached:
            self._stack[-1].awaits_value = True
            self._stack[-1].key = None
        else:
            self._add(frame.node)

    def _awaits_key(self) -> bool:
        if not self._stack:
            return False
        frame = self._stack[-1]
        return isinstance(frame.node.value, dict) and not frame.awaits_value

    def _key(self, key: scalars.Scalar, mark: problems.Mark, refused: bool) -> None:
        """Take a key; a refused one leaves `key` None, so that its value is read and forgotten."""
        frame = self._stack[-1]
        trouble = _key_trouble(key, frame.node)
        if trouble and not refused:
            path = (*self._path(), key) if isinstance(key, str) else self._path()
            self.refuse(mark, trouble, path)
        frame.awaits_value = True
        frame.key = None
        if isinstance(key, str) and not trouble:
            frame.key = key
            frame.node.keys[key] = mark
        elif not isinstance(key, str):
            frame.node.refused = True

    def _add(self, node: Node) -> None:
        """Hand a finished value to its parent; without a parent it is a document."""
        if not self._stack:
            self.documents.append(node)
            return
        frame = self._stack[-1]
        match frame.node.value:
            case list() as items:
                items.append(node)
            case dict() as entries if frame.awaits_value:
                if frame.key is not None:
                    entries[frame.key] = node
                frame.awaits_value = False
            case _:
                # An alias stands where a key belongs; its value is read and forgotten.
                frame.awaits_value, frame.key = True, None

    def _count(self, mark: problems.Mark) -> None:
        self._nodes += 1
        if self._nodes > NODES_LIMIT:
            self._stop(mark, f"must have at most {NODES_LIMIT} keys and values")

    def _stop(self, mark: problems.Mark, text: str) -> None:
        raise _Stop(problems.Problem(mark, self._path(), text))


def _check_text(text: str) -> None:
    wrong = UNPRINTABLE.search(text[: TEXT_LIMIT_BYTES + 1])
    if wrong is not None:
        code = f"U+{ord(wrong.group()):04X}"
        mark = _mark_after(text[: wrong.start()])
        raise _Stop(problems.Problem(mark, (), f"must be printable text, not '{code}'"))
    if len(text) > TEXT_LIMIT_BYTES or len(text.encode("utf-8")) > TEXT_LIMIT_BYTES:
        raise _Stop(problems.Problem(problems.START, (), _too_large()))


def _too_large() -> str:
    return f"must be at most {TEXT_LIMIT_BYTES // 1024} KiB of text; split it into several files"


def _clean(value: str) -> str:
    """A quoted scalar, whose escapes can spell what the text itself may not hold."""
    for character in value:
        if character not in "\t\n" and unicodedata.category(character) in ("Cc", "Cs"):
            raise ValueError("must not contain control characters")
    return value


def _key_trouble(key: scalars.Scalar, mapping: Node) -> str:
    if not isinstance(key, str):
        return f"must be a string key, not {problems.described(key)}; put it in quotes"
    if key == "<<":
        return "must be written out: merge keys are not allowed"
    if key in mapping.keys:
        return f"must be set once; it is also set in line {mapping.keys[key].line}"
    return ""


def _syntax_mark(error: yaml.MarkedYAMLError) -> _YamlMark | None:
    """Where to look: a line without its colon is found out in the next line only."""
    if error.context == "while scanning a simple key":
        return error.context_mark
    return error.problem_mark or error.context_mark


def _syntax(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return problems.safe(", ".join(parts).replace('"', "'"))


def _mark(mark: _YamlMark | None) -> problems.Mark:
    return problems.START if mark is None else problems.Mark(mark.line + 1, mark.column + 1)


def _mark_after(text: str) -> problems.Mark:
    lines = problems.LINE_BREAK.split(text)
    return problems.Mark(len(lines), len(lines[-1]) + 1)
