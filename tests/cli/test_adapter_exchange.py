"""`bertd adapter import | export | merge | diff` as a person at a terminal uses them."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bertd import errors
from bertd.checkpoint import adapter_file
from bertd.cli import adapter
from tests.interchange import making


def run(*arguments: object, **options: Any) -> Result:
    """Runs the sub-command; errors of bertd come through as they are raised."""
    return CliRunner().invoke(
        adapter.app, [str(a) for a in arguments], catch_exceptions=False, **options
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model T as a directory."""
    return making.save(tmp_path_factory.mktemp("base"), making.model_t())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BitInfer file of it."""
    model = making.model_t()
    path = tmp_path_factory.mktemp("files") / "sent.pt"
    path.write_bytes(making.saved(making.parts(model, making.moved(model, seed=1))))
    return path


@pytest.fixture(scope="module")
def imported(base: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter that the file becomes."""
    out = tmp_path_factory.mktemp("adapters") / "sent.safetensors"
    run("import", saved, "--base", base, "--out", out, "--labels", "no, maybe, yes")
    return out


def test_import_writes_the_file_and_prints_the_record(imported: Path, base: Path) -> None:
    """A whole file comes in, with the labels that it lacks."""
    info = adapter_file.read_info(imported)
    assert info.label_names == ("no", "maybe", "yes")
    facts = json.loads(run("inspect", imported, "-o", "json").stdout)
    assert facts["training"] == {"importedFrom": {"format": "bitinfer", "offsets": 18}}


def test_import_from_standard_input(
    base: Path, saved: Path, imported: Path, tmp_path: Path
) -> None:
    """The base64 text on stdin gives the same file, and -o json its record (B2)."""
    out = tmp_path / "x.safetensors"
    text = base64.encodebytes(saved.read_bytes())
    result = run(
        *("import", "-", "--base", base, "--out", out, "--labels", "no,maybe,yes", "-o", "json"),
        input=text,
    )
    record = json.loads(result.stdout)
    assert record["format"] == "bitinfer"
    assert record["bytes"] == out.stat().st_size
    assert out.read_bytes() == imported.read_bytes()


def test_a_directory_is_told_from_a_file(base: Path, tmp_path: Path) -> None:
    """A Hugging Face directory needs no --format; notes and the table are printed."""
    folder = making.save(tmp_path / "tuned", making.moved(making.model_t(), 1, only="nothing"))
    out = tmp_path / "x.safetensors"
    result = run("import", folder, "--base", base, "--out", out)
    assert "no bias differs from the base" in result.stderr
    assert "huggingface" in result.stdout
    assert "LABEL_0, LABEL_1, LABEL_2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "bitinfer"), "must be a file for --format bitinfer"),
        (("--format", "huggingface", "--key-prefix", "bert."), "for BitInfer's files alone"),
        (("--format", "huggingface", "--head-input", "cls"), "its architecture says what its head"),
        (("--format", "auto"), "holds neither 'adapter_config.json' nor 'config.json'"),
    ],
)
def test_what_cannot_be_told_is_an_error(
    base: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """A wrong or missing format says what was expected."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InvalidRequest, match=words):
        run("import", tmp_path / "empty", "--base", base, "--out", tmp_path / "x", *arguments)
    assert not (tmp_path / "x").exists()


def test_a_missing_file_and_bad_text_are_errors(base: Path, tmp_path: Path) -> None:
    """Nor is a pipe waited for. None starts a process, none leaves a file."""
    out = tmp_path / "x.safetensors"
    with pytest.raises(errors.BadArtifact, match="does not exist"):
        run("import", tmp_path / "gone", "--base", base, "--out", out)
    os.mkfifo(tmp_path / "pipe")
    for form in ("auto", "bitinfer"):
        with pytest.raises(errors.BadArtifact, match="must be a regular file or a dir") as caught:
            run("import", tmp_path / "pipe", "--base", base, "--out", out, "--format", form)
        assert caught.value.hint == "pipe it in, and name it '-'"
    with pytest.raises(errors.BadArtifact, match="standard input is neither"):
        run("import", "-", "--base", base, "--out", out, input="no base64!")
    (tmp_path / "text").write_text("neither")
    with pytest.raises(errors.BadArtifact, match="text is neither"):
        run("import", tmp_path / "text", "--base", base, "--out", out, "--format", "bitinfer")
    assert not out.exists()


def test_export_goes_back(base: Path, saved: Path, imported: Path, tmp_path: Path) -> None:
    """Both forms import again to the same bytes (B5)."""
    for form, name in (("bitinfer", "x.pt"), ("base64", "x.txt")):
        asked = ("export", imported, "--base", base, "--format", form, "--out", tmp_path / name)
        assert "from --labels and --problem single_label" in run(*asked).stderr
    assert base64.b64decode((tmp_path / "x.txt").read_bytes()) == (tmp_path / "x.pt").read_bytes()
    again = tmp_path / "again.safetensors"
    run("import", tmp_path / "x.txt", "--base", base, "--out", again, "--labels", "no,maybe,yes")
    assert again.read_bytes() == imported.read_bytes()


def test_merge_makes_a_directory(base: Path, imported: Path, tmp_path: Path) -> None:
    """The directory can be imported again, and its offsets are the adapter's."""
    assert "wrote" in run("merge", imported, "--base", base, "--out", tmp_path / "out").stdout
    again = tmp_path / "again.safetensors"
    run("import", tmp_path / "out", "--base", base, "--out", again)
    found = json.loads(run("diff", imported, again, "-o", "json").stdout)
    assert found["offsets"][-1]["part"] == "all offsets"
    assert found["offsets"][-1]["difference"] < 1e-5
    assert found["head"]["difference"] == 0


def test_export_tells_what_gets_lost(base: Path, imported: Path, tmp_path: Path) -> None:
    """A temperature has no place in BitInfer's files: a warning says so."""
    from bertd.interchange import records

    opened = records.open_base(str(base))
    found = adapter_file.read_for(imported, opened.base)
    path = tmp_path / "warm.safetensors"
    adapter_file.write(
        path,
        shape=opened.base.shape,
        base_digest=found.info.base_digest,
        tokenizer_digest=found.info.tokenizer_digest,
        head=found.info.head,
        label_names=found.info.label_names,
        offsets=found.offsets,
        head_tensors=found.head,
        temperature=2.0,
    )
    result = run("export", path, "--base", base, "--out", tmp_path / "x.pt")
    assert "the temperature 2 has no place" in result.stderr


def test_diff_prints_a_table(imported: Path, tmp_path: Path) -> None:
    """Parts in rows, norms in columns, then what else changed."""
    table = run("diff", imported, imported).stdout
    assert "layer 1" in table
    assert "1.0000" in table
    assert "changed" not in table


def test_diff_starts_without_torch(imported: Path) -> None:
    """Comparing is numpy alone, and the grammar not even that."""
    code = (
        "import sys; from bertd.cli import adapter; "
        "assert not {'torch', 'numpy'} & set(sys.modules); "
        f"adapter.app(['diff', {str(imported)!r}, {str(imported)!r}], standalone_mode=False); "
        "print({'torch', 'transformers', 'grpc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
