"""One model's tokenizer: texts, pairs of texts and caller-made ids become `Encoded` rows.

The tokenizer file's own padding and truncation are reset: rows are packed, never padded, and the
Model's `maxLength` decides where a row ends (sentence-transformers files pad everything to 128).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import tokenizers

from bertd import errors
from bertd.tokenization import words

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_TEXT_CHARS = 1024 * 1024
# A pair is always tokenised whole (see `_encode_long`), so it may be less long.
MAX_PAIR_CHARS = 256 * 1024
# Below this, tokenising costs less than a trip to another thread and back (about 70 us).
INLINE_CHARS = 1024

# A long text is read this many characters per wanted token at first, four times as many next.
_CUT_CHARS_PER_TOKEN = 16
_CUT_GROWTH = 4
# Words between the last kept token and the cut: a pre-tokenizer looks at most one word ahead.
_SETTLED_WORDS = 4
# Provokes a missing [UNK] or a broken post-processor while loading, not in somebody's request.
_TRIAL_TEXT = "a \u4e2d \U0001f600 \x00"

Text = str | tuple[str, str]
_Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row of n tokens, special tokens included.

    The last four fields have n entries each and are filled only when offsets were asked for:
    `offsets` are character spans [start, end) in the text that `segments` names (0 first, 1
    second); `special` marks tokens that stand for no text.
    """

    ids: npt.NDArray[np.int32]
    type_ids: npt.NDArray[np.uint8]
    offsets: tuple[tuple[int, int], ...] | None = None
    special: tuple[bool, ...] | None = None
    tokens: tuple[str, ...] | None = None
    segments: tuple[int, ...] | None = None


