"""Ids of remembered words are those that the library makes, for any text."""

import string

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from bertd.tokenization import words
from tests.tokenization import test_encoding

MAX_LENGTH = 24
PRINTABLE = "".join(chr(code) for code in range(32, 127))
NATURAL = st.lists(
    st.sampled_from(
        ["the", "The", "read", "unreadable", "don't", "3.14", "U.S.", "a-b", "_x", "?!"]
    )
)
TEXTS = st.one_of(
    st.text(PRINTABLE, max_size=40),
    st.text("aZ9 .'_", max_size=80),
    st.text(max_size=20),
    NATURAL.map(" ".join),
)


@pytest.fixture(scope="module")
def library() -> tokenizers.Tokenizer:
    """MiniLM's tokenizer, as the library alone reads it."""
    file = tokenizers.Tokenizer.from_file(str(test_encoding.MINILM / "tokenizer.json"))
    file.no_padding()
    file.enable_truncation(MAX_LENGTH)
    return file


@pytest.fixture(scope="module")
def minilm():
    """The same, which remembers words over all examples."""
    return test_encoding.load(MAX_LENGTH)


@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
@example(texts=["[MASK] a [SEP]"])
@example(texts=["<b>a</b>"])
@example(texts=["a\tb\nc", "a b c"])
@example(texts=["x" * 32, "x" * 33, "x" * 101, "x" * 200])
@example(texts=["a " * 100, "a " * 22, "a " * 23])
def test_a_text_has_the_same_ids_the_second_time(library, minilm, texts):
    """What was learned from whole texts says of any other text what the library says (B2)."""
    for _ in range(2):
        for text, row in zip(texts, minilm.encode(texts, truncate=True), strict=True):
            wanted = library.encode(text)
            assert row.ids.tolist() == wanted.ids
            assert row.type_ids.tolist() == wanted.type_ids


def learned(library: tokenizers.Tokenizer, *texts: str) -> words.Words:
    """Words of these texts."""
    made = words.Words.of(library)
    assert made is not None
    for text in texts:
        made.learn(text, library.encode(text))
    return made


def test_words_are_found_in_any_order_and_number(library):
    """A text of known words needs no library, punctuation and case included."""
    known = learned(library, "The more you read, the better you write.")
    for text in ("you write the more.", "READ", "read,read", "", "  better  "):
        found = known.find(text)
        assert found == (None if text == "READ" else library.encode(text).ids)


def test_a_truncated_text_teaches_nothing(library):
    """Its last word may be cut in the middle."""
    assert learned(library, "unreadable " * 30).find("unreadable") is None


@pytest.mark.parametrize(
    "text", ["[MASK]", "a<b", "naïve", "a\tb", "a\x00b", "a" * 5000, ("a", "b")]
)
def test_other_texts_are_left_to_the_library(text):
    """Added tokens, other scripts, control characters, long texts and pairs have other rules."""
    assert not words.is_plain(text)


def test_what_is_remembered_is_bounded(library, monkeypatch):
    """A caller who sends ever new words takes no more memory than a dictionary of fixed size."""
    monkeypatch.setattr(words, "MOST_WORDS", 50)
    known = learned(library, *(f"w{number} x{number}" for number in range(500)))
    assert len(known._known) <= 50
    assert known.find("w499 x499") == library.encode("w499 x499").ids
    assert learned(library, "x" * 40).find("x" * 40) is None


def build(**parts: object) -> tokenizers.Tokenizer:
    """BERT's tokenizer over single characters, with these parts of another."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | {
        mark: at for at, mark in enumerate(string.ascii_lowercase, 3)
    }
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = parts.get("normalizer", normalizers.BertNormalizer())
    made.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.BertPreTokenizer())
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.add_special_tokens(["[CLS]", "[SEP]"])
    made.add_tokens(parts.get("added", []))
    return made


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": normalizers.Sequence([normalizers.Replace("a", "b c")])},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"added": ["abc"]},
    ],
)
def test_other_tokenizers_remember_nothing(parts):
    """Words are known only where they are BERT's and no added token looks like one."""
    assert words.Words.of(build()) is not None
    assert words.Words.of(build(**parts)) is None
