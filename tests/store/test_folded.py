"""Folded adapters that nobody needs any more leave the disk."""

from bertd.store import folded


def test_only_what_is_declared_stays(tmp_path):
    """Files of other adapters, leftovers and whole caches of other bases are removed."""
    for key in ("used", "stale"):
        (tmp_path / key).mkdir()
        for name in ("a", "b", ".a.123"):
            (tmp_path / key / name).touch()
    assert folded.sweep(tmp_path, {"used"}, {"a"}) == 3
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["used", "used/a"]


def test_a_cache_that_is_not_there_is_no_trouble(tmp_path):
    """Before the first adapter was folded there is no directory."""
    assert folded.sweep(tmp_path / "none", {"used"}, {"a"}) == 0
