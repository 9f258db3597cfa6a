"""Text out of tokens as they come, never half a character.

Fed one token at a time, the pieces join to exactly what the tokenizer makes of all tokens at once.
The cost of a token does not grow with the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from ellm.llm.tokenizer import Tokenizer

# An unknown kind of decoder may read U+FFFD while a character is incomplete; UTF-8 has 4 bytes.
_PATIENCE = 4


class Detokenizer(Protocol):
    """One continuation's text."""

    def push(self, token: int) -> str:
        """The characters that are certain now and were not before."""
        ...

    def finish(self) -> str:
        """The rest, with U+FFFD for what remained incomplete."""
        ...


def detokenizer(
    tokenizer: Tokenizer, prompt: Sequence[int] = (), skip_special_tokens: bool = True
) -> Detokenizer:
    """A fresh one.  After a `prompt`, the first word keeps the space that parts it from it."""
    hidden = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
    if tokenizer.byte_level:
        return _ByteLevel(tokenizer, hidden)
    return _Windowed(tokenizer, hidden, prompt)


class _ByteLevel:
    """Each token is a run of bytes, so text is UTF-8 that arrives in pieces."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if token in self._hidden:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Windowed:
    """How a token reads depends on the one before it, so the last few are decoded together.

        tokens  … │ context │ fresh ····│
                  └ said    └ not yet said

    Fresh tokens wait while they are single bytes: what a run of those means is known at its end.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int], prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._context = [t for t in reversed(prompt) if self._shown(t)][:1]
        self._fresh: list[int] = []

    def _shown(self, token: int) -> bool:
        return token not in self._hidden and bool(self._tokenizer.piece(token))

    def push(self, token: int) -> str:
        if not self._shown(token):
            return ""
        self._fresh.append(token)
        if self._tokenizer.is_byte(token):
            return ""
        text = self._text()
        if text.endswith("\ufffd") and len(self._fresh) < _PATIENCE:
            return ""
        self._context, self._fresh = [token], []
        return text

    def finish(self) -> str:
        text = self._text() if self._fresh else ""
        self._context, self._fresh = [], []
        return text

    def _text(self) -> str:
        decode = self._tokenizer.decode
        before = decode(self._context, skip_special_tokens=False)
        return decode(self._context + self._fresh, skip_special_tokens=False)[len(before) :]
