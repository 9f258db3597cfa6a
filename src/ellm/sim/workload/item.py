"""One request of a workload, by its lengths."""

from __future__ import annotations

from dataclasses import dataclass

# What Mooncake's blocks cover.
BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Item:
    """How many tokens ask, how many are wanted, when, and of which model.

    `arrival` is in seconds after the start.  `model` is a number, modulo how many models there
    are; None leaves it to whose turn it is.  Items whose `blocks` begin alike share the tokens that
    those stand for; what is after the last block is an item's own.

        blocks    │ 7        │ 8          │ 31          │
        tokens    │ 0 … 511  │ 512 … 1023 │ 1024 … 1535 │ 1536 … prompt_tokens

    A block covers `block_tokens`, a fraction where lengths were scaled: the one at place i those
    from `block_tokens` · i to `block_tokens` · (i + 1), both rounded, or to the end of the prompt.
    """

    prompt_tokens: int
    output_tokens: int
    arrival: float = 0.0
    model: int | None = None
    blocks: tuple[int, ...] = ()
    block_tokens: float = BLOCK_TOKENS
