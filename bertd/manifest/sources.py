"""How a place is written in a manifest, and what it means: decided on the text alone.

A source is a path (absolute, or relative to the manifest's own directory), `package://name/path`
(a resource of an installed Python package) or `hub://org/name@revision`. Whether the place exists,
and what links it contains, is the business of the checkpoint room; here `..` and unknown forms are
refused, and relative paths become absolute, so that a stored spec means the same everywhere.
"""

import posixpath
import re

PACKAGE = re.compile(r"package://[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(/[^/]+)*/?")
HUB = re.compile(r"hub://[\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]{1,128})?", re.ASCII)
GLOB = re.compile(r"[*?\[]")
SOURCE_LIMIT_CHARACTERS = 1024
DEFAULT_REVISION = "main"


def is_glob(source: str) -> bool:
    """Whether the path stands for all files that match it."""
    return GLOB.search(source) is not None


def stem(source: str) -> str:
    """The file's name without directory and extension: the default name of an adapter."""
    return posixpath.splitext(posixpath.basename(source))[0]


def checked(source: str, *, schemes: tuple[str, ...] = (), glob: bool = False) -> str:
    """The source in its one normal form; ValueError says what it must be.

    `schemes` are the forms allowed besides a path; `glob` allows `*`, `?` and `[` in a path.
    """
    if not 0 < len(source) <= SOURCE_LIMIT_CHARACTERS:
        raise ValueError(f"must have 1 to {SOURCE_LIMIT_CHARACTERS} characters")
    if not source.isprintable():
        raise ValueError("must contain printable characters only")
    if ".." in re.split(r"[/@]", source):
        raise ValueError("must not contain '..'; name the place itself")
    scheme, separator, _ = source.partition("://")
    if separator:
        return _remote(source, scheme, schemes)
    if source.startswith("~"):
        raise ValueError("must not begin with '~', which is not expanded; write the whole path")
    _check_glob(source, glob)
    return posixpath.normpath(source).replace("//", "/", 1)


def absolute(source: str, base_dir: str | None) -> str:
    """The source with a relative path resolved against `base_dir` (text only, no file is read)."""
    if "://" in source or source.startswith("/"):
        return source
    if base_dir is None:
        raise ValueError("must be an absolute path, because this manifest has no directory")
    return posixpath.normpath(posixpath.join(base_dir, source))


def _remote(source: str, scheme: str, schemes: tuple[str, ...]) -> str:
    if scheme not in schemes:
        raise ValueError(f"must be {_forms(schemes)}, not '{scheme}://'")
    if is_glob(source):
        raise ValueError("must not contain '*', '?' or '['; only a path may be a glob")
    if scheme == "package":
        if not PACKAGE.fullmatch(source):
            raise ValueError("must look like 'package://python_package/path/inside'")
        return source.rstrip("/")
    if not HUB.fullmatch(source):
        raise ValueError("must look like 'hub://org/name@revision'")
    return source if "@" in source else f"{source}@{DEFAULT_REVISION}"


def _check_glob(source: str, allowed: bool) -> None:
    if "**" in source:
        raise ValueError("must not contain '**'; name one directory, such as './tenants/*'")
    if is_glob(source) and not allowed:
        raise ValueError("must name one place; a glob is allowed in `spec.adapters` of a Model")


def _forms(schemes: tuple[str, ...]) -> str:
    return " or ".join(("a path", *(f"'{scheme}://…'" for scheme in schemes)))
