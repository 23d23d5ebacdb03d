"""Did you mean …?"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.manifest import fields, spec, suggestion

PARTS = [part for part in vars(spec).values() if isinstance(part, type)]
NAMES = st.text("abcdE", max_size=12)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("maxTokns", "maxTokens"),
        ("max_tokens", "maxTokens"),
        ("MAXTOKENS", "maxTokens"),
        ("sepc", "spec"),
        ("wieght", "weight"),
        ("label_names", "labelNames"),
    ],
)
def test_a_slip_is_recognised(wrong: str, right: str) -> None:
    """Typing slips, another letter case and snake_case lead to the legal name (checklist 3)."""
    legal = ["spec", "maxTokens", "maxRows", "weight", "labelNames"]
    assert suggestion.did_you_mean(wrong, legal) == f"; did you mean '{right}'?"


@pytest.mark.parametrize("wrong", ["replicas", "", "x" * 41, "rank"])
def test_something_else_gets_no_suggestion(wrong: str) -> None:
    """A name that resembles no legal one is not guessed at (checklist 3)."""
    assert suggestion.did_you_mean(wrong, ["maxTokens", "maxRows"]) == ""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_is_suggested_for_a_slip(part: type) -> None:
    """Each field of the spec is found again after one letter is lost (checklist 3)."""
    if not issubclass(part, spec.Part):
        return
    legal = fields.named(part)
    for name in legal:
        if len(name) > 2:
            best = suggestion.closest(name[:1] + name[2:], legal)
            assert best is not None
            assert suggestion.similarity(name[:1] + name[2:], best.lower()) >= 0.5


@given(NAMES, NAMES)
def test_similarity_is_symmetric_and_bounded(left: str, right: str) -> None:
    """Similarity is between 0 and 1, the same both ways, and 1 for equal names only."""
    similarity = suggestion.similarity(left, right)
    assert 0.0 <= similarity <= 1.0
    assert similarity == suggestion.similarity(right, left)
    assert (similarity == 1.0) == (left == right)


@given(NAMES.filter(bool), st.data())
def test_one_slip_costs_one(name: str, data: st.DataObject) -> None:
    """One lost, added, replaced or swapped letter lowers similarity by 1 / length."""
    at = data.draw(st.integers(0, len(name) - 1))
    slips = [
        name[:at] + name[at + 1 :],
        name[:at] + "z" + name[at:],
        name[:at] + "z" + name[at + 1 :],
    ]
    if at + 1 < len(name):
        slips.append(name[:at] + name[at + 1] + name[at] + name[at + 2 :])
    for slip in slips:
        longest = max(len(slip), len(name))
        assert suggestion.similarity(name, slip) >= 1.0 - 1.0 / longest - 1e-12


def test_the_cost_is_bounded() -> None:
    """Only the first candidates are looked at."""
    legal = itertools.chain((f"name{i}" for i in range(suggestion.CANDIDATES_LIMIT)), ["wanted"])
    assert suggestion.closest("wanted", legal) is None
