"""PyTorch's caching allocator with `expandable_segments:True`.

One segment for each stream and pool is reserved large enough for all of the device, and pages are
put behind it as it fills: 2 MiB in the small pool, 20 MiB in the large one.  Blocks are cut to 512
bytes in both.  When the device has no page left, every page that lies wholly in free blocks is
taken away and given back.

    segment   ├ used ┼ free ┼ used ┼─ free ─┼······ no pages ·········┤
                                    ├ request ───────┤
                                             ├ pages ┤ put behind it
"""

from __future__ import annotations

from bisect import bisect_left, insort

from caching_model import LARGE_SEGMENT, SMALL_SEGMENT, Block, CachingModel


class ExpandableModel(CachingModel):
    """The same device and the same requests."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._unmapped: dict[tuple[int, bool], list[int]] = {}
        self._gaps: dict[int, Block] = {}
        # Segments begin at a multiple of either page.
        self._next_address = LARGE_SEGMENT << 16

    def _should_split(self, block: Block, size: int) -> bool:
        return block.size - size >= 512

    def _find(self, size: int, stream: int, small: bool) -> Block | None:
        """Best fit, but a block that can still grow counts as large as it could become."""
        cached = self._cached.get((stream, small), [])
        at = bisect_left(cached, (size, 0))
        if at == len(cached):
            return None
        block = self._blocks[cached[at][1]]
        for _, address in cached[at + 1 :]:
            other = self._blocks[address]
            if self._could_become(other) >= self._could_become(block):
                break
            block = other
        return self._uncache(block)

    def _could_become(self, block: Block) -> int:
        after = block.after
        return block.size + (after.size if after is not None and not after.mapped else 0)

    def _obtain(self, size: int, stream: int, small: bool) -> Block | None:
        """The lowest place that could hold the request, with pages put behind it."""
        block = self._place(size, stream, small)
        if not block.mapped:
            grown = self._map(block, min(block.size, size))
            if grown is None:
                return None
            block = grown
        while block.size < size:
            gap = block.after
            assert gap is not None
            grown = self._map(gap, min(size - block.size, gap.size))
            if grown is None:
                return None
            block = grown
        return self._uncache(block)

    def _place(self, size: int, stream: int, small: bool) -> Block:
        for address in self._unmapped.get((stream, small), []):
            start = self._gaps[address]
            if start.before is not None and not start.before.allocated:
                start = start.before
            room = 0
            at: Block | None = start
            while at is not None and not at.allocated and room < size:
                room += at.size
                at = at.after
            if room >= size:
                return start
        room = -(-self.capacity * 9 // 8 // LARGE_SEGMENT) * LARGE_SEGMENT
        self.calls["reserve"] += 1
        segment = Block(stream, self._next_address, room, small, mapped=False)
        self._next_address += room + LARGE_SEGMENT
        self._cache(segment)
        return segment

    def _map(self, gap: Block, size: int) -> Block | None:
        """Pages behind the first `size` bytes of a gap, joined with what is free beside it."""
        page = SMALL_SEGMENT if gap.small else LARGE_SEGMENT
        size = -(-size // page) * page
        self.calls["create"] += size // page
        if self.reserved + size > self.capacity:
            return None
        self.calls["map"] += size // page
        self.calls["access"] += 1
        self._reserve(size)
        self._uncache(gap)
        if size < gap.size:
            self._cut(gap, size)
        gap.mapped = True
        block = self._joined(gap)
        self._cache(block)
        return block

    def _release_cached(self) -> bool:
        for address in [address for cached in self._cached.values() for _, address in cached]:
            block = self._blocks.get(address)
            if block is not None:
                self._unmap(block)
        return True

    def _unmap(self, block: Block) -> None:
        """Take the whole pages of a free block away."""
        page = SMALL_SEGMENT if block.small else LARGE_SEGMENT
        first = -(-block.address // page) * page
        last = (block.address + block.size) // page * page
        if first >= last:
            return
        self.calls["unmap"] += (last - first) // page
        self.calls["release"] += (last - first) // page
        self.reserved -= last - first
        self._uncache(block)
        if last < block.address + block.size:
            self._cut(block, last - block.address)
        if first > block.address:
            rest = self._cut(block, first - block.address)
            self._cache(block)
            block = self._uncache(rest)
        block.mapped = False
        self._cache(self._joined(block))

    def _cache(self, block: Block) -> None:
        if block.mapped:
            super()._cache(block)
        else:
            insort(self._unmapped.setdefault((block.stream, block.small), []), block.address)
            self._gaps[block.address] = block

    def _uncache(self, block: Block) -> Block:
        if block.mapped:
            return super()._uncache(block)
        gaps = self._unmapped[block.stream, block.small]
        del gaps[bisect_left(gaps, block.address)]
        del self._gaps[block.address]
        return block
