"""Taking turns: every round has every arm once, and begins with another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Turn = TypeVar("Turn")


def alternate(rounds: int, turns: Sequence[Turn]) -> Iterator[tuple[int, Turn]]:
    """Round number and whose turn it is, so that drift of the machine meets all alike."""
    for number in range(rounds):
        first = number % len(turns)
        for turn in [*turns[first:], *turns[:first]]:
            yield number, turn
