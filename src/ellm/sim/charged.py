"""Accounts of memory whose calls take virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ellm.memory.driver import Chunk, Span
from ellm.memory.drivers.null import NullDriver
from ellm.sim.devices.device import DriverCalls


class ChargedDriver(NullDriver):
    """A null driver whose calls let their seconds pass through `advance`, while it `charges`.

    The engine waits for every call, as it does for real ones: one between two steps is no shorter
    than one in a step, only fewer of them meet.  `charges` is off at first, since what an engine
    does to start is not serving.
    """

    def __init__(
        self, budget: int, chunk_bytes: int, calls: DriverCalls, advance: Callable[[float], None]
    ) -> None:
        super().__init__(budget, chunk_bytes)
        self.charges = False
        self._calls = calls
        self._advance = advance

    def create(self, count: int) -> list[Chunk]:
        chunks = super().create(count)
        self._pass(0.0, self._calls.create, count)
        return chunks

    def map(self, span: Span, slot: int, chunks: Sequence[Chunk]) -> None:
        super().map(span, slot, chunks)
        self._pass(self._calls.map_run, self._calls.map_chunk, len(chunks))

    def unmap(self, span: Span, slot: int, count: int) -> None:
        super().unmap(span, slot, count)
        self._pass(self._calls.unmap_run, self._calls.unmap_chunk, count)

    def destroy(self, chunks: Sequence[Chunk]) -> None:
        super().destroy(chunks)
        self._pass(0.0, self._calls.destroy, len(chunks))

    def _pass(self, run: float, chunk: float, count: int) -> None:
        if self.charges and count:
            self._advance(run + chunk * count)
