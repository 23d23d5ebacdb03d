"""A hint is worth a moment, not a second."""

from bertd import families


def test_the_nearest_name_is_suggested() -> None:
    """A slip of one letter finds its name, and what is like nothing finds none."""
    names = ["pooler.dense.bias", "embeddings.LayerNorm.bias"]
    assert families.did_you_mean("pooler.dence.bias", names) == "did you mean 'pooler.dense.bias'?"
    assert families.did_you_mean("zzz", names) == ""


def test_nothing_is_sought_among_thousands_or_for_a_novel() -> None:
    """Lists and names that a stranger made long are not compared letter by letter."""
    names = [f"label {number}" for number in range(10_000)]
    assert families.did_you_mean("label 77x", names) == ""
    assert families.did_you_mean("x" * 1_000_000, ["x" * 999_999]) == ""
