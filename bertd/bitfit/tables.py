"""Labelled text from jsonl, csv and tsv files, and tagged words from jsonl and conll files.

A file is hostile input like any other: bounded, UTF-8 throughout, and every complaint starts with
`file:line`. In csv a field may be quoted and then hold commas, quotes and line ends; in tsv a
quote is a character like any other (the layout of GLUE); jsonl has one object per line; conll has
one word and its tag per line, apart by a tab or blanks, and a blank line between sentences.
"""

import csv
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bertd import errors
from bertd.checkpoint import declared

if TYPE_CHECKING:
    from _csv import Reader

MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 4_000_000
MAX_LABELS = 4096
MAX_WORDS = 8192
MAX_VALUE = 1e9

TOKEN = "token"
MULTI_LABEL = "multi_label"
REGRESSION = "regression"

_NUMBER = re.compile(rf"-?[0-9]{{1,{declared.MAX_LABEL_CHARACTERS}}}")
_SURROGATE = re.compile("[\ud800-\udfff]")

Text = str | tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns (keys, in jsonl) hold what; `names` gives the header to a file without one.

    For tagged words `text` is the column of the words and `label` that of their tags. `separator`
    stands between the labels of one cell, where a row may have several.
    """

    text: str
    label: str
    pair: str | None = None
    names: tuple[str, ...] | None = None
    separator: str = ","


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one file in its order, and the sha256 of its bytes in hex.

    `labels` has what stands in a row's label column: one label, one number, any number of labels
    (`multi_label`), or one for every word (`token`). `words` is empty but for tagged words, whose
    text is the words with a blank between them.
    """

    path: Path
    digest: str
    texts: tuple[Text, ...]
    labels: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    words: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    text: Text
    labels: tuple[str, ...]
    words: tuple[str, ...] = ()


def read(path: Path, columns: Columns, problem: str = "single_label") -> Table:
    """Reads a whole file for one of `declared.PROBLEMS`; its format is told by its name.

    Raises errors.InvalidRequest, with `file:line` where a line is at fault.
    """
    reader = _reader(path, columns, problem)
    row = _ROWS[problem]
    sha256 = hashlib.sha256()
    rows: list[_Row] = []
    try:
        with path.open("rb") as file:
            for record in reader(path, _lines(path, file, sha256.update), columns):
                rows.append(row(path, record, columns))
                if len(rows) > MAX_ROWS:
                    raise _fault(path, record.line, f"must have at most {MAX_ROWS} rows")
    except OSError as e:
        raise errors.InvalidRequest(f"{path}: cannot be read: {e.strerror}") from e
    if not rows:
        raise errors.InvalidRequest(f"{path}: must have at least one row of data")
    return Table(
        path=path,
        digest=sha256.hexdigest(),
        texts=tuple(row.text for row in rows),
        labels=tuple(row.labels for row in rows),
        lines=tuple(row.line for row in rows),
        words=tuple(row.words for row in rows) if problem == TOKEN else (),
    )


def label_names(table: Table, given: Sequence[str] = (), *, least: int = 2) -> tuple[str, ...]:
    """The label names in class order: as given, else sorted (numbers by value, not as text).

    Raises errors.InvalidRequest for fewer than `least`, too many, too long, or one given twice.
    """
    found = sorted({label for labels in table.labels for label in labels})
    by_value = all(map(_NUMBER.fullmatch, found))
    names = tuple(given) or tuple(sorted(found, key=int) if by_value else found)
    if len(set(names)) != len(names):
        raise errors.InvalidRequest(f"labels must differ from each other, got {', '.join(names)}")
    if not least <= len(names) <= MAX_LABELS:
        raise errors.InvalidRequest(
            f"{table.path}: must hold {least} to {MAX_LABELS} different labels, found {len(names)}"
        )
    for name in names:
        if len(name) > declared.MAX_LABEL_CHARACTERS:
            raise errors.InvalidRequest(
                f"a label must have at most {declared.MAX_LABEL_CHARACTERS} characters, "
                f"found '{name[:40]}...'"
            )
    return names


def classes(table: Table, names: Sequence[str]) -> list[tuple[int, ...]]:
    """The classes of every row, as many as it has labels, in the order of its labels.

    Raises errors.InvalidRequest at the first row of another label.
    """
    index = {name: place for place, name in enumerate(names)}
    found = []
    for line, labels in zip(table.lines, table.labels, strict=True):
        for label in labels:
            if label not in index:
                known = ", ".join(f"'{name}'" for name in list(names)[:8])
                raise _fault(table.path, line, f"unknown label '{label}'; known: {known}")
        found.append(tuple(index[label] for label in labels))
    return found


