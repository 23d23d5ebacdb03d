"""Plain texts, by words that were met before: a dictionary instead of the library.

The library takes 15 us for a dozen words and pushes out of the caches what else a call needs: 50 us
in all, a quarter of what a call costs the front. Where a tokenizer is BERT's, the words of a text
in printable ASCII are what stands between blanks, and every punctuation mark; the ids of a word
depend on the word alone. They are learned from what the library made of whole texts.
"""

import re
from collections.abc import Sequence
from typing import Self, TypeGuard

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

LONGEST_TEXT_CHARS = 4096
MOST_WORDS = 32_768
LONGEST_WORD_CHARS = 32

_WORDS = re.compile(r"[a-zA-Z0-9]+|[!-/:-@\[-`{-~]")


class Words:
    """The ids of words; `before` and `after` are those of the special tokens around a text.

    Safe to use from several threads: a word that two learn at once is the same for both.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        self._before = list(before)
        self._after = list(after)
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> Self | None:
        """Nothing known yet; None for a tokenizer whose words are others."""
        is_usual = (
            isinstance(tokenizer.model, models.WordPiece)
            and isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
            and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        )
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        if not is_usual or not all(_is_marked(content) for content in added):
            return None
        trial = tokenizer.encode_batch(["a"])[0]
        places = [at for at, word in enumerate(trial.word_ids) if word is not None]
        if not places or any(trial.type_ids):
            return None
        return cls(trial.ids[: places[0]], trial.ids[places[-1] + 1 :])

    def find(self, text: str) -> list[int] | None:
        """The ids of a plain text, never truncated; None with a word that is not known."""
        known = self._known
        ids = self._before.copy()
        for word in _WORDS.findall(text):
            found = known.get(word)
            if found is None:
                return None
            ids += found
        ids += self._after
        return ids

    def learn(self, text: str, encoding: tokenizers.Encoding) -> None:
        """Remembers the words of a plain text from what the library's `encode_batch` made of it."""
        if encoding.overflowing:  # its last word may be cut
            return
        words = _WORDS.findall(text)
        parts: dict[int, list[int]] = {}
        for place, id_ in zip(encoding.word_ids, encoding.ids, strict=True):
            if place is not None:
                parts.setdefault(place, []).append(id_)
        if len(parts) != len(words):
            return
        if len(self._known) + len(words) > MOST_WORDS:
            self._known.clear()
        for word, ids in zip(words, parts.values(), strict=True):
            if len(word) <= LONGEST_WORD_CHARS:
                self._known[word] = ids


def is_plain(text: object) -> TypeGuard[str]:
    """Whether the words of this text are found here as the tokenizer finds them."""
    return (
        isinstance(text, str)
        and len(text) <= LONGEST_TEXT_CHARS
        and text.isascii()
        and text.isprintable()
        and not _is_marked(text)
    )


def _is_marked(text: str) -> bool:
    """Added tokens, such as [MASK] or <s>, are found before words are."""
    return "[" in text or "<" in text
