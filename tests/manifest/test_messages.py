"""The catalogue of error texts: every one that the source of the room can print."""

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator

import pytest

import bertd.manifest
from bertd.manifest import checking, problems, validation

ROOM = pathlib.Path(inspect.getfile(bertd.manifest)).parent
# The calls whose argument becomes an error text.
SPEAKERS = {"ValueError", "refuse", "_stop", "Problem", "Finding"}


def literal(node: ast.expr) -> str | None:
    """The text of a string or f-string; what is filled in prints as `{}`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or "{}" for part in node.values)
    return None


def spoken(tree: ast.Module) -> Iterator[str]:
    """Every string literal that begins as an error text, and those given to `SPEAKERS`."""
    filled = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in filled for part in node.values}
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        text = literal(node) if isinstance(node, ast.expr) else None
        if text is not None and text.startswith("must"):
            yield text
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            for argument in node.args if called in SPEAKERS else ():
                text = literal(argument)
                if text is not None and re.search("[a-z]", text):
                    yield text


CATALOGUE = sorted(
    {text for path in ROOM.glob("*.py") for text in spoken(ast.parse(path.read_text()))}
    | set(checking.BOUNDS.values())
    | {later.must for laters in validation.NOT_YET.values() for later in laters}
)


def test_the_catalogue_is_found() -> None:
    """The lint sees the texts of the room, so that it cannot pass by seeing none."""
    assert len(CATALOGUE) > 60
    assert "must be written out: merge keys are not allowed" in CATALOGUE


@pytest.mark.parametrize("text", CATALOGUE)
def test_texts_follow_the_rules(text: str) -> None:
    """Texts begin with "must", never say "should", and hold no double quotes (checklist 10)."""
    assert text.startswith("must ")
    assert "should" not in text
    assert '"' not in text
    assert not text.endswith(".")


@pytest.mark.parametrize("text", CATALOGUE)
def test_literals_and_fields_are_marked(text: str) -> None:
    """Single quotes and backquotes come in pairs (checklist 10)."""
    assert text.count("`") % 2 == 0
    assert re.sub(r"\w's\b", "", text).count("'") % 2 == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), "(document)"),
        (("spec", "adapters", 0, "name"), "spec.adapters[0].name"),
        (("metadata", "labels", "a b"), "metadata.labels['a b']"),
        (("metadata", "labels", "x" * 65), f"metadata.labels['{'x' * 64}…']"),
    ],
)
def test_paths_print_as_they_are_written(path: problems.Path, expected: str) -> None:
    """A path reads like the manifest; keys that are no plain words are quoted."""
    assert problems.path_text(path) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "empty"),
        (True, "the boolean 'true'"),
        (3, "the number '3'"),
        ("x" * 50, f"'{'x' * 40}…'"),
        ([], "a list"),
        ({}, "a mapping"),
    ],
)
def test_values_are_described_shortly(value: object, expected: str) -> None:
    """What was found instead is named by its kind and cut to a bounded length."""
    assert problems.described(value) == expected
