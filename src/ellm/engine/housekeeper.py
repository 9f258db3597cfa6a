"""What memory needs between two steps, so that a step waits for as little of it as can be.

    unmap        slots whose chunks were given back during the last step
    map ahead    the rows that decoding sequences will need within the next few tokens
    keep free    a little of the pool, so that the next arrival maps nothing away first
    copy down    prefixes that will have to make way, so that this costs nothing when it comes

Mapping ahead hides the driver behind steps that do not need it (eLLM, arXiv 2506.15155:
speculative pre-mapping); it takes free chunks only, and is the first thing to be given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from itertools import cycle

from ellm.core.config import ElasticPart
from ellm.core.errors import DriverError
from ellm.core.sequence import Sequence
from ellm.core.units import MIB
from ellm.engine.assembly import EngineMemory
from ellm.memory.metered import MeteredDriver

# Rows are mapped ahead once fewer than this many tokens of room are left.  Each step looks at every
# eighth sequence only: those that began together would all have their rows mapped in one step.
AHEAD_TOKENS = 32
AHEAD_STEPS = 8
# Most bytes that all sequences together have mapped ahead (eLLM stays below 50 MB).
MOST_AHEAD = 48 * MIB
# Warm ranges go, and nothing is mapped ahead, while less than this share of the pool is free
# (vAttention, arXiv 2405.04437).
LOW_WATER = 0.1
# This share of the pool is to be free, or held by kept prefixes that have copies below.
HIGH_WATER = 0.3


class Housekeeper:
    """Looks after one engine's memory between steps, and times the driver in both."""

    def __init__(self, memory: EngineMemory) -> None:
        self._memory = memory
        self._premaps = memory.config.uses(ElasticPart.PREMAP)
        self._turns = cycle(range(AHEAD_STEPS))

    def tidy(self, running: SequenceOf[Sequence]) -> None:
        """Do what can be done while nobody waits for it."""
        before = self._driver_seconds
        self._unmap(wait=False)
        self._memory.kv.relax(LOW_WATER)
        kept, pool = self._memory.kv.kept, self._memory.pool
        if kept is not None:
            kept.copy_down(int(HIGH_WATER * pool.total) - pool.free)
        if self._premaps:
            self._map_ahead(running[next(self._turns) :: AHEAD_STEPS])
        self._memory.kv.room.stats.tidy_driver.observe(self._driver_seconds - before)

    def settle(self) -> None:
        """Unmap all that waits, now."""
        self._unmap(wait=True)

    def _unmap(self, wait: bool) -> None:
        pool = self._memory.pool
        try:
            pool.unmaps.flush(wait)
        except DriverError as refusal:  # what is left goes on waiting
            pool.refusal = refusal

    @contextmanager
    def critical(self) -> Iterator[None]:
        """Time what the driver does while a step waits for it."""
        before = self._driver_seconds
        yield
        self._memory.kv.room.stats.critical_driver.observe(self._driver_seconds - before)

    def _map_ahead(self, running: Iterable[Sequence]) -> None:
        kv, pool = self._memory.kv, self._memory.pool
        ends = [
            (one.seq_id, min(one.computed + AHEAD_TOKENS, one.request.max_length))
            for one in running
            if one.uncomputed == 1
        ]
        short = [(seq_id, end, lack) for seq_id, end in ends if (lack := kv.lacks(seq_id, end))]
        # Of the last chunks free, the next prompt would take back what was mapped ahead.
        spare = pool.free - int(LOW_WATER * pool.total)
        if not short or spare <= 0:
            return  # most steps end here: to count what is ahead means asking every sequence
        most = min(MOST_AHEAD // pool.chunk_bytes - kv.ahead, spare)
        for seq_id, end, lack in short:
            if lack <= most and kv.premap(seq_id, end):
                most -= lack

    @property
    def _driver_seconds(self) -> float:
        driver = self._memory.pool.driver
        return driver.total if isinstance(driver, MeteredDriver) else 0.0
