"""What a server is sent: token ids or words, and how long an answer is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ellm.sim.workload.item import Item
from ellm.sim.workload.prompts import token_ids

_WORDS = (
    "the", "of", "and", "to", "in", "is", "it", "for", "on", "with", "as", "at", "by", "from", "or",
    "an", "be", "this", "that", "are", "was", "not", "can", "has", "all", "if", "when", "which",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids, tokens to generate, and seconds after the start at which to send it.

    `model` is the number of the model to ask, modulo how many there are.
    """

    prompt: Sequence[int]
    output_len: int
    arrival: float = 0.0
    model: int = 0

    @property
    def text(self) -> str:
        """The prompt for an endpoint that takes no token ids: about one token a word."""
        return " ".join(_WORDS[token % len(_WORDS)] for token in self.prompt)


def questions(items: Iterable[Item], seed: int) -> list[Question]:
    """One for each item, with random prompts; each model in turn where the item names none."""
    return [
        Question(
            token_ids(item, number, seed),
            item.output_tokens,
            item.arrival,
            number if item.model is None else item.model,
        )
        for number, item in enumerate(items)
    ]
