"""A driver that refuses one call of a chosen kind."""

from __future__ import annotations

from collections.abc import Sequence

from ellm.core.errors import DriverError
from ellm.memory.driver import Chunk, Driver, Span

KINDS = ("reserve", "create", "map", "unmap", "destroy", "release", "copy")


class FaultyDriver:
    """Passes calls on; after `arm(kind, n)` the n-th call of that kind is refused, once."""

    def __init__(self, driver: Driver) -> None:
        self.inner = driver
        self.kind = ""
        self.left = 0

    def arm(self, kind: str, at: int) -> None:
        self.kind, self.left = kind, at

    @property
    def armed(self) -> bool:
        """Whether the refusal is still to come."""
        return self.left > 0

    def _pass(self, kind: str) -> None:
        if kind == self.kind and self.left:
            self.left -= 1
            if not self.left:
                raise DriverError(f"{kind} refused by the test")

    @property
    def chunk_bytes(self) -> int:
        return self.inner.chunk_bytes

    def reserve(self, slots: int) -> Span:
        self._pass("reserve")
        return self.inner.reserve(slots)

    def create(self, count: int) -> list[Chunk]:
        self._pass("create")
        return self.inner.create(count)

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        self._pass("map")
        self.inner.map(span, slot, chunks)

    def enlarge_pages(self, span: Span, slot: int, count: int) -> None:
        self.inner.enlarge_pages(span, slot, count)

    def unmap(self, span: Span, slot: int, count: int) -> None:
        self._pass("unmap")
        self.inner.unmap(span, slot, count)

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        self._pass("destroy")
        self.inner.destroy(chunks)

    def release(self, span: Span) -> None:
        self._pass("release")
        self.inner.release(span)

    def copy(self, target: int, source: int, count: int) -> None:
        self._pass("copy")
        self.inner.copy(target, source, count)

    def copy_in(self, target: int, data: bytes) -> None:
        self.inner.copy_in(target, data)

    def copy_out(self, source: int, count: int) -> bytes:
        return self.inner.copy_out(source, count)

    def physical_bytes(self) -> int:
        return self.inner.physical_bytes()

    def close(self) -> None:
        self.inner.close()
