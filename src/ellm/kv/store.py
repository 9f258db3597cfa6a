"""What a KV layout must be able to do for a manager."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from ellm.core.layers import KvArena, KvTable
from ellm.memory.driver import Span

Holding = TypeVar("Holding")
Extent = tuple[int, int]
"""Address and bytes of mapped memory."""


class KvStore(Protocol, Generic[Holding]):
    """Rows of the arena, given out as *holdings*: what one sequence has.

        tokens   │ used ···············│
        room     │ mapped ···············────│        rows beyond `tokens` are mapped ahead

    `extend`, `premap` and `fork` are all or nothing; `False` and `None` mean not now.  Rows in
    front of a holding's end are never moved, and rows that two holdings share are never written
    again.  What an ended holding had may stay mapped, *warm*, for the next one.
    """

    @property
    def arena(self) -> KvArena: ...

    @property
    def token_bytes(self) -> int:
        """KV bytes of one token over all layers."""
        ...

    @property
    def warm(self) -> int:
        """Chunks mapped for no holding."""
        ...

    @property
    def span(self) -> Span:
        """The addresses of the arena."""
        ...

    def open(self, tokens: int = 0) -> Holding | None:
        """An empty holding, over warm memory that suits `tokens` tokens where there is some.

        None when every address slot is taken.
        """
        ...

    def missing(self, holding: Holding, tokens: int) -> int:
        """Chunks that `extend(holding, tokens)` would take from the pool."""
        ...

    def extend(self, holding: Holding, tokens: int) -> bool:
        """Give `holding` rows for at least `tokens` tokens in all."""
        ...

    def within(self, holding: Holding, tokens: int) -> KvTable | None:
        """As `extend`, in rows that are mapped already, with their table; None if some are not."""
        ...

    def premap(self, holding: Holding, tokens: int) -> bool:
        """Map rows for `tokens` tokens in all, which are not used yet."""
        ...

    def trim(self, holding: Holding, tokens: int) -> int:
        """Keep the first `tokens` tokens at most, and no room beyond; chunks that became free."""
        ...

    def reclaim(self, count: int) -> int:
        """Give warm chunks back, longest unused first, until `count` are free; how many became."""
        ...

    def missing_for_fork(self, holding: Holding, tokens: int) -> int:
        """At most how many chunks `fork(holding, tokens)` would take from the pool."""
        ...

    def fork(self, holding: Holding, tokens: int) -> Holding | None:
        """A new holding whose first `tokens` rows hold the same bytes.

        Whole units are shared by mapping; the partly filled last one is copied, because its
        remaining rows will be written by both.
        """
        ...

    def close(self, holding: Holding) -> None:
        """The holding has ended.  What nobody shares is free, or warm."""
        ...

    def table(self, holding: Holding) -> KvTable: ...

    def extents(self, holding: Holding, tokens: int) -> list[Extent]:
        """Where the first `tokens` tokens' bytes are, in an order that depends on nothing else."""
        ...

    def pieces(self, holding: Holding, tokens: int, of: int) -> list[tuple[int, list[Extent]]]:
        """Where the first `tokens` tokens lie in bytes copied from `of` tokens' extents.

        Offsets in those bytes, and the extents of `holding` that belong there, in that order.
        """
        ...

    def gathers(self, tokens: int) -> bool:
        """Whether that many tokens may lie in more than one run of rows."""
        ...

    def tokens(self, holding: Holding) -> int:
        """Tokens the holding has rows for."""
        ...

    def room(self, holding: Holding) -> int:
        """Tokens for which rows are mapped."""
        ...

    def wasted_bytes(self) -> int:
        """Bytes of chunks, warm ones left out, that belong to no row of any holding."""
        ...

    def chunks_alone(self, tokens: int) -> int:
        """Chunks that `tokens` tokens need when nothing else is held."""
        ...

    def check(self) -> None:
        """Assert that the books balance."""
        ...


class LayeredStore(KvStore[Holding], Protocol[Holding]):
    """A store whose groups of layers can be mapped each for itself (kv/layered.py)."""

    @property
    def groups(self) -> int: ...

    @property
    def layers_per_group(self) -> int: ...

    @property
    def row_bytes(self) -> int:
        """Bytes of one token in one group."""
        ...

    def open_layered(self) -> Holding | None:
        """A holding whose groups are mapped one by one; None when every address slot is taken."""
        ...

    def mapped_chunks(self, holding: Holding) -> int:
        """Chunks behind all groups of a layered holding."""
        ...

    def chunks_in_group(self, tokens: int) -> int:
        """Chunks that one group's rows of so many tokens take."""
        ...

    def missing_in_group(self, holding: Holding, group: int, tokens: int) -> int:
        """Chunks that `cover_group` would take."""
        ...

    def cover_group(self, holding: Holding, group: int, tokens: int) -> bool:
        """Map one group's rows of the first `tokens` tokens; False, and no change, if not now."""
        ...

    def drop_group(self, holding: Holding, group: int) -> int:
        """Give one group's rows up; how many chunks became free."""
        ...

    def group_extents(self, holding: Holding, group: int, first: int, last: int) -> list[Extent]:
        """Where one group's rows of tokens `first` to `last` (exclusive) are."""
        ...

    def complete(self, holding: Holding, tokens: int) -> None:
        """Every group of a layered holding has rows for `tokens` tokens: it is like any other."""
        ...
