"""Any driver, with the time of its calls added up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from ellm.core.clock import Clock
from ellm.memory.driver import Chunk, Driver, Span

Answer = TypeVar("Answer")


class MeteredDriver:
    """Passes every call on; `seconds` and `calls` are what they took, by the call's name."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self.inner = driver
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self.total = 0.0
        self._clock = clock

    @property
    def chunk_bytes(self) -> int:
        return self.inner.chunk_bytes

    def reserve(self, slots: int) -> Span:
        return self._time("reserve", lambda: self.inner.reserve(slots))

    def create(self, count: int) -> list[Chunk]:
        return self._time("create", lambda: self.inner.create(count))

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        self._time("map", lambda: self.inner.map(span, slot, chunks))

    def enlarge_pages(self, span: Span, slot: int, count: int) -> None:
        self.inner.enlarge_pages(span, slot, count)

    def unmap(self, span: Span, slot: int, count: int) -> None:
        self._time("unmap", lambda: self.inner.unmap(span, slot, count))

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        self._time("destroy", lambda: self.inner.destroy(chunks))

    def release(self, span: Span) -> None:
        self._time("release", lambda: self.inner.release(span))

    def copy(self, target: int, source: int, count: int) -> None:
        self._time("copy", lambda: self.inner.copy(target, source, count))

    def copy_in(self, target: int, data: bytes) -> None:
        self.inner.copy_in(target, data)

    def copy_out(self, source: int, count: int) -> bytes:
        return self.inner.copy_out(source, count)

    def physical_bytes(self) -> int:
        return self.inner.physical_bytes()

    def close(self) -> None:
        self.inner.close()

    def _time(self, name: str, call: Callable[[], Answer]) -> Answer:
        start = self._clock.now()
        try:
            return call()
        finally:
            spent = self._clock.now() - start
            self.seconds[name] += spent
            self.total += spent
            self.calls[name] += 1
