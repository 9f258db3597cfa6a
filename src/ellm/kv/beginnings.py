"""Which sequence has the longest known beginning of a text, in memory or anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic

from ellm.kv.kept import KeptPrefixes
from ellm.kv.prefix import PrefixIndex
from ellm.kv.store import Holding

Match = tuple[int, int]
"""A sequence, and how many tokens of the text it has."""


class Beginnings(Generic[Holding]):
    """Looks `index` up for those who run, whose rows are in `held`, and those who are kept."""

    def __init__(
        self, index: PrefixIndex, kept: KeptPrefixes[Holding], held: Mapping[int, Holding]
    ) -> None:
        self._index = index
        self._kept = kept
        self._held = held

    def at_hand(self, seq_id: int, tokens: Sequence[int], salt: bytes) -> Match | None:
        """The longest of `tokens`, the text of `seq_id`, whose rows are in memory.

        Never all of it: at least one token must be computed to know what follows.
        """
        return self._index.match(seq_id, tokens[:-1], salt, self._is_at_hand)

    def anywhere(self, seq_id: int, tokens: Sequence[int], salt: bytes) -> Match | None:
        """As `at_hand`, those included whose rows are below."""
        return self._index.match(seq_id, tokens[:-1], salt)

    def _is_at_hand(self, seq_id: int) -> bool:
        kept = self._kept.get(seq_id)
        return seq_id in self._held or (kept is not None and kept.holding is not None)
