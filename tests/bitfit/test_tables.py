"""Labelled data files: what is read, and how each way to be wrong is reported."""

import hashlib
from pathlib import Path

import pytest

from bertd import errors
from bertd.bitfit import tables

COLUMNS = tables.Columns(text="text", label="label")
TAGGED = tables.Columns(text="tokens", label="tags")


def write(folder: Path, name: str, data: str | bytes) -> Path:
    """A file with these contents."""
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refusal(path: Path, columns: tables.Columns = COLUMNS, problem: str = "single_label") -> str:
    """The complaint about a file, without the folder that it lies in."""
    with pytest.raises(errors.InvalidRequest) as caught:
        tables.read(path, columns, problem)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_jsonl(tmp_path: Path) -> None:
    """One object per line; other keys and blank lines do no harm, integers are labels too."""
    path = write(
        tmp_path, "a.jsonl", '{"text": "é", "label": 1, "x": null}\n\n{"text":"","label":"b"}'
    )
    table = tables.read(path, COLUMNS)
    assert (table.texts, table.labels, table.lines) == (("é", ""), (("1",), ("b",)), (1, 3))


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
    assert (table.texts, table.labels) == (('she said "no', "b"), (("1",), ("0",)))


def test_pairs(tmp_path: Path) -> None:
    """With a pair column a text is a tuple of both."""
    path = write(tmp_path, "a.csv", "text,other,label\na,b,c\n")
    columns = tables.Columns(text="text", pair="other", label="label")
    assert tables.read(path, columns).texts == (("a", "b"),)


def test_several_labels_a_row(tmp_path: Path) -> None:
    """Labels of a row are a list, or a cell with a separator; none at all is an answer too."""
    cell = write(tmp_path, "a.csv", 'text,label\na,"x, y"\nb,\nc,x\n')
    assert tables.read(cell, COLUMNS, "multi_label").labels == (("x", "y"), (), ("x",))
    listed = write(tmp_path, "a.jsonl", '{"text":"a","label":["x",3]}\n{"text":"b","label":"x|3"}')
    columns = tables.Columns(text="text", label="label", separator="|")
    assert tables.read(listed, columns, "multi_label").labels == (("x", "3"), ("x", "3"))


def test_numbers_are_labels_of_a_regression(tmp_path: Path) -> None:
    """Numbers come as JSON numbers or as text, in any usual spelling."""
    path = write(
        tmp_path,
        "a.jsonl",
        '{"text":"a","label":0.5}\n{"text":"b","label":"-1e3"}\n{"text":"c","label":7}',
    )
    table = tables.read(path, COLUMNS, "regression")
    assert tables.values(table) == [0.5, -1000.0, 7.0]


def test_tagged_words(tmp_path: Path) -> None:
    """jsonl and conll give the same rows; a line of blanks ends a sentence, tab or blanks part."""
    lines = write(
        tmp_path,
        "a.jsonl",
        '{"tokens": ["In", "New", "York"], "tags": ["O", "B-x", "I-x"]}\n'
        '{"tokens": ["é"], "tags": ["O"]}',
    )
    words = write(tmp_path, "a.conll", "\nIn\tO\nNew\tB-x\r\nYork  I-x\n\t\n\né\tO\n \n")
    for path, places in ((lines, (1, 2)), (words, (2, 7))):
        table = tables.read(path, TAGGED, "token")
        assert table.words == (("In", "New", "York"), ("é",))
        assert table.labels == (("O", "B-x", "I-x"), ("O",))
        assert table.texts == ("In New York", "é")
        assert table.lines == places


def test_conll_columns_may_be_named(tmp_path: Path) -> None:
    """A file of more columns is read where all are named; a tab keeps the blanks of a word."""
    path = write(tmp_path, "a.conll", "EU NNP I-NP B-ORG\n")
    columns = tables.Columns(text="word", label="ner", names=("word", "pos", "chunk", "ner"))
    table = tables.read(path, columns, "token")
    assert (table.words, table.labels) == ((("EU",),), (("B-ORG",),))
    blank = write(tmp_path, "b.conll", "10 000\tO\n")
    assert tables.read(blank, TAGGED, "token").words == (("10 000",),)


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


