"""KV of ended sequences, kept for requests that begin alike while memory lasts, or the tier below.

    oldest │ ·····▽ │ ███████▽ │ ████░ │ ██████░░ │ newest

    █ rows in memory   ▽ a copy below   · rows given up, the copy is what is left   ░ cut next

When memory gets short, copies of the oldest are written ahead of time, so that giving up rows costs
nothing later; what has no copy is cut from its end, because a beginning is shared by more requests.
Of a conversation that goes on, only the latest turn is kept: it has nearly all that the others had.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic

from ellm.kv.prefix import PrefixIndex
from ellm.kv.store import Holding, KvStore
from ellm.memory.block import Block, BlockState
from ellm.memory.tiers import Tiers


@dataclass(slots=True, eq=False)
class Kept(Generic[Holding]):
    """`tokens` tokens that can be had: from `holding`, or from `block`, which has `copied`."""

    tokens: int
    holding: Holding | None
    block: Block | None = None
    copied: int = 0

    @property
    def is_copied(self) -> bool:
        return self.block is not None and self.block.state is BlockState.READY

    @property
    def is_moving(self) -> bool:
        return self.block is not None and self.block.state is BlockState.WRITING

    @property
    def is_read(self) -> bool:
        """Whether a copy of it is on its way up."""
        return self.is_copied and self.block is not None and len(self.block.transfers) > 0


class KeptPrefixes(Generic[Holding]):
    """Holdings without a sequence, oldest end first.  `tiers` None has nothing below."""

    def __init__(
        self, store: KvStore[Holding], index: PrefixIndex, tiers: Tiers | None = None
    ) -> None:
        self._store = store
        self._index = index
        self._tiers = tiers
        self._kept: OrderedDict[int, Kept[Holding]] = OrderedDict()
        # Those of them that have rows, in the same order: after an hour nearly all are below.
        self._here: OrderedDict[int, Kept[Holding]] = OrderedDict()
        self._chunks = 0
        self._spared: int | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, seq_id: int) -> Kept[Holding] | None:
        return self._kept.get(seq_id)

    def rows(self, seq_id: int) -> Holding | None:
        """What is in memory of it, if anything is."""
        kept = self._kept.get(seq_id)
        return None if kept is None else kept.holding

    @contextmanager
    def sparing(self, seq_id: int) -> Iterator[None]:
        """Meanwhile its rows, if it is kept, stay as they are."""
        self._spared = seq_id
        try:
            yield
        finally:
            self._spared = None

    @property
    def chunks(self) -> int:
        """At most how many chunks would be free without any of them."""
        return self._chunks

    @property
    def below(self) -> int:
        """Bytes of copies."""
        return sum(kept.block.size for kept in self._kept.values() if kept.block is not None)

    def add(self, seq_id: int, holding: Holding) -> None:
        """Keep what an ended sequence published, unless an entry in memory covers all of it.

        Entries that it nearly covers go.
        """
        held = self._index.held(seq_id)
        self._store.trim(holding, held)
        self._kept[seq_id] = self._here[seq_id] = Kept(held, holding)
        self._chunks += self._store.chunks_alone(held)
        covering = filter(self._is_here, self._index.covering(seq_id) if held else ())
        there = next(covering, None)
        if there is not None:
            self._kept.move_to_end(there)
            self._here.move_to_end(there)
        if there is not None or not held:
            self._drop(seq_id)
            return
        for other in list(self._index.covered(seq_id)):
            if other in self._kept:
                self._drop(other)

    def _is_here(self, seq_id: int) -> bool:
        """Whether it is kept, with its rows."""
        return seq_id in self._here

    def release(self, count: int) -> int:
        """Give rows up, oldest first, until `count` chunks are free; how many became.

        The end of a copy that is under way is waited for: computing its tokens again takes longer.
        """
        freed = 0
        for seq_id, kept in list(self._here.items()):
            if freed >= count:
                break
            if seq_id == self._spared:
                continue
            self._end_copy(kept)
            while freed < count and kept.holding is not None:
                freed += self._give_up(seq_id, kept, count - freed)
        return freed

    def _end_copy(self, kept: Kept[Holding]) -> None:
        if self._tiers is not None and kept.block is not None and kept.is_moving:
            self._tiers.wait(kept.block)
            self._tiers.poll()

    def copy_down(self, count: int) -> None:
        """Begin to copy the oldest, until `count` chunks can be given up that have copies."""
        if self._tiers is None:
            return
        for kept in list(self._here.values()):
            if count <= 0:
                return
            if not kept.is_copied and not kept.is_moving and not self._begin_copy(kept):
                return
            count -= self._store.chunks_alone(kept.tokens)

    def wait(self) -> bool:
        """Return when the copy that is on its way has ended; False if there is none."""
        moving = next((kept.block for kept in self._here.values() if kept.is_moving), None)
        if moving is None or self._tiers is None:
            return False
        self._tiers.wait(moving)
        return True

    def _begin_copy(self, kept: Kept[Holding]) -> bool:
        """Whether a copy of its rows is on its way; older ones below make room for it."""
        if self._tiers is None or kept.holding is None:
            return False
        extents = self._store.extents(kept.holding, kept.tokens)
        kept.block = self._tiers.put(extents)
        while kept.block is None and self._shed(than=kept):
            kept.block = self._tiers.put(extents)
        kept.copied = kept.tokens
        return kept.block is not None

    def shed(self) -> bool:
        """Drop the oldest entry that is below alone, or the oldest copy; False without any."""
        return self._shed(than=None)

    def _shed(self, than: Kept[Holding] | None) -> bool:
        assert self._tiers is not None
        for seq_id, kept in self._kept.items():
            if kept is than:
                break
            if kept.holding is None and not kept.is_read:
                self._drop(seq_id)
                return True
        if than is None:
            for kept in self._kept.values():
                if kept.block is not None and not kept.is_read:
                    self._tiers.drop(kept.block)
                    kept.block = None
                    return True
        return False

    def evict(self) -> bool:
        """Drop the oldest that has rows; False if there is none."""
        seq_id = next((seq_id for seq_id in self._here if seq_id != self._spared), None)
        if seq_id is not None:
            self._drop(seq_id)
        return seq_id is not None

    def sink(self) -> None:
        """Give all rows up; what has, or finds, room below stays there, the rest is dropped."""
        for kept in list(self._here.values()):
            if not kept.is_copied and not kept.is_moving:
                self._begin_copy(kept)
        for seq_id, kept in list(self._here.items()):
            self._end_copy(kept)
            if kept.is_copied:
                self._give_up(seq_id, kept, 0)
            else:
                self._drop(seq_id)

    def clear(self) -> None:
        """Drop all."""
        for seq_id in list(self._kept):
            self._drop(seq_id)

    def forget(self, seq_id: int) -> None:
        """Its copy turned out to be bad."""
        if seq_id in self._kept:
            self._drop(seq_id)

    def _give_up(self, seq_id: int, kept: Kept[Holding], count: int) -> int:
        """Rows for at least `count` chunks, or all there are; how many chunks became free."""
        assert kept.holding is not None
        if kept.is_copied:
            return self._let_rows_go(seq_id, kept)
        return self._cut(seq_id, kept, kept.holding, count)

    def _cut(self, seq_id: int, kept: Kept[Holding], holding: Holding, count: int) -> int:
        """Shorten an entry by what `count` chunks hold, or drop it; how many became free."""
        store = self._store
        target = store.chunks_alone(kept.tokens) - count
        keep = bisect_right(range(kept.tokens + 1), target, key=store.chunks_alone) - 1
        keep -= keep % self._index.block_size
        if keep <= 0:
            freed = self._let_rows_go(seq_id, kept)
            self._drop(seq_id)
            return freed
        self._chunks -= store.chunks_alone(kept.tokens) - store.chunks_alone(keep)
        kept.tokens = keep
        self._index.shorten(seq_id, keep)
        return store.trim(holding, keep)

    def _drop(self, seq_id: int) -> None:
        kept = self._kept.pop(seq_id)
        self._index.forget(seq_id)
        if kept.block is not None and self._tiers is not None:
            self._tiers.drop(kept.block)
        if kept.holding is not None:
            self._let_rows_go(seq_id, kept)

    def _let_rows_go(self, seq_id: int, kept: Kept[Holding]) -> int:
        """Of an entry that has some; how many chunks became free."""
        assert kept.holding is not None
        freed = self._store.trim(kept.holding, 0)
        self._store.close(kept.holding)
        kept.holding = None
        del self._here[seq_id]
        self._chunks -= self._store.chunks_alone(kept.tokens)
        return freed

    def check(self) -> None:
        """Assert that the books balance."""
        self._index.check()
        here = [seq_id for seq_id, kept in self._kept.items() if kept.holding is not None]
        assert here == list(self._here), (here, self._here)
        chunks = sum(self._store.chunks_alone(kept.tokens) for kept in self._here.values())
        assert chunks == self._chunks, (chunks, self._chunks)
