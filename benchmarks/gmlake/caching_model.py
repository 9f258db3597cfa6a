"""PyTorch's CUDA caching allocator, as its documentation and source comments describe it.

    request              segment it is cut from
    up to 1 MiB          2 MiB, in the small pool
    1 MiB to 10 MiB      20 MiB
    10 MiB and more      rounded up to 2 MiB

Sizes are rounded to 512 bytes; the smallest cached block that fits is taken, and cut when enough
is left over; free neighbours within a segment are joined.  When the device refuses a segment, all
cached segments that are whole go back to it, and it is asked once more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20
MIN_BLOCK = 512
SMALL_SIZE = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
MIN_LARGE = 10 * MIB
ROUND_LARGE = 2 * MIB


def round_size(size: int) -> int:
    return max(MIN_BLOCK, -(-size // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """Bytes of the segment made for a rounded request."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    if size < MIN_LARGE:
        return LARGE_SEGMENT
    return -(-size // ROUND_LARGE) * ROUND_LARGE


@dataclass(eq=False, slots=True)
class Block:
    """A stretch of a segment; `mapped` is False for an expandable segment's missing pages."""

    stream: int
    address: int
    size: int
    small: bool
    allocated: bool = False
    mapped: bool = True
    before: Block | None = None
    after: Block | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.size, self.address

    @property
    def split(self) -> bool:
        return self.before is not None or self.after is not None


class CachingModel:
    """The allocator on a device of `capacity` bytes; addresses are made up.

    `calls` counts what the device was asked for, by kind.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.reserved = self.peak_reserved = 0
        self.calls: Counter[str] = Counter()
        self._next_address = 1 << 40
        self._live: dict[int, Block] = {}
        self._cached: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        self._blocks: dict[int, Block] = {}

    def allocate(self, size: int, stream: int = 0) -> int | None:
        """An address; None is what PyTorch raises as out of memory."""
        size = round_size(size)
        small = size <= SMALL_SIZE
        block = self._find(size, stream, small) or self._obtain(size, stream, small)
        if block is None and self._release_cached():
            block = self._obtain(size, stream, small)
        if block is None:
            return None
        if self._should_split(block, size):
            self._cut(block, size)
        block.allocated = True
        self._live[block.address] = block
        return block.address

    def free(self, address: int) -> None:
        block = self._live.pop(address)
        block.allocated = False
        self._cache(self._joined(block))

    def empty_cache(self) -> None:
        self._release_cached()

    def _should_split(self, block: Block, size: int) -> bool:
        left = block.size - size
        return left >= MIN_BLOCK if block.small else left > SMALL_SIZE

    def _find(self, size: int, stream: int, small: bool) -> Block | None:
        """The smallest cached block that fits, taken out of the cache."""
        cached = self._cached.get((stream, small), [])
        at = bisect_left(cached, (size, 0))
        if at == len(cached):
            return None
        return self._uncache(self._blocks[cached[at][1]])

    def _obtain(self, size: int, stream: int, small: bool) -> Block | None:
        """A new segment from the device."""
        want = segment_size(size)
        self.calls["malloc"] += 1
        if self.reserved + want > self.capacity:
            return None
        block = Block(stream, self._next_address, want, small)
        self._next_address += want + MIB
        self._reserve(want)
        return block

    def _release_cached(self) -> bool:
        """Give back every cached segment that is whole; the device is asked again either way."""
        for address in [address for cached in self._cached.values() for _, address in cached]:
            block = self._blocks[address]
            if not block.split:
                self._uncache(block)
                self.calls["free"] += 1
                self.reserved -= block.size
        return True

    def _reserve(self, count: int) -> None:
        self.reserved += count
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def _cut(self, block: Block, size: int) -> Block:
        """Shorten a block that is in no cache; what is left over is cached."""
        rest = Block(
            block.stream,
            block.address + size,
            block.size - size,
            block.small,
            mapped=block.mapped,
            before=block,
            after=block.after,
        )
        if rest.after is not None:
            rest.after.before = rest
        block.size, block.after = size, rest
        self._cache(rest)
        return rest

    def _joined(self, block: Block) -> Block:
        """A block that is in no cache, made one with its free neighbours."""
        left, right = block.before, block.after
        if left is not None and not left.allocated and left.mapped == block.mapped:
            self._uncache(left)
            left.size += block.size
            left.after = right
            if right is not None:
                right.before = left
            block = left
        if right is not None and not right.allocated and right.mapped == block.mapped:
            self._uncache(right)
            block.size += right.size
            block.after = right.after
            if right.after is not None:
                right.after.before = block
        return block

    def _cache(self, block: Block) -> None:
        insort(self._cached.setdefault((block.stream, block.small), []), block.key)
        self._blocks[block.address] = block

    def _uncache(self, block: Block) -> Block:
        cached = self._cached[block.stream, block.small]
        del cached[bisect_left(cached, block.key)]
        del self._blocks[block.address]
        return block
