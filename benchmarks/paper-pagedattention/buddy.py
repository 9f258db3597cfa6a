"""The buddy allocation that PagedAttention (arXiv 2309.06180, section 6.1) assumes Orca to use.

room of 11     ├───── 8 ─────┤├ 2 ┤├1┤
take(3)        ├ 4 ██├ 4 ────┤├ 2 ┤├1┤      the smallest block that holds it, cut from a larger
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Block:
    """`size` places from `start`, a power of two."""

    start: int
    size: int


@dataclass(slots=True)
class Buddies:
    """`room` places.  The whole is cut into the largest blocks there are, and not joined beyond."""

    room: int
    _free: dict[int, set[int]] = field(default_factory=dict)
    _roots: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = 0
        for bit in reversed(range(self.room.bit_length())):
            if self.room >> bit & 1:
                self._roots[start] = 1 << bit
                self._free.setdefault(1 << bit, set()).add(start)
                start += 1 << bit

    def has(self, count: int) -> bool:
        """Whether `take(count)` would find a block."""
        return self._smallest(count) is not None

    def take(self, count: int) -> Block | None:
        """A block of at least `count` places, the one at the lowest address; None if all are cut
        too small."""
        size = self._smallest(count)
        if size is None:
            return None
        start = min(self._free[size])
        self._free[size].remove(start)
        while size >= 2 * count:
            size //= 2
            self._free.setdefault(size, set()).add(start + size)
        return Block(start, size)

    def give(self, block: Block) -> None:
        """Join a block that was taken with its buddy, as often as that is free."""
        start, size = block.start, block.size
        root = max(place for place in self._roots if place <= start)
        while size < self._roots[root]:
            buddy = root + ((start - root) ^ size)
            if buddy not in self._free.get(size, ()):
                break
            self._free[size].remove(buddy)
            start, size = min(start, buddy), 2 * size
        self._free.setdefault(size, set()).add(start)

    def _smallest(self, count: int) -> int | None:
        """Size of the smallest free block with `count` places."""
        return min(
            (size for size, starts in self._free.items() if starts and size >= count), default=None
        )