@pytest.mark.parametrize(
    ("problem", "name", "data", "message"),
    [
        ("multi_label", "a.jsonl", '{"text":"a","label":{}}', "a.jsonl:1: `label` must be a list"),
        (
            "single_label",
            "a.jsonl",
            '{"text":"a","label":"\\ud800"}',
            "a.jsonl:1: `label` must be valid Unicode",
        ),
        (
            "token",
            "a.jsonl",
            '{"tokens":["a"],"tags":["\\udfff"]}',
            "a.jsonl:1: `tags` must be valid Unicode",
        ),
        (
            "single_label",
            "a.jsonl",
            '{"text":"a\\ud800","label":"a"}',
            "a.jsonl:1: `text` must be valid Unicode",
        ),
        ("multi_label", "a.jsonl", '{"text":"a"}', "a.jsonl:1: `label` must be a list of labels"),
        ("multi_label", "a.jsonl", '{"text":"a","label":[""]}', "a.jsonl:1: `label` must be a la"),
        ("multi_label", "a.csv", 'text,label\na,"x,x"\n', "a.csv:2: `label` has a label twice"),
        (
            "regression",
            "a.jsonl",
            '{"text":"a","label":true}',
            "a.jsonl:1: `label` must be a label",
        ),
        ("token", "a.csv", "tokens,tags\na,b\n", "a.csv: must be a .jsonl or .conll file"),
        ("token", "a.conll", "a\tO\nb\n", "a.conll:2: must have 2 columns (tokens, tags), found 1"),
        ("token", "a.conll", "a\t\tO\n", "a.conll:1: must have 2 columns (tokens, tags), found 3"),
        ("token", "a.conll", "\tO\n", "a.conll:1: must have 2 columns"),
        ("token", "a.conll", "a b c O\n", "a.conll:1: must have 2 columns (tokens, tags), found 4"),
        ("token", "a.conll", "\n \n", "a.conll: must have at least one row"),
        ("token", "a.conll", b"a\tO\n\xff\tO\n", "a.conll:2: must be UTF-8, found byte 0xff"),
        ("token", "a.conll", f"{'x' * 70_000}\tO\n" * 15, "a.conll:15: a sentence must have at m"),
        ("token", "a.conll", "a\tO\n" * 8193, "a.conll:1: `tokens` must have 1 to 8192 words"),
        ("token", "a.jsonl", '{"tokens":["a"]}', "a.jsonl:1: `tags` must be a list of non-empty"),
        ("token", "a.jsonl", '{"tokens":"a","tags":["O"]}', "a.jsonl:1: `tokens` must be a list"),
        ("token", "a.jsonl", '{"tokens":[""],"tags":["O"]}', "a.jsonl:1: `tokens` must be a list"),
        ("token", "a.jsonl", '{"tokens":[],"tags":[]}', "a.jsonl:1: `tokens` must have 1 to 8192"),
        ("token", "a.jsonl", '{"tokens":["a"],"tags":[]}', "a.jsonl:1: `tags` must have 1 to"),
        (
            "token",
            "a.jsonl",
            '{"tokens":["a","b"],"tags":["O"]}',
            "a.jsonl:1: must have one tag for each word, found 2 words, 1 tags",
        ),
        ("single_label", "a.conll", "a\tO\n", "a.conll: must be a .jsonl, .csv or .tsv file"),
    ],
)
def test_complaints_of_other_problems(
    tmp_path: Path, problem: str, name: str, data: str | bytes, message: str
) -> None:
    """Each way in which several labels, numbers and tagged words can be wrong has its place."""
    columns = TAGGED if problem == "token" else COLUMNS
    assert refusal(write(tmp_path, name, data), columns, problem).startswith(message)


@pytest.mark.parametrize("cell", ["three", "nan", "inf", "-Infinity", "1e10", "0x10", ""])
def test_a_number_is_finite_and_bounded(tmp_path: Path, cell: str) -> None:
    """What is no number within bounds is refused at its line."""
    path = write(tmp_path, "a.csv", f"text,label\na,1.5\nb,{cell}\n")
    with pytest.raises(errors.InvalidRequest, match=r"a\.csv:3: "):
        tables.values(tables.read(path, COLUMNS, "regression"))


def test_columns_that_cannot_be_meant(tmp_path: Path) -> None:
    """Tags have no second text, and a separator is something that one can see."""
    path = write(tmp_path, "a.conll", "a\tO\n")
    pair = tables.Columns(text="tokens", label="tags", pair="other")
    assert refusal(path, pair, "token").startswith("tagged words have no second text")
    blank = tables.Columns(text="text", label="label", separator=" ")
    assert refusal(write(tmp_path, "a.csv", "a"), blank).startswith("`separator` must be visible")


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
        (("01", "1", "-1", "001"), ("-1", "001", "01", "1")),
        (("--5", "3"), ("--5", "3")),
        (("-", "3"), ("-", "3")),
        (("9" * 100, "3", "10"), ("3", "10", "9" * 100)),
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
        (("a", "b" * 257), (), "at most 256 characters"),
        (("1", "9" * 5000), (), "at most 256 characters"),
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
        labels=tuple((label,) for label in labels),
        lines=tuple(range(2, 2 + len(labels))),
    )