class Tokenizer:
    """A loaded tokenizer file. Immutable, and safe to call from several threads."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, max_length: int, vocab: int, token_types: int
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._vocab = vocab
        self._token_types = token_types
        self._cut_chars = max_length * _CUT_CHARS_PER_TOKEN
        self._specials = tokenizer.num_special_tokens_to_add(is_pair=False)
        self._pair_specials = tokenizer.num_special_tokens_to_add(is_pair=True)
        self._words = words.Words.of(tokenizer)

    @classmethod
    def load(cls, path: Path, *, max_length: int, vocab: int, token_types: int) -> Self:
        """Reads a `tokenizer.json`.

        Args:
            path: The file, at most `MAX_FILE_BYTES` long.
            max_length: The longest row in tokens, special tokens included.
            vocab: Rows of the model's word table; the file must not make higher ids.
            token_types: Rows of the model's segment table; below 2 all segments become 0.

        Raises:
            errors.BadArtifact: The file cannot be read as a tokenizer, or does not fit the model.
        """
        tokenizer = _read(path)
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if not 0 <= highest < vocab:
            raise errors.BadArtifact(
                f"the tokenizer makes ids up to {highest}, and the model has {vocab} word vectors",
                reason="TokenizerMismatch",
                hint="use the tokenizer.json that belongs to the weights",
            )
        needed = tokenizer.num_special_tokens_to_add(is_pair=True) + 1
        if max_length < needed:
            raise errors.BadArtifact(
                f"`maxLength` is {max_length}, and this tokenizer needs at least {needed}",
                reason="MaxLengthTooSmall",
                hint=f"set `maxLength` to {needed} or more",
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        _try_out(tokenizer)
        return cls(tokenizer, max_length=max_length, vocab=vocab, token_types=token_types)

    @property
    def max_length(self) -> int:
        """The longest row in tokens, special tokens included."""
        return self._max_length

    def encode(
        self,
        texts: Sequence[Text],
        *,
        truncate: bool,
        offsets: bool = False,
        indices: Sequence[int] | None = None,
    ) -> list[Encoded]:
        """Encodes texts and pairs, in order. Without the GIL, so it may run in any thread.

        Args:
            texts: Texts, or pairs of texts.
            truncate: Cut rows longer than `max_length` (the longer half of a pair first), or
                refuse them.
            offsets: Fill the last four fields of `Encoded` as well.
            indices: What error texts call each text, when `texts` is a selection of a call's
                inputs; by default its position.

        Raises:
            errors.InvalidRequest: A text is no text, too long, or not valid Unicode.
        """
        names = range(len(texts)) if indices is None else indices
        for index, text in zip(names, texts, strict=True):
            _check_text(text, index)
        rows = [None if offsets else self._remembered(text) for text in texts]
        new = [at for at, row in enumerate(rows) if row is None]
        made = self._run([texts[at] for at in new], [names[at] for at in new], offsets)
        for at, encoding in zip(new, made, strict=True):
            if encoding.overflowing and not truncate:
                raise self._too_long(texts[at], encoding, names[at])
            rows[at] = self._row(encoding, offsets)
        return [row for row in rows if row is not None]

    def check_ids(
        self, ids: Sequence[int], type_ids: Sequence[int] = (), *, index: int = 0
    ) -> Encoded:
        """Takes token ids that the caller made, special tokens included.

        Args:
            ids: 1 to `max_length` ids; they are never truncated.
            type_ids: A segment for each id, or nothing: all 0.
            index: What error texts call this input.

        Raises:
            errors.InvalidRequest: No ids, too many, or one outside the model's tables.
        """
        name = f"inputs[{index}].token_ids"
        if not 0 < len(ids) <= self._max_length:
            raise errors.InvalidRequest(
                f"`{name}.ids` must hold between 1 and {self._max_length} ids, and holds {len(ids)}"
            )
        if len(type_ids) not in (0, len(ids)):
            raise errors.InvalidRequest(
                f"`{name}.type_ids` must be empty or as long as `ids` ({len(ids)}), "
                f"and holds {len(type_ids)}"
            )
        _check_range(ids, self._vocab, f"{name}.ids")
        _check_range(type_ids, max(self._token_types, 1), f"{name}.type_ids")
        segments = type_ids or bytes(len(ids))
        return Encoded(np.array(ids, dtype=np.int32), np.array(list(segments), dtype=np.uint8))

    def is_long(self, texts: Sequence[Text]) -> bool:
        """Whether encoding would hold an event loop too long, so that a thread has to do it."""
        chars = 0
        for text in texts:
            chars += len(text) if isinstance(text, str) else sum(map(len, text))
            if chars > INLINE_CHARS:
                return True
        return False

    def _remembered(self, text: Text) -> Encoded | None:
        if self._words is None or not words.is_plain(text):
            return None
        ids = self._words.find(text)
        if ids is None or len(ids) > self._max_length:
            return None
        return Encoded(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.uint8))

    def _run(
        self, texts: Sequence[Text], names: Sequence[int], offsets: bool
    ) -> list[tokenizers.Encoding]:
        if not texts:
            return []
        learns = self._words is not None and any(map(words.is_plain, texts))
        whole = offsets or learns  # the library's fast way tells neither offsets nor words
        encode = self._tokenizer.encode_batch if whole else self._tokenizer.encode_batch_fast
        short = [text for text in texts if not self._is_cut(text)]
        try:
            done = iter(encode(short))
            made = [self._encode_long(t) if self._is_cut(t) else next(done) for t in texts]
        except (TypeError, UnicodeEncodeError):
            _check_unicode(texts, names)
            raise
        for text, encoding in zip(texts, made, strict=True):
            if self._words is not None and words.is_plain(text):
                self._words.learn(text, encoding)
        return made

    def _is_cut(self, text: Text) -> bool:
        return isinstance(text, str) and len(text) > 2 * self._cut_chars

    def _encode_long(self, text: Text) -> tokenizers.Encoding:
        """Encodes a text far longer than a row from as little of its beginning as settles the row.

        Splitting into words is local, so the words of a prefix are the words of the whole text,
        except the last few before the cut. A prefix settles the row when the row is full and its
        last token lies some words before the cut; a text that is one huge word never settles early
        and is read whole. (A pair cannot be cut so: which half loses the odd token depends on both
        whole lengths.)
        """
        chars = self._cut_chars
        while chars < len(text):
            encoding = self._tokenizer.encode_batch([text[:chars]])[0]
            if _is_settled(encoding):
                return encoding
            chars *= _CUT_GROWTH
        return self._tokenizer.encode_batch([text])[0]

    def _row(self, encoding: tokenizers.Encoding, offsets: bool) -> Encoded:
        ids = np.array(encoding.ids, dtype=np.int32)
        if self._token_types > 1:
            type_ids = np.array(encoding.type_ids, dtype=np.uint8)
        else:
            type_ids = np.zeros(len(ids), dtype=np.uint8)
        if not offsets:
            return Encoded(ids, type_ids)
        return Encoded(
            ids,
            type_ids,
            offsets=tuple(encoding.offsets),
            special=tuple(bool(mark) for mark in encoding.special_tokens_mask),
            tokens=tuple(encoding.tokens),
            segments=tuple(segment or 0 for segment in encoding.sequence_ids),
        )

    def _too_long(
        self, text: Text, encoding: tokenizers.Encoding, index: int
    ) -> errors.InvalidRequest:
        if self._is_cut(text):
            tokens = f"more than {self._max_length}"
        elif isinstance(text, str):
            tokens = str(_content(encoding, self._specials) + self._specials)
        else:
            halves = self._tokenizer.encode_batch_fast(list(text))
            content = sum(_content(half, self._specials) for half in halves)
            tokens = str(content + self._pair_specials)
        return errors.InvalidRequest(
            f"`inputs[{index}]` has {tokens} tokens, "
            f"and the model's `maxLength` is {self._max_length}",
            hint="send less text, or set `truncate`",
        )


def _read(path: Path) -> tokenizers.Tokenizer:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise errors.BadArtifact(
            f"the tokenizer file is larger than {MAX_FILE_BYTES} bytes", reason="BadTokenizer"
        )
    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:
        raise _bad_tokenizer(error) from None


def _try_out(tokenizer: tokenizers.Tokenizer) -> None:
    try:
        tokenizer.encode_batch_fast(["", _TRIAL_TEXT, ("", _TRIAL_TEXT)])
    except BaseException as error:
        raise _bad_tokenizer(error) from None


def _bad_tokenizer(error: BaseException) -> BaseException:
    """The library raises bare `Exception`, and a panic of its Rust code is a `BaseException`."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        return error
    return errors.BadArtifact(
        f"the tokenizer file cannot be used: {error}",
        reason="BadTokenizer",
        hint="the checkpoint must contain the tokenizer.json of a fast tokenizer",
    )


