"""Labelled text from jsonl, csv and tsv files.

A file is hostile input like any other: bounded, UTF-8 throughout, and every complaint starts with
`file:line`. In csv a field may be quoted and then hold commas, quotes and line ends; in tsv a
quote is a character like any other (the layout of GLUE); jsonl has one object per line.
"""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bertd import errors

if TYPE_CHECKING:
    from _csv import Reader

MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 4_000_000
MAX_LABELS = 4096

Text = str | tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns (keys, in jsonl) hold what; `names` gives the header to a file without one."""

    text: str
    label: str
    pair: str | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one file in its order, and the sha256 of its bytes in hex."""

    path: Path
    digest: str
    texts: tuple[Text, ...]
    labels: tuple[str, ...]
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    values: Mapping[str, object]


def read(path: Path, columns: Columns) -> Table:
    """Reads a whole file; `.jsonl`, `.csv` or `.tsv` by its name.

    Raises errors.InvalidRequest, with `file:line` where a line is at fault.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise errors.InvalidRequest(
            f"{path}: must be a .jsonl, .csv or .tsv file", hint="rename or convert it"
        )
    sha256 = hashlib.sha256()
    rows: list[tuple[int, Text, str]] = []
    try:
        with path.open("rb") as file:
            for record in reader(path, _lines(path, file, sha256.update), columns):
                rows.append((record.line, *_row(path, record, columns)))
                if len(rows) > MAX_ROWS:
                    raise _fault(path, record.line, f"must have at most {MAX_ROWS} rows")
    except OSError as e:
        raise errors.InvalidRequest(f"{path}: cannot be read: {e.strerror}") from e
    if not rows:
        raise errors.InvalidRequest(f"{path}: must have at least one row of data")
    lines, texts, labels = zip(*rows, strict=True)
    return Table(path=path, digest=sha256.hexdigest(), texts=texts, labels=labels, lines=lines)


def label_names(table: Table, given: Sequence[str] = ()) -> tuple[str, ...]:
    """The label names in class order: as given, else sorted (numbers by value, not as text).

    Raises errors.InvalidRequest for fewer than two, too many, or one given twice.
    """
    found = set(table.labels)
    by_value = all(name.lstrip("-").isdecimal() for name in found)
    names = tuple(given) or tuple(sorted(found, key=int if by_value else None))
    if len(set(names)) != len(names):
        raise errors.InvalidRequest(f"labels must differ from each other, got {', '.join(names)}")
    if not 2 <= len(names) <= MAX_LABELS:
        raise errors.InvalidRequest(
            f"{table.path}: must hold 2 to {MAX_LABELS} different labels, found {len(names)}"
        )
    return names


def classes(table: Table, names: Sequence[str]) -> list[int]:
    """The class of every row. Raises errors.InvalidRequest at the first row of another label."""
    index = {name: place for place, name in enumerate(names)}
    for line, label in zip(table.lines, table.labels, strict=True):
        if label not in index:
            known = ", ".join(f"'{name}'" for name in list(names)[:8])
            raise _fault(table.path, line, f"unknown label '{label}'; known: {known}")
    return [index[label] for label in table.labels]


def split(truth: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to learn from and to validate on, the classes in equal shares in both.

    Every class with two rows or more gives at least one row to each side. The same seed draws the
    same rows on every machine.
    """
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(truth):
        by_class.setdefault(label, []).append(row)
    held: set[int] = set()
    draw = random.Random(seed)
    for label in sorted(by_class):
        rows = by_class[label]
        draw.shuffle(rows)
        held.update(rows[: min(max(1, round(len(rows) * fraction)), len(rows) - 1)])
    return [row for row in range(len(truth)) if row not in held], sorted(held)


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


def _row(path: Path, record: _Record, columns: Columns) -> tuple[Text, str]:
    text = _text(path, record, columns.text)
    label = record.values.get(columns.label)
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if not isinstance(label, str) or not label:
        message = f"`{columns.label}` must be a label (text or an integer), found {label!r:.40}"
        raise _fault(path, record.line, message)
    return (text if columns.pair is None else (text, _text(path, record, columns.pair))), label


def _text(path: Path, record: _Record, column: str) -> str:
    value = record.values.get(column)
    if not isinstance(value, str):
        found = "nothing" if value is None else f"{value!r:.40}"
        raise _fault(path, record.line, f"`{column}` must be text, found {found}")
    return value


def _fault(path: Path, line: int, message: str, hint: str = "") -> errors.InvalidRequest:
    return errors.InvalidRequest(f"{path}:{line}: {message}", hint=hint)


_NO_HEADER = "for a file without a header line give the names of its columns"
_READERS: Mapping[str, Callable[[Path, Iterator[str], Columns], Iterator[_Record]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
}
