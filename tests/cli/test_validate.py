"""`validate` and `schema`: what can be known without a daemon."""

import dataclasses
import json
from pathlib import Path

import pytest
import tokenizers

from bertd.checkpoint import adapter_file, files
from bertd.manifest import schema
from tests.checkpoint import making

MANIFEST = """\
apiVersion: bertd.dev/v1
kind: Model
metadata: {name: english}
spec:
  base: {source: ./base}
  adapters:
    - {name: one, source: ./one.safetensors}
    - {source: ./tenants/*.safetensors}
---
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {name: two}
spec: {model: english, source: ./two.safetensors, labelNames: [bad, good]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny base and three adapters of it, and the manifest that names them."""
    base = making.directory(tmp_path / "base")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(base / "tokenizer.json"))
    described = files.describe(making.files_of(base))
    (tmp_path / "tenants").mkdir()
    for name in ("one", "two", "tenants/three"):
        write_adapter(tmp_path / f"{name}.safetensors", described)
    (tmp_path / "models.yaml").write_text(MANIFEST)
    return tmp_path


def write_adapter(path: Path, base: files.Base) -> None:
    """An adapter of this base with two labels."""
    adapter_file.write(
        path,
        shape=base.shape,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        head=making.LINEAR,
        label_names=("no", "yes"),
        offsets={},
        head_tensors=making.head_tensors(making.LINEAR, 2),
    )


def replace(path: Path, old: str, new: str) -> None:
    """Edits the manifest."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("options", [[], ["--deep"]], ids=["plain", "deep"])
def test_what_is_valid_is_named(bertd, folder, options):
    """One line per object, no daemon (checklist 11)."""
    ran = bertd("validate", str(folder / "models.yaml"), *options)
    assert (ran.code, ran.out, ran.err) == (0, "model/english valid\nadapter/two valid\n", "")


def test_plain_validation_opens_no_source(bertd, folder):
    """Without --deep only the manifest is read."""
    replace(folder / "models.yaml", "./base", "./nowhere")
    assert bertd("validate", str(folder / "models.yaml")).code == 0


def truncate_weights(folder: Path) -> None:
    """The base's weights end early."""
    path = folder / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def drop_tensor(folder: Path) -> None:
    """The base lacks a tensor."""
    tensors = making.weights()
    del tensors["encoder.layer.1.output.dense.weight"]
    making.directory(folder / "base", tensors=tensors)


def other_base(folder: Path) -> None:
    """An adapter belongs to another base."""
    described = files.describe(making.files_of(folder / "base"))
    write_adapter(folder / "one.safetensors", dataclasses.replace(described, digest="ef" * 32))


def truncate_adapter(folder: Path) -> None:
    """An adapter among those of the glob ends early."""
    path = folder / "tenants" / "three.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pickle_adapter(folder: Path) -> None:
    """An adapter file is a pickle."""
    (folder / "two.safetensors").write_bytes(b"\x80\x04}q\x00.")


@pytest.mark.parametrize(
    ("spoil", "place", "said"),
    [
        (truncate_weights, ":1:1: model/english: ", "model.safetensors"),
        (drop_tensor, ":1:1: model/english: ", "encoder.layer.1.output.dense.weight"),
        (other_base, ":1:1: model/english, adapter 'one': ", "sha256:efef"),
        (truncate_adapter, ":1:1: model/english, adapter '", "three.safetensors"),
        (pickle_adapter, ":10:1: adapter/two: ", "two.safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_deep_validation_names_what_is_wrong(bertd, folder, spoil, place, said):
    """Files behind the objects are proved from their headers: exit code 2 (checklist 11)."""
    spoil(folder)
    ran = bertd("validate", str(folder / "models.yaml"), "--deep")
    assert ran.code == 2
    assert f"models.yaml{place}" in ran.err
    assert said in ran.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("./base}", "./gone}", "gone"),
        ("./base}", "./base, digest: 'sha256:" + "0" * 64 + "'}", "`base.digest` pins sha256:000"),
        ("./base}", "./base}\n  maxLength: 21", "has positions for 20"),
        ("./one.safe", "./none.safe", "none.safetensors"),
        ("[bad, good]", "[bad]", "`labelNames` has 1 names"),
        ("labelNames: [bad, good]", "thresholds: {fine: 0.5}", "'fine'"),
    ],
)
def test_deep_validation_compares_manifest_and_files(bertd, folder, old, new, said):
    """A source that is not there, a wrong pin, a wrong length, labels that no file has."""
    replace(folder / "models.yaml", old, new)
    ran = bertd("validate", str(folder / "models.yaml"), "--deep")
    assert ran.code == 2
    assert said in ran.err


def test_all_that_is_wrong_is_told_at_once(bertd, folder):
    """Several broken files are all reported, and what is fine is still named."""
    other_base(folder)
    truncate_adapter(folder)
    (folder / "tenants" / "four.safetensors").write_bytes(b"")
    ran = bertd("validate", str(folder / "models.yaml"), "--deep")
    assert ran.code == 2
    assert ran.out == "adapter/two valid\n"
    assert ran.err.count("models.yaml:1:1: ") == 3


def test_an_adapter_without_its_model_is_checked_alone(bertd, folder):
    """An Adapter whose Model is declared elsewhere is checked as far as its file goes."""
    path = folder / "models.yaml"
    path.write_text(MANIFEST.split("---\n")[1])
    ran = bertd("validate", str(path), "--deep")
    assert (ran.code, ran.out) == (0, "adapter/two valid\n")
    assert ran.err.startswith("warning: adapter/two: model/english is not usable here")


def test_every_mistake_of_a_manifest_is_printed(bertd, folder):
    """Positions, paths and suggestions, exit code 2 (checklist 1, 11)."""
    replace(folder / "models.yaml", "adapters:", "adaptors:")
    replace(folder / "models.yaml", "labelNames", "labelnames")
    ran = bertd("validate", "-f", str(folder / "models.yaml"))
    assert ran.code == 2
    assert "models.yaml:6:3: spec.adaptors: " in ran.err
    assert "models.yaml:13:" in ran.err
    assert "did you mean" in ran.err


def test_schema_is_the_manifests_schema(bertd):
    """`bertd schema` prints valid JSON, the schema that the manifest room makes (checklist 9)."""
    ran = bertd("schema")
    assert ran.code == 0
    assert json.loads(ran.out) == schema.json_schema()
