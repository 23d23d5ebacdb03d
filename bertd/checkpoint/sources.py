"""From what a manifest names to opened files.

A source is an absolute path, `package://python_package/path` or `hub://org/name@revision`. Each has
a root directory, and every file is opened beneath it (see `beneath`), so names inside a checkpoint
can point nowhere else. Formats that can carry code are refused by name here and by their first
bytes in `safetensors`.
"""

import fnmatch
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bertd import errors, families
from bertd.checkpoint import beneath, json_text

MAX_JSON_BYTES: Final = 4 * 1024 * 1024
MAX_TOKENIZER_BYTES: Final = 32 * 1024 * 1024
MAX_WEIGHT_BYTES: Final = 64 * 1024 * 1024 * 1024
MAX_ADAPTER_BYTES: Final = 64 * 1024 * 1024
MAX_SHARDS: Final = 256
MAX_GLOB_ENTRIES: Final = 400_000
MAX_GLOB_MATCHES: Final = 200_000
MAX_SOURCE_CHARACTERS: Final = 4_096

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
MODULES: Final = "modules.json"
SENTENCE: Final = "sentence_bert_config.json"
POOLING: Final = "1_Pooling/config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS: Final = "special_tokens_map.json"

_OPTIONAL: Final = (MODULES, SENTENCE, POOLING, TOKENIZER_CONFIG, SPECIAL_TOKENS)
_HUB_PATTERNS: Final = (CONFIG, TOKENIZER, WEIGHTS, INDEX, "model-*.safetensors", *_OPTIONAL)
_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        CONFIG: "a base is a directory as save_pretrained of transformers writes it",
        TOKENIZER: "save it there with save_pretrained of a fast tokenizer",
        WEIGHTS: "save the model there with save_pretrained of transformers",
    }
)
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pkl")
_PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy")
_PACKAGE: Final = re.compile(r"package://([A-Za-z_]\w*)((?:/[^/]+)*)/?", re.ASCII)
_HUB: Final = re.compile(r"hub://((?:[\w.-]+/)?[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_GLOB: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a source's files lie: `inside` the `root` directory, which no symlink may leave."""

    text: str
    root: Path
    inside: str = ""


def resolve(source: str) -> Source:
    """Find the root of a source; `hub://` downloads into huggingface_hub's cache (and blocks).

    Raises:
        errors.BadArtifact: reason `BadSource` or `SourceNotFound`.
        errors.Temporary: the hub cannot be reached and its cache lacks the files.
    """
    _check_text(source)
    if source.startswith("package://"):
        return _package(source)
    if source.startswith("hub://"):
        return _hub(source)
    path = Path(source)
    try:
        folder = path.is_dir()
        path.stat()
    except OSError as error:
        beneath.refuse(error, families.quote(source))
    if folder:
        return Source(text=source, root=path)
    return Source(text=source, root=path.parent, inside=path.name)


def open_checkpoint(source: str | Source) -> dict[str, int]:
    """Open every file of a base that bertd reads: name relative to the checkpoint -> descriptor.

    The caller closes them with `close`. Optional files that do not exist are left out.

    Raises:
        errors.BadArtifact: naming the source and the file; reason `BadSource`, `SourceNotFound`,
            `MissingFile`, `PickleRefused`, `UnsafePath`, `NotAFile`, `TooLarge`, `Unreadable`,
            `BadIndex` or `BadJson`.
        errors.Temporary: the disk or the hub failed.
    """
    place = resolve(source) if isinstance(source, str) else source
    _refuse_pickle_name(place.text)
    files: dict[str, int] = {}
    with beneath.root(place.root, place.text) as root:
        try:
            _open_all(_Folder(root, place.inside), files)
        except BaseException:
            close(files)
            raise
    return files


def open_adapter(source: str | Path) -> int:
    """Open one adapter file; its own directory is the root that it may not leave.

    Raises:
        errors.BadArtifact: as `open_checkpoint`.
        errors.Temporary: the disk failed.
    """
    text = str(source)
    _refuse_pickle_name(text)
    if text.startswith("hub://"):
        raise _bad(text, "must be a file or a 'package://' resource for an adapter")
    if not text.endswith(".safetensors"):
        raise _bad(text, "must be a '.safetensors' file")
    folder, _, name = text.rpartition("/")
    _check_text(text)
    with beneath.root(resolve(folder or "/").root, text) as root:
        return root.open(name, MAX_ADAPTER_BYTES)


Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that a glob names; the signature changes with its content (None: not readable)."""

    path: str
    signature: Signature | None


def signature(path: str | int, folder: int | None = None) -> Signature | None:
    """What changes when a file's content does, after links; None where there is no such file."""
    try:
        found = os.stat(path, dir_fd=folder)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def expand(pattern: str | Path) -> list[Path]:
    """The files that a pattern with `*`, `?` or `[` in its last component names, sorted.

    Hidden files never match. A pattern without these characters names itself.

    Raises:
        errors.BadArtifact: reason `BadSource`, `SourceNotFound` or `TooManyFiles`.
    """
    text = str(pattern)
    folder, names = _matches(text)
    return [Path(folder or "/", name) for name in names] if names is not None else [Path(text)]


def listing(pattern: str) -> list[Listed]:
    """As `expand`, with the signature of every file: one look at the directory, none is opened.

    Raises:
        errors.BadArtifact: as `expand`.
    """
    folder, names = _matches(pattern)
    if names is None:
        return [Listed(pattern, signature(pattern))]
    try:
        fd = os.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        beneath.refuse(error, families.quote(pattern))
    try:
        return [Listed(f"{folder}/{name}", signature(name, fd)) for name in names]
    finally:
        os.close(fd)


def matches(pattern: str, name: str) -> str | None:
    """The path of a file of this name, if the pattern names it; nothing is looked up."""
    folder, _, last = pattern.rpartition("/")
    is_named = not name.startswith(".") and fnmatch.fnmatchcase(name, last)
    return f"{folder}/{name}" if is_named else None


def _matches(text: str) -> tuple[str, list[str] | None]:
    """The folder of a pattern and the sorted names in it that match; None: it is no pattern."""
    _check_text(text)
    folder, _, last = text.rpartition("/")
    if not text.startswith("/"):
        raise _bad(text, "must be an absolute path to hold '*', '?' or '['")
    if _GLOB & set(folder):
        raise _bad(text, "must have '*', '?' and '[' in its last component only")
    if not _GLOB & set(last):
        return folder, None
    is_match = re.compile(fnmatch.translate(last)).match
    try:
        with os.scandir(folder or "/") as entries:
            names = [name for name in _bounded(entries, text) if is_match(name)]
    except OSError as error:
        beneath.refuse(error, families.quote(text))
    if len(names) > MAX_GLOB_MATCHES:
        raise _too_many(text, MAX_GLOB_MATCHES)
    return folder, sorted(names)


def close(files: Mapping[str, int]) -> None:
    """Close what `open_checkpoint` opened."""
    for fd in files.values():
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A checkpoint's directory inside its root."""

    root: beneath.Root
    inside: str

    def find(self, name: str, limit_bytes: int) -> int | None:
        return self.root.find(os.path.join(self.inside, name), limit_bytes)

    def open(self, name: str, limit_bytes: int) -> int:
        path = os.path.join(self.inside, name)
        return self.root.open(path, limit_bytes, hint=_HINTS.get(name, ""))


def _open_all(folder: _Folder, files: dict[str, int]) -> None:
    files[CONFIG] = folder.open(CONFIG, MAX_JSON_BYTES)
    files[TOKENIZER] = folder.open(TOKENIZER, MAX_TOKENIZER_BYTES)
    if (fd := folder.find(WEIGHTS, MAX_WEIGHT_BYTES)) is not None:
        files[WEIGHTS] = fd
    elif (fd := folder.find(INDEX, MAX_JSON_BYTES)) is not None:
        files[INDEX] = fd
        for shard in sorted(set(shard_map(os.pread(fd, MAX_JSON_BYTES, 0)).values())):
            files[shard] = folder.open(shard, MAX_WEIGHT_BYTES)
    else:
        _refuse_pickles(folder)
        files[WEIGHTS] = folder.open(WEIGHTS, MAX_WEIGHT_BYTES)
    for name in _OPTIONAL:
        if (fd := folder.find(name, MAX_JSON_BYTES)) is not None:
            files[name] = fd


def shard_map(index: bytes) -> dict[str, str]:
    """Tensor name -> shard, as an index file says; every shard proved to be a plain file name.

    Raises:
        errors.BadArtifact: reason `BadIndex` or `BadJson`.
    """
    weight_map = json_text.parse_object(index, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_index("must have a `weight_map`")
    for name in weight_map.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise _bad_index(
                f"names the shard {families.quote(name)}; a shard must be the plain name of a "
                "'.safetensors' file beside it"
            )
    if len(shards := set(weight_map.values())) > MAX_SHARDS:
        raise _bad_index(f"names {len(shards)} shards; the limit is {MAX_SHARDS}")
    return weight_map


def _is_plain(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and name.isprintable()
        and "/" not in name
        and not name.startswith(".")
        and len(name) <= 255
    )


def _refuse_pickles(folder: _Folder) -> None:
    for name in _PICKLES:
        if (fd := folder.find(name, MAX_WEIGHT_BYTES)) is not None:
            os.close(fd)
            raise _pickle(f"{folder.root.text}/{name}")


def _refuse_pickle_name(text: str) -> None:
    if text.lower().endswith(_PICKLE_SUFFIXES):
        raise _pickle(text)


def _check_text(source: str) -> None:
    if len(source) > MAX_SOURCE_CHARACTERS or not source.isprintable():
        raise _bad(source, f"must be at most {MAX_SOURCE_CHARACTERS} printable characters")
    if ".." in source.split("/"):
        raise _bad(source, "must not contain '..'")
    if not source.startswith(("/", "package://", "hub://")):
        raise _bad(source, "must be an absolute path, 'package://...' or 'hub://...'")


def _package(source: str) -> Source:
    match = _PACKAGE.fullmatch(source)
    if match is None:
        raise _bad(source, "must look like 'package://python_package/path'")
    name, inside = match[1], match[2].strip("/")
    try:
        spec = importlib.util.find_spec(name)  # of a top-level name: imports nothing
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise errors.BadArtifact(
            f"no Python package '{name}' is installed here",
            reason="SourceNotFound",
            hint="install it into the environment that runs the daemon",
        )
    for folder in folders:
        if (path := Path(folder, inside)).is_dir():
            return Source(text=source, root=path)
    raise errors.BadArtifact(
        f"the installed package '{name}' has no directory '{inside}'", reason="SourceNotFound"
    )


def _hub(source: str) -> Source:
    match = _HUB.fullmatch(source)
    if match is None or ".." in source:
        raise _bad(source, "must look like 'hub://org/name@revision'")
    import huggingface_hub  # noqa: PLC0415  (it costs a third of a second; few sources need it)
    from huggingface_hub import errors as hub_errors  # noqa: PLC0415

    try:
        snapshot = huggingface_hub.snapshot_download(
            repo_id=match[1], revision=match[2], allow_patterns=list(_HUB_PATTERNS)
        )
    except hub_errors.HFValidationError as error:
        raise _bad(source, "must name a repository as the hub does") from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise errors.Temporary(
            f"{families.quote(source)} is not in the local cache and the hub cannot be reached",
            reason="HubUnreachable",
            hint="unset HF_HUB_OFFLINE, or download the repository into HF_HOME beforehand",
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
        raise errors.BadArtifact(
            f"the hub has no {families.quote(source)}, or it is private",
            reason="SourceNotFound",
            hint="check the name and the revision; set HF_TOKEN for a private repository",
        ) from error
    except (hub_errors.HfHubHTTPError, OSError) as error:
        raise errors.Temporary(
            f"{families.quote(source)} could not be downloaded: {type(error).__name__}",
            reason="HubUnreachable",
        ) from error
    # A snapshot holds symlinks into its repository's blobs: the repository is the root.
    path = Path(snapshot)
    return Source(text=source, root=path.parent.parent, inside=f"{path.parent.name}/{path.name}")


def _bounded(entries: "Iterator[os.DirEntry[str]]", text: str) -> Iterator[str]:
    for count, entry in enumerate(entries):
        if count >= MAX_GLOB_ENTRIES:
            raise _too_many(text, MAX_GLOB_ENTRIES)
        if not entry.name.startswith("."):
            yield entry.name


def _bad(source: str, why: str) -> errors.BadArtifact:
    return errors.BadArtifact(f"source {families.quote(source)} {why}", reason="BadSource")


def _bad_index(why: str) -> errors.BadArtifact:
    return errors.BadArtifact(f"{INDEX} {why}", reason="BadIndex")


def _too_many(text: str, limit: int) -> errors.BadArtifact:
    return errors.BadArtifact(
        f"{families.quote(text)} meets more than {limit} files", reason="TooManyFiles"
    )


def _pickle(text: str) -> errors.BadArtifact:
    return errors.BadArtifact(
        f"{families.quote(text)} is a format that can carry code",
        reason="PickleRefused",
        hint="convert it offline: a base by `bertd convert`, an adapter by `bertd adapter import`",
    )
