"""The only owner of physical chunks.

    total   │ held by owners ······│ warm ···│ never created, or trimmed ···│
    created │←── real memory ──────────────→│
    free                           │←─────────────────────────────────────→│

A chunk that its last holder drops stays real memory, *warm*, so that the next taker pays nothing;
`trim` gives warm chunks back to the machine.  With deferred unmapping a warm chunk may still be
mapped where it was.  Nothing here is locked: one thread at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ellm.core.errors import BudgetError, DriverError
from ellm.core.units import format_bytes
from ellm.memory.driver import Chunk, Driver
from ellm.memory.ledger import Ledger
from ellm.memory.runs import RunSet
from ellm.memory.unmapping import DeferredUnmaps
from ellm.obs.snapshot import MemorySnapshot


class ChunkPool:
    """`budget` bytes of chunks, handed out to owners by name and counted by holder.

    A chunk has one owner, who is charged for it once, and one holder for each range it is mapped
    in.  `refusal` is the machine's last reason for not giving a chunk that the budget allows, or
    not taking one back.  `unmaps` puts unmapping off to a safe point; None makes one that does not.
    """

    def __init__(self, driver: Driver, budget: int, unmaps: DeferredUnmaps | None = None) -> None:
        self.driver = driver
        self.unmaps = DeferredUnmaps(driver, at_once=True) if unmaps is None else unmaps
        self.chunk_bytes = driver.chunk_bytes
        total = budget // driver.chunk_bytes
        if total < 1:
            raise BudgetError(
                f"a budget of {format_bytes(budget)} holds no chunk of "
                f"{format_bytes(self.chunk_bytes)}: raise --memory"
            )
        self.ledger = Ledger(total)
        self.refusal: DriverError | None = None
        self._warm = RunSet()
        self._owners: dict[Chunk, str] = {}
        self._holders: dict[Chunk, int] = {}

    @property
    def total(self) -> int:
        """Chunks there may be."""
        return self.ledger.total

    @property
    def free(self) -> int:
        """Chunks no owner holds; negative after the budget was lowered below what is held."""
        return self.ledger.free

    @property
    def warm(self) -> int:
        """Free chunks that are still real memory."""
        return len(self._warm)

    def held(self, owner: str) -> int:
        return self.ledger.held(owner)

    def holders(self, chunk: Chunk) -> int:
        """How many hold `chunk`; 0 when it is free."""
        return self._holders.get(chunk, 0)

    def available(self, owner: str) -> int:
        """Most chunks that `owner` could take now, if the machine has them."""
        return self.ledger.available(owner)

    def take(self, owner: str, count: int) -> list[Chunk] | None:
        """`count` chunks for `owner`, held once, contents undefined; None if not now.

        Warm chunks come first; neighbours come together.  None also when the machine has less
        than the budget says: `refusal` then tells why.
        """
        if count > self.ledger.available(owner):
            return None
        fresh = max(0, count - len(self._warm))
        chunks: list[Chunk] = []
        if fresh:
            try:
                chunks = self.driver.create(fresh)
            except DriverError as refusal:
                self.refusal = refusal
                return None
        chunks = [Chunk(number) for number in self._warm.take(count - fresh)] + chunks
        self.ledger.charge(owner, count)
        self._owners.update(dict.fromkeys(chunks, owner))
        self._holders.update(dict.fromkeys(chunks, 1))
        return chunks

    def retain(self, chunks: Iterable[Chunk]) -> None:
        """One more holder of each chunk, all of which are held."""
        for chunk in chunks:
            self._holders[chunk] += 1

    def drop(self, owner: str, chunks: Sequence[Chunk]) -> None:
        """One holder less of each chunk, all of which are `owner`'s; at zero it is free."""
        freed = []
        for chunk in chunks:
            assert self._owners.get(chunk) == owner, (chunk, owner, self._owners.get(chunk))
            self._holders[chunk] -= 1
            if not self._holders[chunk]:
                del self._holders[chunk], self._owners[chunk]
                freed.append(chunk)
        self._warm.add(freed)
        self.ledger.refund(owner, len(freed))
        self._keep_to_total()

    def resize(self, total: int) -> None:
        """Let there be `total` chunks from now on, at least 1.

        Warm chunks beyond it go back to the machine.  Owners keep what they hold: the caller sees
        to it that enough is given back for `free` not to stay negative.  The driver must be able
        to hold that many.  Raises BudgetError, changing nothing, when floors no longer fit.
        """
        assert total >= 1, total
        if self.ledger.promised > total:
            floors, room = (
                format_bytes(n * self.chunk_bytes) for n in (self.ledger.promised, total)
            )
            raise BudgetError(
                f"{floors} are promised as floors, and the budget would be {room}: lower the "
                "floors first"
            )
        self.ledger.resize(total)
        self._keep_to_total()

    def trim(self) -> int:
        """Give every warm chunk back to the machine; how many bytes that was.

        When the machine does not take them they stay warm, `refusal` tells why, and the next call
        tries again.
        """
        try:
            return self._cool(0) * self.chunk_bytes
        except DriverError as refusal:
            self.refusal = refusal
            return 0

    def _keep_to_total(self) -> None:
        """Give warm chunks beyond the total back; when the machine refuses, at the next drop."""
        try:
            self._cool(max(0, self.free))
        except DriverError as refusal:
            self.refusal = refusal

    def _cool(self, most: int) -> int:
        """Give warm chunks back until there are at most `most`; how many that were."""
        if self.warm <= most:
            return 0
        self.unmaps.flush()
        chunks = [Chunk(number) for number in self._warm.take(self.warm - most)]
        try:
            self.driver.destroy(chunks)
        except DriverError:
            self._warm.add(chunks)
            raise
        return len(chunks)

    def snapshot(self) -> MemorySnapshot:
        return MemorySnapshot(
            chunk_bytes=self.chunk_bytes,
            total=self.total,
            free=self.free,
            warm=self.warm,
            held=self.ledger.holdings(),
            physical_bytes=self.driver.physical_bytes(),
        )

    def check(self) -> None:
        """The books balance, and the machine's own count agrees with them."""
        self.ledger.check()
        charged = Counter(self._owners.values())
        assert {o: n for o, n in self.ledger.holdings().items() if n} == charged, charged
        assert self._owners.keys() == self._holders.keys()
        assert all(count > 0 for count in self._holders.values())
        warm = {Chunk(c) for start, stop in self._warm.runs() for c in range(start, stop)}
        assert len(warm) == len(self._warm), (len(warm), len(self._warm))
        assert len(warm) <= max(0, self.free) or self.refusal, (len(warm), self.free)
        assert warm.isdisjoint(self._owners), warm & self._owners.keys()
        created = (len(warm) + len(self._owners)) * self.chunk_bytes
        assert self.driver.physical_bytes() == created, (self.driver.physical_bytes(), created)
