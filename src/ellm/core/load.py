"""What a step costs in time, as its shape is what it costs in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class StepLoad(NamedTuple):
    """The work of one step, in units that a device spends time on.

    tokens      tokens computed, over all sequences
    attention   pairs of a computed token and a token it attends to
    kv_tokens   tokens whose KV is read, each once a sequence
    sequences   sequences in the step

    Attention is causal, so a sequence whose last `tokens` of `length` are computed has

        length ──────────────────┐
        ├─ computed before ─┤▓   │      the first of them sees computed + 1 tokens,
        ├───────────────────┤▓▓  │      the last sees all `length`:
        ├───────────────────┤▓▓▓ │
        ├───────────────────┤▓▓▓▓│      tokens · length − tokens · (tokens − 1) / 2 pairs
    """

    tokens: int = 0
    attention: int = 0
    kv_tokens: int = 0
    sequences: int = 0

    def with_sequence(self, tokens: int, length: int) -> StepLoad:
        """The load with one more sequence: `tokens` to compute, `length` of KV afterwards."""
        assert 0 < tokens <= length, (tokens, length)
        return StepLoad(
            self.tokens + tokens,
            self.attention + tokens * length - tokens * (tokens - 1) // 2,
            self.kv_tokens + length,
            self.sequences + 1,
        )

    @classmethod
    def of(cls, parts: Iterable[tuple[int, int]]) -> StepLoad:
        """The load of sequences that compute (tokens, after so many that are computed)."""
        tokens = attention = kv_tokens = sequences = 0
        for count, before in parts:
            tokens += count
            attention += count * before + count * (count + 1) // 2
            kv_tokens += before + count
            sequences += 1
        return cls(tokens, attention, kv_tokens, sequences)
