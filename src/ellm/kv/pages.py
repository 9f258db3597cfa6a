"""Pages of equal size in one address range, with chunks only where some page is in use.

Pages and chunks need not divide one another: a chunk is needed while any page that touches it is
in use, and may stay mapped, *warm*, after that.  Free pages that cost no chunk are given out first,
so that a nearly empty chunk fills up before a new one is taken, and then lowest address first,
which keeps the range dense.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from ellm.core.errors import DriverError
from ellm.memory.driver import Span
from ellm.memory.pool import ChunkPool
from ellm.memory.virtual import VirtualTensor


class PageAllocator:
    """Reference-counted pages of `page_bytes`, backed by chunks of `owner`.

    Without `keep_warm` a chunk under no page goes back at once.
    """

    def __init__(
        self, pool: ChunkPool, page_bytes: int, pages: int, owner: str, keep_warm: bool = False
    ) -> None:
        self.page_bytes = page_bytes
        self.pages = pages
        slots = -(-pages * page_bytes // pool.chunk_bytes)
        self._pool = pool
        self._chunk_bytes = pool.chunk_bytes
        self._tensor = VirtualTensor(pool, owner, pool.driver.reserve(slots))
        self._holders = [0] * pages
        self._users = [0] * slots
        self._keep_warm = keep_warm
        self._idle: OrderedDict[int, None] = OrderedDict()
        # Lowest page first.  `_free` has every free page; `_warm` those seen with all their
        # chunks mapped.  Both may hold stale entries, which are dropped when they surface.
        self._free = list(range(pages))
        self._warm: list[int] = []
        self._queued_free = bytearray(b"\1") * pages
        self._queued_warm = bytearray(pages)

    @property
    def span(self) -> Span:
        return self._tensor.span

    @property
    def address(self) -> int:
        return self._tensor.address

    @property
    def mapped_chunks(self) -> int:
        return self._tensor.mapped

    @property
    def warm_chunks(self) -> int:
        """Mapped chunks under no page in use."""
        return len(self._idle)

    @property
    def used(self) -> int:
        return sum(1 for count in self._holders if count)

    def missing(self, count: int) -> int | None:
        """Chunks that `take(count)` would need; None when there are not that many pages."""
        picked = self._pick(count)
        if picked is None:
            return None
        slots = {slot for page in picked for slot in self._slots(page)}
        for page in picked:
            self._offer(page)
        return sum(1 for slot in slots if not self._mapped(slot))

    def take(self, count: int) -> list[int] | None:
        """`count` pages of one holder each; None when pages or chunks are short."""
        picked = self._pick(count)
        if picked is None:
            return None
        for done, page in enumerate(picked):
            if not self._cover(page):
                self.drop(picked[:done])
                for rest in picked[done:]:
                    self._offer(rest)
                return None
            self._use(page)
        return picked

    def _cover(self, page: int) -> bool:
        try:
            return self._tensor.cover(page * self.page_bytes, (page + 1) * self.page_bytes)
        except DriverError as refusal:  # the machine had less than the budget said
            self._pool.refusal = refusal
            return False

    def retain(self, pages: list[int]) -> None:
        """One more holder of each page."""
        for page in pages:
            assert self._holders[page] > 0, page
            self._holders[page] += 1

    def drop(self, pages: list[int], cool: bool = False) -> None:
        """One holder less of each page; chunks under no page stay warm, or go back if `cool`."""
        for page in pages:
            assert self._holders[page] > 0, page
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._leave(page, self._keep_warm and not cool)

    def reclaim(self, count: int) -> int:
        """Give back at most `count` warm chunks, longest unused first; how many."""
        freed = 0
        while freed < count and self._idle:
            slot, _ = self._idle.popitem(last=False)
            freed += self._unmap(slot)
        return freed

    def check(self) -> None:
        users = [0] * len(self._users)
        for page, count in enumerate(self._holders):
            if count:
                for slot in self._slots(page):
                    users[slot] += 1
        assert users == self._users
        assert not any(self._users[slot] for slot in self._idle)
        assert self._tensor.mapped == sum(1 for count in users if count) + len(self._idle)
        self._tensor.check()

    def _slots(self, page: int) -> range:
        """Chunk slots that `page` touches."""
        start = page * self.page_bytes
        return range(start // self._chunk_bytes, -(-(start + self.page_bytes) // self._chunk_bytes))

    def _touching(self, slot: int) -> range:
        """Pages that touch chunk slot `slot`."""
        start = slot * self._chunk_bytes
        stop = -(-(start + self._chunk_bytes) // self.page_bytes)
        return range(start // self.page_bytes, min(stop, self.pages))

    def _is_warm(self, page: int) -> bool:
        return all(self._mapped(slot) for slot in self._slots(page))

    def _mapped(self, slot: int) -> bool:
        return bool(self._users[slot]) or slot in self._idle

    def _pick(self, count: int) -> list[int] | None:
        """Remove `count` free pages from the heaps, free of charge first."""
        picked: list[int] = []
        taken: set[int] = set()
        while len(picked) < count and self._warm:
            page = heapq.heappop(self._warm)
            self._queued_warm[page] = 0
            if not self._holders[page] and page not in taken and self._is_warm(page):
                picked.append(page)
                taken.add(page)
        while len(picked) < count and self._free:
            page = heapq.heappop(self._free)
            self._queued_free[page] = 0
            if not self._holders[page] and page not in taken:
                picked.append(page)
                taken.add(page)
        if len(picked) == count:
            return picked
        for page in picked:
            self._offer(page)
        return None

    def _offer(self, page: int) -> None:
        """Put a free page (back) where `_pick` finds it."""
        if not self._queued_free[page]:
            self._queued_free[page] = 1
            heapq.heappush(self._free, page)
        if self._is_warm(page) and not self._queued_warm[page]:
            self._queued_warm[page] = 1
            heapq.heappush(self._warm, page)

    def _use(self, page: int) -> None:
        self._holders[page] = 1
        for slot in self._slots(page):
            self._users[slot] += 1
            if self._users[slot] == 1 and slot in self._idle:
                del self._idle[slot]  # its free pages are on offer already
            elif self._users[slot] == 1:
                for neighbour in self._touching(slot):
                    if not self._holders[neighbour]:
                        self._offer(neighbour)

    def _leave(self, page: int, keep_warm: bool) -> None:
        for slot in self._slots(page):
            self._users[slot] -= 1
            if self._users[slot] == 0 and keep_warm:
                self._idle[slot] = None
            elif self._users[slot] == 0:
                self._unmap(slot)
        self._offer(page)

    def _unmap(self, slot: int) -> int:
        return self._tensor.punch(slot * self._chunk_bytes, (slot + 1) * self._chunk_bytes)