def _check_text(text: object, index: int) -> None:
    if isinstance(text, str):
        if len(text) <= MAX_TEXT_CHARS:
            return
        chars, limit = len(text), MAX_TEXT_CHARS
    elif (
        isinstance(text, (tuple, list))
        and len(text) == 2
        and isinstance(text[0], str)
        and isinstance(text[1], str)
    ):
        chars, limit = len(text[0]) + len(text[1]), MAX_PAIR_CHARS
    else:
        raise errors.InvalidRequest(f"`inputs[{index}]` must be a text or a pair of texts")
    if chars > limit:
        raise errors.InvalidRequest(
            f"`inputs[{index}]` must have at most {limit} characters, and has {chars}",
            hint="the model reads only the beginning of so long a text: send less",
        )


def _check_unicode(texts: Sequence[Text], names: Sequence[int]) -> None:
    for index, text in zip(names, texts, strict=True):
        try:
            "".join(text).encode()
        except UnicodeEncodeError as error:
            raise errors.InvalidRequest(
                f"`inputs[{index}]` must be valid Unicode; character {error.start} is a surrogate"
            ) from None


def _check_range(values: Sequence[int], limit: int, name: str) -> None:
    if not values or (min(values) >= 0 and max(values) < limit):
        return
    at = next(i for i, value in enumerate(values) if not 0 <= value < limit)
    raise errors.InvalidRequest(
        f"`{name}[{at}]` must be between 0 and {limit - 1}, and is {values[at]}"
    )


def _is_settled(encoding: tokenizers.Encoding) -> bool:
    if not encoding.overflowing:
        return False
    kept, read = _last_word(encoding), _last_word(encoding.overflowing[-1])
    return kept is not None and read is not None and read - kept >= _SETTLED_WORDS


def _last_word(encoding: tokenizers.Encoding) -> int | None:
    return next((word for word in reversed(encoding.word_ids) if word is not None), None)


def _content(encoding: tokenizers.Encoding, specials: int) -> int:
    """Tokens that stand for text, in the row and in what truncation cut off."""
    parts = [encoding, *encoding.overflowing]
    return sum(len(part.ids) - specials for part in parts)
