"""The home range: one address range over all chunks of an allocator, cut into blocks of bytes.

    chunks  │  0   │  1   │  2   │  3   │  4 ... total
    blocks  ├─used─┼──free──┼ used ┼─free─┼───hole────┤

A *hole* has no chunks behind it, so it is whole slots; used and free blocks begin and end at any
multiple of GRAIN.  Two free neighbours are one block, unless they belong to different streams or
one of them is small change.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from ellm.core.errors import DriverError
from ellm.core.units import ceil_div
from ellm.memory.driver import Chunk
from ellm.memory.pool import ChunkPool

GRAIN = 512


class BlockState(Enum):
    FREE = "free"
    USED = "used"
    HOLE = "hole"


@dataclass(eq=False, slots=True)
class Block:
    """Bytes [start, stop) of the home range.

    A free block belongs to the `stream` it was last used on, which may still touch it until
    `epoch` has passed; None where memory is used synchronously.  A `small` block lies within one
    chunk that is kept for small allocations.
    """

    start: int
    stop: int
    state: BlockState
    stream: int | None = None
    epoch: int = -1
    small: bool = False

    @property
    def size(self) -> int:
        return self.stop - self.start


class HomeRange:
    """Blocks that tile room for every chunk of `pool`; chunks are charged to `owner`."""

    def __init__(self, pool: ChunkPool, owner: str) -> None:
        self.pool = pool
        self.owner = owner
        self.chunk_bytes = pool.chunk_bytes
        self.span = pool.driver.reserve(pool.total)
        self._chunks: dict[int, Chunk] = {}
        self._starts: list[int] = []
        self._by_start: dict[int, Block] = {}
        self._by_stop: dict[int, Block] = {}
        # (size, start) of the free blocks of a stream; small change apart.
        self._free: dict[tuple[int | None, bool], list[tuple[int, int]]] = {}
        self._enter(Block(0, pool.total * self.chunk_bytes, BlockState.HOLE))

    @property
    def held(self) -> int:
        """Chunks behind the range."""
        return len(self._chunks)

    def chunk(self, slot: int) -> Chunk:
        return self._chunks[slot]

    def address(self, block: Block) -> int:
        return self.span.address + block.start

    def blocks(self) -> Iterator[Block]:
        """Every block, in ascending order."""
        return (self._by_start[start] for start in self._starts)

    def free_blocks(self, stream: int | None) -> list[Block]:
        """Free blocks of `stream`, small change left out."""
        return [self._by_start[start] for _, start in self._free.get((stream, False), ())]

    def streams(self) -> set[int | None]:
        """Streams that have free blocks."""
        return {stream for (stream, _), found in self._free.items() if found}

    def best_fit(self, size: int, stream: int | None, small: bool = False) -> Block | None:
        """The smallest free block of `stream` that has `size` bytes; the lowest of them."""
        found = self._free.get((stream, small), [])
        at = bisect_left(found, (size, -1))
        return self._by_start[found[at][1]] if at < len(found) else None

    def is_free(self, start: int, stop: int, stream: int | None) -> bool:
        """Whether all of [start, stop) is a free block of `stream`, or part of one."""
        block = self._at(start)
        free = block.state is BlockState.FREE and not block.small
        return free and block.stream == stream and stop <= block.stop

    def use(self, start: int, stop: int) -> Block:
        """Cut [start, stop) out of the one free block that holds it."""
        block = self._cut(start, stop)
        return self._enter(Block(start, stop, BlockState.USED, small=block.small))

    def break_chunk(self, slot: int) -> None:
        """Keep a free chunk for small allocations, the first of which must follow at once."""
        start, stop = slot * self.chunk_bytes, (slot + 1) * self.chunk_bytes
        block = self._cut(start, stop)
        self._enter(Block(start, stop, BlockState.FREE, block.stream, block.epoch, small=True))

    def give(self, block: Block, stream: int | None, epoch: int) -> None:
        """A used block is free again and `stream`'s; it joins its neighbours.

        A chunk of small change that is whole again is small no longer.
        """
        assert block.state is BlockState.USED, block
        self._leave(block)
        self._join(replace(block, state=BlockState.FREE, stream=stream, epoch=epoch))

    def hand_over(self, passed: Callable[[int, int], bool], stream: int) -> bool:
        """Give `stream` every other stream's free block that has `passed`; whether any had."""
        found = False
        for block in list(self.blocks()):
            # Joining may have swallowed it already.
            mine = block.stream in (None, stream) or self._by_start.get(block.start) is not block
            if block.state is not BlockState.FREE or mine:
                continue
            assert block.stream is not None
            if passed(block.stream, block.epoch):
                self._leave(block)
                self._join(replace(block, stream=stream, epoch=-1))
                found = True
        return found

    def grow(self, count: int, stream: int | None) -> bool:
        """Put `count` new chunks, `stream`'s, into the lowest holes; False, and no change, if not
        now.

        Raises DriverError, and changes nothing but the pool's warm chunks, if they cannot be
        mapped.
        """
        chunks = self.pool.take(self.owner, count)
        if chunks is None:
            return False
        done = 0
        try:
            for start, stop in self._lowest_holes(count):
                self._fill(start, chunks[done : done + stop - start], stream)
                done += stop - start
        except DriverError:
            self.pool.drop(self.owner, chunks[done:])
            raise
        return True

    def empty(self, first: int, last: int) -> None:
        """Give back the chunks of slots [first, last), one free block that nothing touches now.

        Raises DriverError, and changes nothing, if the machine cannot unmap them.
        """
        size = self.chunk_bytes
        self.pool.driver.unmap(self.span, first, last - first)
        self.pool.drop(self.owner, [self._chunks.pop(slot) for slot in range(first, last)])
        self._cut(first * size, last * size)
        self._join(Block(first * size, last * size, BlockState.HOLE))

    def close(self) -> None:
        """Give the addresses back; no chunk may be left."""
        assert not self._chunks, self._chunks
        self.pool.driver.release(self.span)

    def check(self) -> None:
        """The blocks tile the range, and chunks are behind all of it that is no hole."""
        end, before = 0, None
        slots: set[int] = set()
        free: dict[tuple[int | None, bool], list[tuple[int, int]]] = {}
        size = self.chunk_bytes
        for block in self.blocks():
            assert block.start == end < block.stop, (end, block)
            assert self._by_stop[block.stop] is block
            assert before is None or not self._joins(before, block), (before, block)
            assert block.start % GRAIN == block.stop % GRAIN == 0, block
            if block.state is BlockState.HOLE:
                assert block.start % size == block.stop % size == 0, block
            else:
                slots.update(range(block.start // size, ceil_div(block.stop, size)))
            if block.state is BlockState.FREE:
                free.setdefault((block.stream, block.small), []).append((block.size, block.start))
            if block.small:
                assert block.start // size == (block.stop - 1) // size, block
                assert block.state is BlockState.USED or block.size < size, block
            end, before = block.stop, block
        assert end == self.span.slots * size, end
        assert slots == self._chunks.keys(), (slots, self._chunks)
        assert len(set(self._chunks.values())) == len(slots) == self.pool.held(self.owner)
        assert {k: sorted(v) for k, v in free.items()} == {k: v for k, v in self._free.items() if v}

    def _at(self, position: int) -> Block:
        """The block that holds the byte."""
        return self._by_start[self._starts[bisect_right(self._starts, position) - 1]]

    def _cut(self, start: int, stop: int) -> Block:
        """Leave [start, stop) of a free block without a block; the block as it was."""
        block = self._leave(self._at(start))
        assert block.state is BlockState.FREE, block
        assert start < stop <= block.stop, (start, stop, block)
        for low, high in ((block.start, start), (stop, block.stop)):
            if low < high:
                self._enter(Block(low, high, block.state, block.stream, block.epoch, block.small))
        return block

    def _lowest_holes(self, count: int) -> list[tuple[int, int]]:
        """Runs of `count` slots without a chunk, lowest first."""
        runs = []
        for block in self.blocks():
            if count and block.state is BlockState.HOLE:
                start = block.start // self.chunk_bytes
                stop = min(block.stop // self.chunk_bytes, start + count)
                runs.append((start, stop))
                count -= stop - start
        assert not count, count
        return runs

    def _fill(self, slot: int, chunks: list[Chunk], stream: int | None) -> None:
        self.pool.driver.map(self.span, slot, chunks)
        self._chunks.update(enumerate(chunks, slot))
        hole = self._leave(self._at(slot * self.chunk_bytes))
        stop = (slot + len(chunks)) * self.chunk_bytes
        if stop < hole.stop:
            self._enter(Block(stop, hole.stop, BlockState.HOLE))
        self._join(Block(hole.start, stop, BlockState.FREE, stream))

    def _join(self, block: Block) -> None:
        """Enter a free block or a hole, made one with its neighbours where that is allowed."""
        left = self._by_stop.get(block.start)
        if left is not None and self._joins(left, block):
            self._absorb(block, self._leave(left))
        right = self._by_start.get(block.stop)
        if right is not None and self._joins(block, right):
            self._absorb(block, self._leave(right))
        if block.small and block.size == self.chunk_bytes:
            block.small = False
            self._join(block)
        else:
            self._enter(block)

    def _joins(self, left: Block, right: Block) -> bool:
        if left.state is not right.state or left.state is BlockState.USED:
            return False
        if left.small or right.small:
            same = left.start // self.chunk_bytes == right.start // self.chunk_bytes
            if not (left.small and right.small and same):
                return False
        return left.stream == right.stream

    def _absorb(self, block: Block, other: Block) -> None:
        block.epoch = max(block.epoch, other.epoch)
        block.start, block.stop = min(block.start, other.start), max(block.stop, other.stop)

    def _enter(self, block: Block) -> Block:
        insort(self._starts, block.start)
        self._by_start[block.start] = self._by_stop[block.stop] = block
        if block.state is BlockState.FREE:
            insort(
                self._free.setdefault((block.stream, block.small), []), (block.size, block.start)
            )
        return block

    def _leave(self, block: Block) -> Block:
        del self._starts[bisect_left(self._starts, block.start)]
        del self._by_start[block.start], self._by_stop[block.stop]
        if block.state is BlockState.FREE:
            found = self._free[block.stream, block.small]
            del found[bisect_left(found, (block.size, block.start))]
        return block
