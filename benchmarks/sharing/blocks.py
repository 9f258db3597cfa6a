"""Mooncake's requests: which of their blocks are alike, and when they come."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

TRACE = "mooncake/conversation_trace.jsonl"
# Tokens in a block of the trace.
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: the blocks of its prompt by id (the last may be cut), and token counts."""

    arrival: float
    blocks: tuple[int, ...]
    prompt: int
    output: int

    def tokens(self, size: int) -> tuple[int, ...]:
        """The prompt, `size` tokens a block; blocks with the same id have the same ones."""
        text: list[int] = []
        for block in self.blocks:
            text += random.Random(block).choices(range(3, 1000), k=size)
        return tuple(text[: self.prompt])


def read(data: Path, count: int, size: int) -> list[Turn]:
    """The first `count` requests, as if a block had `size` tokens instead of 512."""
    divide = BLOCK // size
    turns = []
    with (data / TRACE).open(encoding="utf-8") as lines:
        for line in islice(lines, count):
            row = json.loads(line)
            blocks = tuple(row["hash_ids"])
            prompt = min(max(1, round(row["input_length"] / divide)), size * len(blocks))
            output = max(1, round(row["output_length"] / divide))
            turns.append(Turn(row["timestamp"] / 1e3, blocks, prompt, output))
    return turns


def distinct(turns: Sequence[Turn]) -> int:
    """Blocks of all prompts, each counted once."""
    return len({block for turn in turns for block in turn.blocks})
