"""What a KV layout must be able to do for a manager."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from ellm.core.layers import KvArena, KvTable

Holding = TypeVar("Holding")


class KvStore(Protocol, Generic[Holding]):
    """Rows of the arena, given out as *holdings*: what one sequence has.

    `extend` and `fork` are all or nothing; `False` and `None` mean not now.  Rows in front of a
    holding's end are never moved, and rows that two holdings share are never written again.
    """

    @property
    def arena(self) -> KvArena: ...

    def open(self) -> Holding | None:
        """An empty holding; None when every address slot is taken."""
        ...

    def missing(self, holding: Holding, tokens: int) -> int:
        """Chunks that `extend(holding, tokens)` would take from the pool."""
        ...

    def extend(self, holding: Holding, tokens: int) -> bool:
        """Give `holding` rows for at least `tokens` tokens in all."""
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
        """Give everything back; what nobody shares is free at once."""
        ...

    def table(self, holding: Holding) -> KvTable: ...

    def gathers(self, tokens: int) -> bool:
        """Whether that many tokens may lie in more than one run of rows."""
        ...

    def tokens(self, holding: Holding) -> int:
        """Tokens the holding has rows for."""
        ...

    def wasted_bytes(self) -> int:
        """Bytes of mapped chunks that belong to no row of any holding."""
        ...

    def chunks_alone(self, tokens: int) -> int:
        """Chunks that `tokens` tokens need when nothing else is held."""
        ...

    def check(self) -> None:
        """Assert that the books balance."""
        ...
