"""A corpus of broken manifests: one file per rule, one row of `bad/expected.txt` per error."""

import pathlib
import re

import pytest
import yaml

from bertd import errors
from bertd.manifest import parsing, problems, reader

BAD = pathlib.Path(__file__).parent / "bad"
HEADLINE = re.compile(
    r"(?P<file>[^:]+):(?P<line>\d+):(?P<column>\d+): (?P<path>[^:]+): (?P<text>.+)"
)

ROW = re.compile(r"(?P<name>\w+)\.yaml:(?P<line>\d+):(?P<column>\d+): (?P<text>.+)")
LOADERS: dict[str, reader.Loader] = {"libyaml": yaml.CSafeLoader, "pure": yaml.SafeLoader}


def expected() -> dict[str, list[tuple[str, str]]]:
    """The table: file name -> (`line:column`, what the error contains), in order."""
    table: dict[str, list[tuple[str, str]]] = {}
    for row in (BAD / "expected.txt").read_text().splitlines()[1:]:
        match = ROW.fullmatch(row)
        assert match is not None, row
        place = f"{match['line']}:{match['column']}"
        table.setdefault(match["name"], []).append((place, match["text"]))
    return table


EXPECTED = expected()
# The loaders word and place broken syntax differently; the daemon uses libyaml.
CASES = [
    (name, loader)
    for name in EXPECTED
    for loader in LOADERS
    if not (loader == "pure" and name.startswith("syntax_"))
]


def errors_of(
    text: str, loader: reader.Loader = reader.DEFAULT_LOADER, base_dir: str | None = None
) -> list[str]:
    """The headlines of all errors of a manifest named `m.yaml`."""
    with pytest.raises(errors.InvalidManifest) as raised:
        parsing.parse(text, file="m.yaml", base_dir=base_dir, loader=loader)
    return [line for line in str(raised.value).split("\n") if line.startswith("m.yaml:")]


def read_bad(name: str) -> str:
    """The text of a file of the corpus, line ends untouched."""
    return (BAD / f"{name}.yaml").read_bytes().decode()


@pytest.mark.parametrize(("name", "loader"), CASES)
def test_every_error_has_its_exact_place(name: str, loader: str) -> None:
    """A broken manifest yields all its errors at their line and column (checklist 1, 2, 3, 4)."""
    found = errors_of(read_bad(name), LOADERS[loader])
    assert len(found) == len(EXPECTED[name]), found
    for headline, (place, text) in zip(found, EXPECTED[name], strict=True):
        assert headline.startswith(f"m.yaml:{place}: ")
        assert text in headline


def test_the_corpus_is_complete() -> None:
    """There are at least 60 broken manifests, and each file has its row (checklist 1)."""
    assert len(EXPECTED) >= 60
    assert {path.stem for path in BAD.glob("*.yaml")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_error_lines_have_one_form(name: str) -> None:
    """Every error prints `file:line:column: path: message` (checklist 1)."""
    for headline in errors_of(read_bad(name)):
        assert HEADLINE.fullmatch(headline)


@pytest.mark.parametrize("name", EXPECTED)
def test_error_texts_follow_the_rules(name: str) -> None:
    """Texts say "must", never "should", and put literals in single quotes (checklist 10)."""
    for headline in errors_of(read_bad(name)):
        match = HEADLINE.fullmatch(headline)
        assert match is not None
        assert match["text"].startswith("must ")
        assert "should" not in match["text"]
        assert '"' not in match["text"]


def test_an_error_shows_its_line_and_a_caret() -> None:
    """The error's line, the one before it and a caret follow the headline (checklist 1)."""
    text = "apiVersion: bertd.dev/v1\nkind: Modle\n"
    with pytest.raises(errors.InvalidManifest) as raised:
        parsing.parse(text, file="m.yaml", base_dir=None)
    expected = """\
m.yaml:2:7: kind: must be 'Model' or 'Adapter', not 'Modle'; did you mean 'Model'?
  1 | apiVersion: bertd.dev/v1
  2 | kind: Modle
    |       ^"""
    assert str(raised.value) == expected


def test_long_lines_are_cut_around_the_caret() -> None:
    """An excerpt is never wider than its limit, and the caret stands under the error."""
    lines = ["kind: Model", "y" * 2999 + "x" + "y" * 2000]
    *above, shown, caret = problems.excerpt(problems.Mark(2, 3000), lines).split("\n")
    for line in (*above, shown, caret):
        assert len(line) <= problems.EXCERPT_LIMIT_CHARACTERS + len("  2 | ")
    assert shown[caret.index("^")] == "x"


def test_excerpts_cannot_drive_a_terminal() -> None:
    """Characters that reorder or hide text are blanked in what is printed."""
    text = "kind: '\u202emodel\u200b'\n"
    with pytest.raises(errors.InvalidManifest) as raised:
        parsing.parse(text, file="m.yaml", base_dir=None)
    assert "\u202e" not in str(raised.value)
    assert "\u200b" not in str(raised.value)


def test_errors_are_bounded() -> None:
    """A manifest with thousands of errors shows the first ones and says that there are more."""
    text = read_bad("unknown_field_far") + "".join(f"  f{i}: 1\n" for i in range(3000))
    found = errors_of(text)
    assert len(found) == problems.PROBLEMS_LIMIT + 1
    assert found[-1] == "m.yaml: more problems are not shown; mend these 50 first"


def test_a_relative_base_directory_is_refused() -> None:
    """Relative sources need an absolute place to begin at."""
    with pytest.raises(errors.InvalidManifest, match="must be an absolute path"):
        parsing.parse("", file="m.yaml", base_dir="manifests")
