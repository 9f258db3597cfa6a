"""Every sequence as a list of pages (PagedAttention, arXiv 2309.06180).

A page holds `block_size` tokens of every layer, one group after another:

    page     group 0: rows of block_size tokens │ group 1: rows … │ …

so that the arena's address arithmetic (core/layers.py) is the same as for the contiguous layout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ellm.core.errors import DriverError
from ellm.core.layers import KvArena, KvTable
from ellm.core.units import ceil_div
from ellm.kv.geometry import KvGeometry
from ellm.kv.pages import PageAllocator
from ellm.kv.store import Extent
from ellm.memory.driver import Span
from ellm.memory.pool import ChunkPool

_NO_PAGES = KvTable((), 1)


@dataclass(slots=True, eq=False)
class PagedHolding:
    """Pages in token order; those beyond what `tokens` need are mapped ahead.

    `table` is that of as many pages as it has starts.
    """

    pages: list[int] = field(default_factory=list)
    tokens: int = 0
    table: KvTable = _NO_PAGES


class PagedStore:
    """Holdings of pages of `block_size` tokens, twice as many as the whole pool could back.

    So when memory is full there are still free pages, and `missing` says how many chunks they lack.
    """

    def __init__(
        self,
        pool: ChunkPool,
        geometry: KvGeometry,
        block_size: int,
        owner: str = "kv",
        keep_warm: bool = False,
    ) -> None:
        self._pool = pool
        self._owner = owner
        self._geometry = geometry
        self._block = block_size
        page_bytes = block_size * geometry.token_bytes
        pages = 2 * max(1, pool.total * pool.chunk_bytes // page_bytes)
        self._pages = PageAllocator(pool, page_bytes, pages, owner, keep_warm)
        self._page_rows = geometry.groups * block_size
        self._open: set[PagedHolding] = set()
        self._arena = KvArena(
            address=self._pages.address,
            rows=pages * self._page_rows,
            row_bytes=geometry.row_bytes,
            group_rows=block_size,
            layers_per_group=geometry.layers_per_group,
            layer=geometry.layer,
        )

    @property
    def arena(self) -> KvArena:
        return self._arena

    @property
    def token_bytes(self) -> int:
        return self._geometry.token_bytes

    @property
    def warm(self) -> int:
        return self._pages.warm_chunks

    @property
    def span(self) -> Span:
        return self._pages.span

    def open(self, tokens: int = 0) -> PagedHolding | None:
        holding = PagedHolding()
        self._open.add(holding)
        return holding

    def _pages_for(self, holding: PagedHolding, tokens: int) -> int:
        return max(0, ceil_div(tokens, self._block) - len(holding.pages))

    def missing(self, holding: PagedHolding, tokens: int) -> int:
        chunks = self._pages.missing(self._pages_for(holding, tokens))
        # More pages than exist need more chunks than exist.
        return self._pool.total + 1 if chunks is None else chunks

    def extend(self, holding: PagedHolding, tokens: int) -> bool:
        if not self.premap(holding, tokens):
            return False
        holding.tokens = max(tokens, holding.tokens)
        return True

    def within(self, holding: PagedHolding, tokens: int) -> KvTable | None:
        if tokens > len(holding.pages) * self._block:
            return None
        holding.tokens = max(tokens, holding.tokens)
        return self.table(holding)

    def premap(self, holding: PagedHolding, tokens: int) -> bool:
        more = self._pages_for(holding, tokens)
        if not more:
            return True
        if self.missing(holding, tokens) > self._pool.available(self._owner):
            return False
        pages = self._pages.take(more)
        if pages is None:
            return False
        holding.pages += pages
        return True

    def trim(self, holding: PagedHolding, tokens: int) -> int:
        holding.tokens = min(tokens, holding.tokens)
        keep = ceil_div(holding.tokens, self._block)
        before = self._pool.free
        dropped = holding.pages[keep:]
        del holding.pages[keep:]
        self._pages.drop(dropped, cool=True)
        return self._pool.free - before

    def reclaim(self, count: int) -> int:
        return self._pages.reclaim(count)

    def missing_for_fork(self, holding: PagedHolding, tokens: int) -> int:
        if tokens % self._block == 0:
            return 0
        chunks = self._pages.missing(1)
        return self._pool.total + 1 if chunks is None else chunks

    def fork(self, holding: PagedHolding, tokens: int) -> PagedHolding | None:
        assert tokens <= holding.tokens, (tokens, holding.tokens)
        whole, rest = divmod(tokens, self._block)
        tail = self._pages.take(1) if rest else []
        if tail is None:
            return None
        if tail and not self._copy_rows(holding.pages[whole], tail[0], rest):
            self._pages.drop(tail)
            return None
        shared = holding.pages[:whole]
        self._pages.retain(shared)
        child = PagedHolding(shared + tail, tokens)
        self._open.add(child)
        return child

    def _copy_rows(self, source: int, target: int, tokens: int) -> bool:
        """Copy the first `tokens` tokens of a page, group by group; False if that is refused."""
        base, size = self._pages.address, self._pages.page_bytes
        group_bytes = self._block * self._geometry.row_bytes
        try:
            for group in range(self._geometry.groups):
                offset = group * group_bytes
                self._pool.driver.copy(
                    base + target * size + offset,
                    base + source * size + offset,
                    tokens * self._geometry.row_bytes,
                )
        except DriverError as refusal:
            self._pool.refusal = refusal
            return False
        return True

    def close(self, holding: PagedHolding) -> None:
        self._open.remove(holding)
        self._pages.drop(holding.pages)

    def table(self, holding: PagedHolding) -> KvTable:
        count = ceil_div(holding.tokens, self._block)
        # Pages in front are never replaced, so the number tells whether they are the same.
        if len(holding.table.starts) != count:
            starts = tuple(page * self._page_rows for page in holding.pages[:count])
            holding.table = KvTable(starts, self._block)
        return holding.table

    def extents(self, holding: PagedHolding, tokens: int) -> list[Extent]:
        assert tokens <= holding.tokens, (tokens, holding.tokens)
        row, group_bytes = self._geometry.row_bytes, self._block * self._geometry.row_bytes
        out = []
        for index in range(ceil_div(tokens, self._block)):
            filled = min(self._block, tokens - index * self._block)
            start = self._pages.address + holding.pages[index] * self._pages.page_bytes
            out += [
                (start + group * group_bytes, filled * row)
                for group in range(self._geometry.groups)
            ]
        return out

    def pieces(self, holding: PagedHolding, tokens: int, of: int) -> list[tuple[int, list[Extent]]]:
        assert tokens == of or tokens % self._block == 0, (tokens, of, self._block)
        return [(0, self.extents(holding, tokens))]

    def gathers(self, tokens: int) -> bool:
        return tokens > self._block

    def tokens(self, holding: PagedHolding) -> int:
        return holding.tokens

    def room(self, holding: PagedHolding) -> int:
        return len(holding.pages) * self._block

    def wasted_bytes(self) -> int:
        mapped = (self._pages.mapped_chunks - self.warm) * self._pool.chunk_bytes
        tails = sum(len(h.pages) * self._block - h.tokens for h in self._open)
        return (
            mapped - self._pages.used * self._pages.page_bytes + tails * self._geometry.token_bytes
        )

    def chunks_alone(self, tokens: int) -> int:
        pages = ceil_div(tokens, self._block)
        return ceil_div(pages * self._pages.page_bytes, self._pool.chunk_bytes)

    def check(self) -> None:
        self._pages.check()
        held = {page for holding in self._open for page in holding.pages}
        assert len(held) == self._pages.used, (len(held), self._pages.used)
        for holding in self._open:
            assert len(holding.pages) >= ceil_div(holding.tokens, self._block)
