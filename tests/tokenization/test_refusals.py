"""What cannot be a row is refused, naming the place."""

from pathlib import Path

import pytest

from bertd import errors
from bertd.tokenization import tokenizer as tokenization
from tests.tokenization import test_encoding as good


@pytest.fixture(scope="module")
def minilm() -> tokenization.Tokenizer:
    """MiniLM's tokenizer at its full length."""
    return good.load()


@pytest.mark.parametrize("bad", [5, None, b"bytes", ("a",), ("a", "b", "c"), ("a", 1), [[], []]])
def test_what_is_no_text_is_refused(minilm, bad):
    """Anything but a text or a pair is named by its index (B9)."""
    with pytest.raises(errors.InvalidRequest, match=r"`inputs\[1\]` must be a text or a pair"):
        minilm.encode(["fine", bad], truncate=True)


@pytest.mark.parametrize("bad", ["ab\ud800", ("ok", "\udfff")])
def test_text_that_is_not_unicode_is_refused(minilm, bad):
    """A lone surrogate, which cannot be UTF-8, is a bad request and not a crash."""
    with pytest.raises(errors.InvalidRequest, match=r"`inputs\[1\]` must be valid Unicode"):
        minilm.encode(["fine", bad], truncate=True)


def test_a_long_surrogate_text_is_refused(minilm):
    """The same holds where a text is long enough to be read by its beginning only."""
    with pytest.raises(errors.InvalidRequest, match="must be valid Unicode"):
        minilm.encode(["\ud800" * 100_000], truncate=True)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a " * 511, "513"), (("a " * 300, "b " * 300), "603"), ("a " * 100_000, "more than 512")],
)
def test_a_long_text_is_refused_where_truncation_is_off(minilm, text, tokens):
    """The refusal tells the index, the number of tokens and the limit (B9)."""
    with pytest.raises(errors.InvalidRequest) as caught:
        minilm.encode(["fine", text], truncate=False)
    assert caught.value.message == (
        f"`inputs[1]` has {tokens} tokens, and the model's `maxLength` is 512"
    )
    assert "truncate" in caught.value.hint


@pytest.mark.parametrize("text", ["a" * (1024 * 1024 + 1), ("a" * 200_000, "b" * 200_000)])
def test_a_text_over_the_limit_is_refused(minilm, text):
    """More than 1 MiB characters, or a quarter of that in a pair, are never tokenised."""
    with pytest.raises(errors.InvalidRequest, match="characters"):
        minilm.encode([text], truncate=True)


def test_ids_that_the_caller_made_are_taken(minilm):
    """Good ids pass as they are; absent segments are 0."""
    row = minilm.check_ids([101, 30521, 102])
    assert row.ids.tolist() == [101, 30521, 102]
    assert row.type_ids.tolist() == [0, 0, 0]
    assert minilm.check_ids([101, 5, 102], [0, 1, 1]).type_ids.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("ids", "type_ids", "message"),
    [
        ([], [], "`inputs[2].token_ids.ids` must hold between 1 and 512 ids, and holds 0"),
        ([0] * 513, [], "`inputs[2].token_ids.ids` must hold between 1 and 512 ids, and holds 513"),
        ([1, 30522], [], "`inputs[2].token_ids.ids[1]` must be between 0 and 30521, and is 30522"),
        ([101, 5, -1], [], "`inputs[2].token_ids.ids[2]` must be between 0 and 30521, and is -1"),
        ([1, 2], [0], "`inputs[2].token_ids.type_ids` must be empty or as long as `ids` (2), "
                      "and holds 1"),
        ([1, 2], [0, 2], "`inputs[2].token_ids.type_ids[1]` must be between 0 and 1, and is 2"),
        ([1, 2], [0, -1], "`inputs[2].token_ids.type_ids[1]` must be between 0 and 1, and is -1"),
    ],
)  # fmt: skip
def test_bad_ids_are_refused_by_place_and_value(minilm, ids, type_ids, message):
    """Ids outside the model's tables never reach a gather."""
    with pytest.raises(errors.InvalidRequest) as caught:
        minilm.check_ids(ids, type_ids, index=2)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"nope", b"\xff\xfe", b'{"version":"1.0","model":{}}', b"[" * 100_000],
    ids=["empty", "no model", "no json", "no utf-8", "empty model", "nested"],
)
def test_a_broken_file_is_refused(tmp_path, content):
    """A file that is no tokenizer is a bad artifact, whatever the library raises."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(errors.BadArtifact) as caught:
        tokenization.Tokenizer.load(path, max_length=512, vocab=30522, token_types=2)
    assert caught.value.reason == "BadTokenizer"


def test_a_huge_file_is_refused(tmp_path):
    """A file over 32 MiB is not parsed."""
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(tokenization.MAX_FILE_BYTES + 1)
    with pytest.raises(errors.BadArtifact, match="larger than"):
        tokenization.Tokenizer.load(path, max_length=512, vocab=30522, token_types=2)


def test_a_tokenizer_of_another_model_is_refused():
    """A file that could make ids outside the word table is refused before it serves."""
    with pytest.raises(errors.BadArtifact, match="ids up to 30521") as caught:
        tokenization.Tokenizer.load(
            good.MINILM / "tokenizer.json", max_length=512, vocab=30521, token_types=2
        )
    assert caught.value.reason == "TokenizerMismatch"


def test_a_length_without_room_for_text_is_refused():
    """The special tokens of a pair and one token of text must fit."""
    with pytest.raises(errors.BadArtifact, match="needs at least 4"):
        good.load(max_length=3)


def test_a_tokenizer_without_unknown_token_is_refused(tmp_path):
    """A vocabulary that cannot express every text fails while loading, not in a request."""
    text = Path(good.MINILM / "tokenizer.json").read_text()
    path = tmp_path / "tokenizer.json"
    path.write_text(
        text.replace('"unk_token":"[UNK]"', '"unk_token":"[NONE]"').replace(
            '"unk_token": "[UNK]"', '"unk_token": "[NONE]"'
        )
    )
    with pytest.raises(errors.BadArtifact, match="cannot be used"):
        tokenization.Tokenizer.load(path, max_length=512, vocab=30522, token_types=2)
