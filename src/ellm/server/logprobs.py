"""Log-probabilities in the three shapes that clients read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ellm.llm.outputs import Logprob
from ellm.llm.tokenizer import Tokenizer
from ellm.server.protocol.chat import ChatLogprob, ChatLogprobs, ScoredToken
from ellm.server.protocol.completions import CompletionLogprobs

# JSON has no infinity; vLLM's floor, so that clients need not know two.
_FLOOR = -9999.0

Scores = Mapping[int, Logprob]
"""Of one position: the token that stands there and the likeliest ones."""


def for_chat(
    token_ids: Sequence[int], scores: Sequence[Scores], top: int, by_id: bool
) -> ChatLogprobs:
    """`top` alternatives a token, likeliest first; `by_id` writes `token_id:7` for a token."""
    content = []
    for token, table in zip(token_ids, scores, strict=True):
        best = [_scored(other, table, by_id) for other in _likeliest(table, top)]
        chosen = _scored(token, table, by_id)
        content.append(ChatLogprob(**dict(chosen), top_logprobs=best))
    return ChatLogprobs(content=content)


def for_completion(
    token_ids: Sequence[int],
    scores: Sequence[Scores | None],
    top: int,
    by_id: bool,
    tokenizer: Tokenizer,
    hidden: Collection[int] = (),
    offset: int = 0,
) -> CompletionLogprobs:
    """The chosen token is among its alternatives even where it is not one of the `top`.

    A position without scores (the first of a prompt) is null.  `hidden` tokens take no room in the
    text.  Two tokens that read alike share an entry, which keeps the likelier's.
    """
    tokens: list[str] = []
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for token, table in zip(token_ids, scores, strict=True):
        text = tokenizer.token_text(token)
        tokens.append(_named(token, text, by_id))
        offsets.append(offset)
        offset += 0 if token in hidden else len(text)
        if table is None:
            logprobs.append(None)
            tops.append(None)
        else:
            logprobs.append(_finite(table[token].logprob))
            tops.append(_alternatives([token, *_likeliest(table, top)], table, by_id))
    return CompletionLogprobs(
        tokens=tokens, token_logprobs=logprobs, top_logprobs=tops, text_offset=offsets
    )


def for_prompt(scores: Sequence[Scores | None]) -> list[Any]:
    """vLLM's `prompt_logprobs`: a table by token id for every position but the first."""
    return [
        table
        and {
            str(token): {
                "logprob": _finite(score.logprob),
                "rank": score.rank,
                "decoded_token": score.decoded_token,
            }
            for token, score in table.items()
        }
        for table in scores
    ]


def _alternatives(tokens: Sequence[int], table: Scores, by_id: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for token in tokens:
        name, value = _name(token, table, by_id), _finite(table[token].logprob)
        found[name] = max(value, found.get(name, _FLOOR))
    return found


def _likeliest(table: Scores, top: int) -> list[int]:
    return sorted(table, key=lambda token: -_finite(table[token].logprob))[:top]


def _scored(token: int, table: Scores, by_id: bool) -> ScoredToken:
    text = table[token].decoded_token or ""
    return ScoredToken(
        token=_name(token, table, by_id),
        logprob=_finite(table[token].logprob),
        bytes=list(text.encode()),
    )


def _name(token: int, table: Scores, by_id: bool) -> str:
    return _named(token, table[token].decoded_token or "", by_id)


def _named(token: int, text: str, by_id: bool) -> str:
    return f"token_id:{token}" if by_id else text


def _finite(logprob: float) -> float:
    return logprob if logprob > _FLOOR else _FLOOR