def values(table: Table) -> list[float]:
    """The number of every row. Raises errors.InvalidRequest at the first that is none."""
    found = []
    for line, (label,) in zip(table.lines, table.labels, strict=True):
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not abs(value) <= MAX_VALUE:
            message = f"must have a number within ±{MAX_VALUE:g} as its label, found '{label:.40}'"
            raise _fault(table.path, line, message)
        found.append(value)
    return found


def split(strata: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to learn from and to validate on, the strata in equal shares in both.

    Every stratum (a class, say) with two rows or more gives at least one row to each side. The
    same seed draws the same rows on every machine.
    """
    by_stratum: dict[int, list[int]] = {}
    for row, stratum in enumerate(strata):
        by_stratum.setdefault(stratum, []).append(row)
    held: set[int] = set()
    draw = random.Random(seed)
    for stratum in sorted(by_stratum):
        rows = by_stratum[stratum]
        draw.shuffle(rows)
        held.update(rows[: min(max(1, round(len(rows) * fraction)), len(rows) - 1)])
    return [row for row in range(len(strata)) if row not in held], sorted(held)


def _lines(path: Path, file: BinaryIO, hashed: Callable[[bytes], object]) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        hashed(line)
        if len(line) > MAX_LINE_BYTES:
            raise _fault(path, number, f"a line must have at most {MAX_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            message = f"must be UTF-8, found byte 0x{line[e.start]:02x} at column {e.start + 1}"
            raise _fault(path, number, message) from e


def _jsonl(path: Path, lines: Iterator[str], columns: Columns) -> Iterator[_Record]:
    if columns.names:
        raise errors.InvalidRequest(f"{path}: column names are for csv and tsv; jsonl has keys")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise _fault(path, number, f"must be one JSON object: {e}") from e
        if not isinstance(value, dict):
            raise _fault(path, number, f"must be a JSON object, found {type(value).__name__}")
        yield _Record(number, value)


def _csv(path: Path, lines: Iterator[str], columns: Columns) -> Iterator[_Record]:
    return _separated(path, csv.reader(lines, strict=True), columns)


def _tsv(path: Path, lines: Iterator[str], columns: Columns) -> Iterator[_Record]:
    return _separated(path, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), columns)


def _separated(path: Path, reader: "Reader", columns: Columns) -> Iterator[_Record]:
    names = columns.names
    if names is not None:
        _check_header(path, names, columns)
    try:
        for values in reader:
            if not values:
                continue
            if names is None:
                names = tuple(values)
                _check_header(path, names, columns)
            elif len(values) != len(names):
                message = f"must have {len(names)} columns like the header, found {len(values)}"
                raise _fault(path, reader.line_num, message)
            else:
                yield _Record(reader.line_num, dict(zip(names, values, strict=True)))
    except csv.Error as e:
        raise _fault(path, reader.line_num, str(e)) from e


def _check_header(path: Path, names: Sequence[str], columns: Columns) -> None:
    if len(set(names)) != len(names):
        raise _fault(path, 1, f"column names must differ, found {', '.join(names)}")
    for wanted in (columns.text, columns.label, columns.pair):
        if wanted is not None and wanted not in names:
            raise _fault(path, 1, f"no column '{wanted}'; found {', '.join(names)}", _NO_HEADER)


def _conll(path: Path, lines: Iterator[str], columns: Columns) -> Iterator[_Record]:
    names = columns.names or (columns.text, columns.label)
    _check_header(path, names, columns)
    word_at, tag_at = names.index(columns.text), names.index(columns.label)
    words: list[str] = []
    tags: list[str] = []
    size = first = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            if words:
                yield _Record(first, {columns.text: words, columns.label: tags})
            words, tags, size = [], [], 0
            continue
        parts = _conll_parts(path, number, line, names)
        first = first if words else number
        words.append(parts[word_at])
        tags.append(parts[tag_at])
        size += len(line)
        if size > MAX_LINE_BYTES:
            raise _fault(path, number, f"a sentence must have at most {MAX_LINE_BYTES} characters")
    if words:
        yield _Record(first, {columns.text: words, columns.label: tags})


def _conll_parts(path: Path, number: int, line: str, names: Sequence[str]) -> list[str]:
    line = line.rstrip("\r\n")
    parts = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
    if len(parts) == len(names) and all(parts):
        return parts
    message = f"must have {len(names)} columns ({', '.join(names)}), found {len(parts)}"
    hint = "name all columns of the file, and which of them hold the words and the tags"
    raise _fault(path, number, message, hint)


def _single(path: Path, record: _Record, columns: Columns) -> _Row:
    label = record.values.get(columns.label)
    return _labelled(path, record, columns, (_label(path, record, columns, label),))


def _several(path: Path, record: _Record, columns: Columns) -> _Row:
    cell = record.values.get(columns.label)
    if isinstance(cell, str):
        cell = [part.strip() for part in cell.split(columns.separator) if part.strip()]
    if not isinstance(cell, list):
        found = f"{cell!r:.40}"
        message = f"`{columns.label}` must be a list of labels or a cell of them, found {found}"
        raise _fault(path, record.line, message)
    labels = tuple(_label(path, record, columns, label) for label in cell)
    if len(set(labels)) != len(labels):
        raise _fault(path, record.line, f"`{columns.label}` has a label twice: {', '.join(labels)}")
    return _labelled(path, record, columns, labels)


def _measured(path: Path, record: _Record, columns: Columns) -> _Row:
    value = record.values.get(columns.label)
    if isinstance(value, float):
        value = repr(value)
    return _labelled(path, record, columns, (_label(path, record, columns, value),))


def _labelled(path: Path, record: _Record, columns: Columns, labels: tuple[str, ...]) -> _Row:
    text = _text(path, record, columns.text)
    if columns.pair is None:
        return _Row(record.line, text, labels)
    return _Row(record.line, (text, _text(path, record, columns.pair)), labels)


def _label(path: Path, record: _Record, columns: Columns, label: object) -> str:
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if not isinstance(label, str) or not label:
        message = f"`{columns.label}` must be a label (text or an integer), found {label!r:.40}"
        raise _fault(path, record.line, message)
    return _unicode(path, record, columns.label, label)


def _tagged(path: Path, record: _Record, columns: Columns) -> _Row:
    words = _strings(path, record, columns.text)
    tags = _strings(path, record, columns.label)
    if len(words) != len(tags):
        message = f"must have one tag for each word, found {len(words)} words, {len(tags)} tags"
        raise _fault(path, record.line, message)
    return _Row(record.line, " ".join(words), tags, words)


def _strings(path: Path, record: _Record, column: str) -> tuple[str, ...]:
    found = record.values.get(column)
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        message = f"`{column}` must be a list of non-empty texts, found {found!r:.40}"
        raise _fault(path, record.line, message)
    if not 1 <= len(found) <= MAX_WORDS:
        message = f"`{column}` must have 1 to {MAX_WORDS} words, found {len(found)}"
        raise _fault(path, record.line, message)
    return tuple(_unicode(path, record, column, each) for each in found)


def _text(path: Path, record: _Record, column: str) -> str:
    value = record.values.get(column)
    if not isinstance(value, str):
        found = "nothing" if value is None else f"{value!r:.40}"
        raise _fault(path, record.line, f"`{column}` must be text, found {found}")
    return _unicode(path, record, column, value)


def _unicode(path: Path, record: _Record, column: str, text: str) -> str:
    """JSON can spell half a surrogate pair, which no file and no tokenizer can hold."""
    if _SURROGATE.search(text):
        raise _fault(path, record.line, f"`{column}` must be valid Unicode, found {text!r:.40}")
    return text


def _fault(path: Path, line: int, message: str, hint: str = "") -> errors.InvalidRequest:
    return errors.InvalidRequest(f"{path}:{line}: {message}", hint=hint)


def _reader(path: Path, columns: Columns, problem: str) -> "_Read":
    suffixes = _TAGGED_FILES if problem == TOKEN else _TEXT_FILES
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        wanted = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise errors.InvalidRequest(f"{path}: must be a {wanted} file", hint="rename or convert it")
    if problem == TOKEN and columns.pair is not None:
        raise errors.InvalidRequest(
            "tagged words have no second text", hint="leave out the pair column"
        )
    if not columns.separator.strip():
        raise errors.InvalidRequest("`separator` must be visible characters, such as ',' or '|'")
    return _READERS[suffix]


_NO_HEADER = "for a file without a header line give the names of its columns"
_TEXT_FILES = (".jsonl", ".csv", ".tsv")
_TAGGED_FILES = (".jsonl", ".conll")
_Read = Callable[[Path, Iterator[str], Columns], Iterator[_Record]]
_READERS: Mapping[str, _Read] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".conll": _conll,
}
_ROWS: Mapping[str, Callable[[Path, _Record, Columns], _Row]] = {
    "single_label": _single,
    MULTI_LABEL: _several,
    REGRESSION: _measured,
    TOKEN: _tagged,
}
