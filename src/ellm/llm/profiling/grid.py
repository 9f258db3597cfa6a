"""Which steps are measured: spread evenly over the logarithms of what a step is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.core.units import ceil_div

# Powers of two, and what lies between them where kernels work in tiles.
_PROMPTS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_CHUNKS = (16, 64, 256, 1024)
_BEFORE = (256, 1024, 4096)
_SEQUENCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
_CONTEXTS = (16, 128, 512, 1024, 2048, 8192)
_MIXED_SEQUENCES = (1, 4, 16, 48)
_MIXED_CONTEXTS = (64, 768)
_MIXED_PROMPTS = (16, 64, 256)
_TOGETHER = (4, 16)
# Tokens of KV beyond which nothing new is learned: no processor's cache holds as much.
_MOST_HELD = 65_536
# Where somebody decodes, a step computes no more tokens (scheduling/fcfs.py).
STALL_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Point:
    """One kind of step: `prompts` that compute `tokens` each after `before` that are there, and
    `decoding` sequences that have `context` tokens each."""

    prompts: int = 0
    tokens: int = 0
    before: int = 0
    decoding: int = 0
    context: int = 0

    @property
    def size(self) -> int:
        """Tokens that it computes."""
        return self.prompts * self.tokens + self.decoding

    @property
    def held(self) -> int:
        """Tokens of KV that it needs."""
        return self.prompts * (self.before + self.tokens) + self.decoding * self.context

    @property
    def meanwhile(self) -> int:
        """Most tokens that the first who decodes has made when the last begins."""
        return 2 + ceil_div(self.decoding * self.context, STALL_TOKENS) if self.decoding else 0


def grid(sequences: int, context: int, held: int, spare: int) -> list[Point]:
    """Points of at most so many sequences and tokens of context, and `held` tokens in all.

    Those who decode still have `spare` tokens to make when all of them do.
    """
    return [
        point
        for point in (*_decoding(context - spare), *_prompts(), *_mixed(), *_together())
        if point.prompts + point.decoding <= sequences
        and max(point.before + point.tokens + 1, point.context + point.meanwhile + spare) <= context
        and point.held <= min(held, _MOST_HELD)
        and (not point.decoding or point.size <= STALL_TOKENS)
    ]


def _decoding(context: int) -> list[Point]:
    found = []
    for count in _SEQUENCES:
        longest = (context - 3) * STALL_TOKENS // (STALL_TOKENS + count)
        contexts = sorted({min(each, longest) for each in _CONTEXTS})
        # Every context where it is a power of two, else the two shortest.
        chosen = contexts if count & (count - 1) == 0 else contexts[:2]
        found += [Point(decoding=count, context=each) for each in chosen if each > 0]
    return found


def _prompts() -> list[Point]:
    whole = [Point(prompts=1, tokens=tokens) for tokens in _PROMPTS]
    parts = [
        Point(prompts=1, tokens=tokens, before=before) for tokens in _CHUNKS for before in _BEFORE
    ]
    return whole + parts


def _mixed() -> list[Point]:
    return [
        Point(prompts=1, tokens=tokens, decoding=decoding, context=context)
        for tokens in _MIXED_PROMPTS
        for decoding in _MIXED_SEQUENCES
        for context in _MIXED_CONTEXTS
    ]


def _together() -> list[Point]:
    return [Point(prompts=count, tokens=tokens) for count in _TOGETHER for tokens in (16, 64, 128)]
