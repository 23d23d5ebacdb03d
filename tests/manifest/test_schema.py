"""The generated JSON Schema and reference, and every shipped manifest against them."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from bertd import errors
from bertd.manifest import parsing, reference, schema, writing

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "manifest.schema.json"
COMMENT = re.compile(r"\ufeff?# yaml-language-server: \$schema=(?P<path>\S+)\s")
HEAD = "apiVersion: bertd.dev/v1\n"


def shipped() -> list[pathlib.Path]:
    """Every manifest of bertd that the repository ships, and the good ones of the tests."""
    folders = (ROOT / "examples", ROOT / "manifests", ROOT / "tests" / "manifest" / "good")
    found = (path for folder in folders for path in sorted(folder.rglob("*.yaml")))
    return [path for path in found if re.search("^apiVersion: bertd", path.read_text(), re.M)]


SHIPPED = shipped()


def check(folder: pathlib.Path, documents: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs check-jsonschema, which reads one document per file, on all documents."""
    files = [folder / f"{number}.yaml" for number in range(len(documents))]
    for file, document in zip(files, documents, strict=True):
        file.write_text(document)
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(SCHEMA)]
    return subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, check=False, timeout=60
    )


def split(path: pathlib.Path) -> list[str]:
    """The documents of a manifest, each as a text of its own."""
    return re.split(r"^---$", path.read_bytes().decode("utf-8-sig"), flags=re.M)


def test_the_committed_schema_is_the_generated_one() -> None:
    """`bertd schema` equals the committed file (checklist 9)."""
    assert SCHEMA.read_text() == schema.text()


def test_the_committed_reference_is_the_generated_one() -> None:
    """`docs/manifest.md` is what the field descriptions say now."""
    assert (ROOT / "docs" / "manifest.md").read_text() == reference.text()


def test_every_field_is_described() -> None:
    """No field is without a description in the schema."""
    definitions = json.loads(SCHEMA.read_text())["$defs"]
    for name, part in definitions.items():
        for field, form in part.get("properties", {}).items():
            assert form.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_manifests_name_their_schema(path: pathlib.Path) -> None:
    """Every manifest opens with the yaml-language-server comment, and its path is right."""
    match = COMMENT.match(path.read_bytes().decode())
    assert match is not None
    assert (path.parent / match["path"]).resolve() == SCHEMA


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_manifests_are_valid(path: pathlib.Path) -> None:
    """Every shipped manifest parses without an error (checklist 11)."""
    text = path.read_bytes().decode()
    assert parsing.parse(text, file=str(path), base_dir=str(path.parent)).objects


def test_shipped_manifests_fit_the_schema(tmp_path: pathlib.Path) -> None:
    """Every document of every shipped manifest passes check-jsonschema (checklist 9)."""
    done = check(tmp_path, [document for path in SHIPPED for document in split(path)])
    assert done.returncode == 0, done.stdout


def test_printed_manifests_fit_the_schema(tmp_path: pathlib.Path) -> None:
    """What bertd prints is valid for the schema too, defaults included (checklist 9)."""
    objects = [
        declared
        for path in SHIPPED
        for declared in parsing.parse(
            path.read_bytes().decode(), file="-", base_dir=str(path.parent)
        ).objects
    ]
    done = check(tmp_path, [writing.to_yaml([declared]) for declared in objects])
    assert done.returncode == 0, done.stdout


def test_the_schema_refuses_what_bertd_refuses(tmp_path: pathlib.Path) -> None:
    """Unknown fields, wrong types, bounds and forms fail in an editor as they do in bertd."""
    wrong = [
        "kind: Modle\nmetadata: {name: a}\nspec: {base: {source: /m}}\n",
        "kind: Model\nmetadata: {name: A}\nspec: {base: {source: /m}}\n",
        "kind: Model\nmetadata: {name: a}\nspec: {base: {}}\n",
        "kind: Model\nmetadata: {name: a}\nspec: {base: {source: /m}, maxLenght: 5}\n",
        "kind: Model\nmetadata: {name: a}\nspec: {base: {source: /m}, maxLength: '5'}\n",
        "kind: Model\nmetadata: {name: a}\nspec: {base: {source: /m}, maxLength: 2}\n",
        "kind: Model\nmetadata: {name: a}\nspec: {base: {source: /m}, batching: {maxDelay: 5}}\n",
        "kind: Model\nmetadata: {name: a}\nspec: {base: {source: /m, digest: 'sha256:0'}}\n",
        "kind: Adapter\nmetadata: {name: a}\nspec: {source: /m}\n",
        "kind: Adapter\nmetadata: {name: a}\nspec: {model: b, source: /m, thresholds: {x: 2}}\n",
    ]
    done = check(tmp_path, [HEAD + document for document in wrong])
    refused = {name for name in range(len(wrong)) if f"{name}.yaml" in done.stdout}
    assert refused == set(range(len(wrong)))
    for document in wrong:
        with pytest.raises(errors.InvalidManifest):
            parsing.parse(HEAD + document, file="-", base_dir=None)
