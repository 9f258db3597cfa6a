"""KV of ended sequences, kept for requests that begin alike while memory lasts."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Generic

from ellm.kv.prefix import PrefixIndex
from ellm.kv.store import Holding, KvStore


class KeptPrefixes(Generic[Holding]):
    """Holdings without a sequence, least recently used first.

        oldest │ ████░ │ ██████░░ │ ███ │ newest        ░ goes first: the end of the oldest

    A beginning is shared by more requests than an end, so an entry is cut from its end.
    """

    def __init__(self, store: KvStore[Holding], index: PrefixIndex) -> None:
        self._store = store
        self._index = index
        self._kept: OrderedDict[int, Holding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, seq_id: int) -> Holding | None:
        return self._kept.get(seq_id)

    @property
    def chunks(self) -> int:
        """At most how many chunks would be free without any of them."""
        store = self._store
        return sum(store.chunks_alone(store.tokens(holding)) for holding in self._kept.values())

    def add(self, seq_id: int, holding: Holding) -> None:
        """Keep what an ended sequence published; entries that it covers are not needed any more."""
        held = self._index.held(seq_id)
        self._store.trim(holding, held)
        self._kept[seq_id] = holding
        for other in list(self._index.covered(seq_id)):
            if other in self._kept:
                self._drop(other)
        if not held:
            self._drop(seq_id)

    def touch(self, seq_id: int) -> None:
        """Someone has just used it."""
        if seq_id in self._kept:
            self._kept.move_to_end(seq_id)

    def release(self, count: int) -> int:
        """Cut entries, oldest first, until `count` chunks are free; how many became."""
        freed = 0
        while freed < count and self._kept:
            freed += self._cut(next(iter(self._kept)), count - freed)
        return freed

    def evict(self) -> bool:
        """Drop the oldest; False if there is none."""
        if self._kept:
            self._drop(next(iter(self._kept)))
            return True
        return False

    def clear(self) -> int:
        """Drop all; how many."""
        dropped = len(self._kept)
        while self.evict():
            pass
        return dropped

    def _cut(self, seq_id: int, count: int) -> int:
        """Shorten an entry by what `count` chunks hold, or drop it; how many became free."""
        store, holding = self._store, self._kept[seq_id]
        tokens = store.tokens(holding)
        target = store.chunks_alone(tokens) - count
        keep = bisect_right(range(tokens + 1), target, key=store.chunks_alone) - 1
        keep -= keep % self._index.block_size
        if keep <= 0:
            freed = store.trim(holding, 0)
            self._drop(seq_id)
            return freed
        self._index.shorten(seq_id, keep)
        return store.trim(holding, keep)

    def _drop(self, seq_id: int) -> None:
        holding = self._kept.pop(seq_id)
        self._index.forget(seq_id)
        self._store.trim(holding, 0)
        self._store.close(holding)
