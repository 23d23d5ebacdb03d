"""Labelled data files: what is read, and how each way to be wrong is reported."""

import hashlib
from pathlib import Path

import pytest

from bertd import errors
from bertd.bitfit import tables

COLUMNS = tables.Columns(text="text", label="label")


def write(folder: Path, name: str, data: str | bytes) -> Path:
    """A file with these contents."""
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refusal(path: Path, columns: tables.Columns = COLUMNS) -> str:
    """The complaint about a file, without the folder that it lies in."""
    with pytest.raises(errors.InvalidRequest) as caught:
        tables.read(path, columns)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_jsonl(tmp_path: Path) -> None:
    """One object per line; other keys and blank lines do no harm, integers are labels too."""
    path = write(
        tmp_path, "a.jsonl", '{"text": "é", "label": 1, "x": null}\n\n{"text":"","label":"b"}'
    )
    table = tables.read(path, COLUMNS)
    assert (table.texts, table.labels, table.lines) == (("é", ""), ("1", "b"), (1, 3))


def test_csv_fields_may_be_quoted(tmp_path: Path) -> None:
    """Quotes hold commas and line ends; a byte order mark is no part of the first name."""
    path = write(tmp_path, "a.csv", '\ufefflabel,text\nyes,"a, ""b""\nc"\nno,d\n')
    table = tables.read(path, COLUMNS)
    assert table.texts == ('a, "b"\nc', "d")
    assert table.lines == (3, 4)


def test_tsv_quotes_are_characters(tmp_path: Path) -> None:
    """In tsv a lone quote opens nothing, and names may come from outside the file."""
    path = write(tmp_path, "a.tsv", 'gj04\t1\t\tshe said "no\ngj04\t0\t*\tb\n')
    columns = tables.Columns(
        text="sentence", label="label", names=("source", "label", "mark", "sentence")
    )
    table = tables.read(path, columns)
    assert (table.texts, table.labels) == (('she said "no', "b"), ("1", "0"))


def test_pairs(tmp_path: Path) -> None:
    """With a pair column a text is a tuple of both."""
    path = write(tmp_path, "a.csv", "text,other,label\na,b,c\n")
    columns = tables.Columns(text="text", pair="other", label="label")
    assert tables.read(path, columns).texts == (("a", "b"),)


def test_digest_is_of_the_bytes(tmp_path: Path) -> None:
    """The sha256 is that of the whole file, as sha256sum prints it."""
    table = tables.read(write(tmp_path, "a.csv", "text,label\na,b\n"), COLUMNS)
    assert table.digest == hashlib.sha256(b"text,label\na,b\n").hexdigest()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": "b"}\n{oops\n', "a.jsonl:2: must be one JSON object"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: must be a JSON object, found list"),
        ("a.jsonl", "[" * 200_000 + "\n", "a.jsonl:1: must be one JSON object"),
        ("a.jsonl", '{"label": "b"}\n', "a.jsonl:1: `text` must be text, found nothing"),
        ("a.jsonl", '{"text": 3, "label": "b"}\n', "a.jsonl:1: `text` must be text, found 3"),
        ("a.jsonl", '{"text": "a", "label": true}', "a.jsonl:1: `label` must be a label"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', "a.jsonl:1: `label` must be a label"),
        ("a.csv", "text,label\na,\n", "a.csv:2: `label` must be a label"),
        ("a.csv", "text,label\na,b,c\n", "a.csv:2: must have 2 columns like the header, found 3"),
        ("a.csv", 'text,label\n"a,b\n', "a.csv:2: unexpected end of data"),
        ("a.csv", "sentence,label\na,b\n", "a.csv:1: no column 'text'; found sentence, label"),
        ("a.csv", "text,text\na,b\n", "a.csv:1: column names must differ"),
        ("a.csv", "text,label\n", "a.csv: must have at least one row"),
        (
            "a.tsv",
            b"text\tlabel\nna\xefve\tb\n",
            "a.tsv:2: must be UTF-8, found byte 0xef at column 3",
        ),
        ("a.tsv", b"text\tlabel\n" + b"x" * (1 << 20) + b"\n", "a.tsv:2: a line must have at most"),
        ("a.txt", "text,label\na,b\n", "a.txt: must be a .jsonl, .csv or .tsv file"),
        ("a.jsonl", "", "a.jsonl: must have at least one row"),
    ],
)
def test_every_complaint_names_file_and_line(
    tmp_path: Path, name: str, data: str | bytes, message: str
) -> None:
    """Each way in which a data file can be wrong is told with its place."""
    assert refusal(write(tmp_path, name, data)).startswith(message)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A path that cannot be read is the caller's error and named."""
    assert refusal(tmp_path / "no.csv") == "no.csv: cannot be read: No such file or directory"
    (tmp_path / "d.csv").mkdir()
    assert refusal(tmp_path / "d.csv") == "d.csv: cannot be read: Is a directory"


def test_given_names_are_checked_too(tmp_path: Path) -> None:
    """Names given for a file without a header must include the wanted columns."""
    path = write(tmp_path, "a.tsv", "a\tb\n")
    columns = tables.Columns(text="text", label="label", names=("text", "class"))
    assert refusal(path, columns).startswith("a.tsv:1: no column 'label'; found text, class")
    jsonl = write(tmp_path, "a.jsonl", "{}")
    assert "column names are for csv and tsv" in refusal(jsonl, columns)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (("b", "a", "b"), ("a", "b")),
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("B", "a", "1"), ("1", "B", "a")),
    ],
)
def test_label_order_is_deterministic(found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Labels are sorted, numbers by value, wherever they stand in the file."""
    assert tables.label_names(_table(found)) == expected


def test_label_order_may_be_given() -> None:
    """Given names keep their order, and may include labels that the file does not use."""
    assert tables.label_names(_table(("a", "b")), ("b", "c", "a")) == ("b", "c", "a")


@pytest.mark.parametrize(
    ("found", "given", "message"),
    [
        (("a", "a"), (), "different labels, found 1"),
        (("a", "b"), ("a", "b", "a"), "labels must differ"),
        (("a", "b"), ("a",), "different labels, found 1"),
    ],
)
def test_bad_label_lists(found: tuple[str, ...], given: tuple[str, ...], message: str) -> None:
    """One label, or one named twice, cannot be learned."""
    with pytest.raises(errors.InvalidRequest, match=message):
        tables.label_names(_table(found), given)


def test_unknown_label_is_named_with_its_line() -> None:
    """A row whose label is none of the names is refused at its line."""
    message = r"t\.csv:4: unknown label 'c'; known: 'a', 'b'"
    with pytest.raises(errors.InvalidRequest, match=message):
        tables.classes(_table(("a", "b", "c")), ("a", "b"))


def test_split_is_fair_and_repeatable() -> None:
    """Every class is in both sides by its share, no row is lost, and a seed draws the same rows."""
    truth = [0] * 80 + [1] * 20 + [2] * 2 + [3]
    learn, validate = tables.split(truth, 0.1, 7)
    assert sorted(learn + validate) == list(range(len(truth)))
    assert [sum(truth[row] == c for row in validate) for c in range(4)] == [8, 2, 1, 0]
    assert tables.split(truth, 0.1, 7) == (learn, validate)
    assert tables.split(truth, 0.1, 8) != (learn, validate)


def _table(labels: tuple[str, ...]) -> tables.Table:
    return tables.Table(
        path=Path("t.csv"),
        digest="",
        texts=("x",) * len(labels),
        labels=labels,
        lines=tuple(range(2, 2 + len(labels))),
    )
