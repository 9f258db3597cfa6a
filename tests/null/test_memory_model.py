"""Pool and virtual tensors against a naive model, under random operations and refusals.

The model knows nothing of runs, warm chunks or drivers: a tensor is a dict from slot to box, a box
has an owner and maybe a stamp that was written into it, and who holds what is counted afresh each
time it is asked.  Unmapping is put off in some runs, and the model cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faulty import FaultyDriver
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ellm.core.errors import BudgetError, DriverError
from ellm.memory.driver import Chunk, Driver
from ellm.memory.drivers.host import HostDriver
from ellm.memory.drivers.null import NullDriver
from ellm.memory.pool import ChunkPool
from ellm.memory.unmapping import DeferredUnmaps
from ellm.memory.virtual import VirtualTensor

CHUNK = 4096
TOTAL = 12
SLOTS = 8
OWNERS = ("kv", "kv", "kv", "activations")

MOST = 16

DRIVERS: dict[str, Callable[[], Driver]] = {
    "null": lambda: NullDriver(MOST * CHUNK, CHUNK),
    "host": lambda: HostDriver(MOST * CHUNK, CHUNK),
}
which = st.integers(0, len(OWNERS) - 1)
place = st.integers(0, SLOTS * CHUNK)
counts = st.integers(0, TOTAL)


@dataclass(eq=False)
class Moment:
    """A fence that the device has passed when a rule says so, or when somebody waits for it."""

    done: bool = False

    def passed(self) -> bool:
        return self.done

    def wait(self) -> None:
        self.done = True


@dataclass(eq=False)
class Box:
    """One chunk, as the model sees it."""

    owner: str
    stamp: bytes | None = None


class Memory(RuleBasedStateMachine):
    @initialize(
        name=st.sampled_from(sorted(DRIVERS)),
        unmapping=st.sampled_from(["at once", "later", "behind fences"]),
    )
    def build(self, name: str, unmapping: str) -> None:
        self.driver = FaultyDriver(DRIVERS[name]())
        self.moments: list[Moment] = []
        fence = self.fence if unmapping == "behind fences" else None
        self.unmaps = DeferredUnmaps(self.driver, fence, at_once=unmapping == "at once")
        self.pool = ChunkPool(self.driver, TOTAL * CHUNK, self.unmaps)
        self.total = TOTAL
        kv, activations = self.driver.reserve(3 * SLOTS), self.driver.reserve(SLOTS)
        self.tensors = [VirtualTensor(self.pool, "kv", kv, i * SLOTS, SLOTS) for i in range(3)]
        self.tensors.append(VirtualTensor(self.pool, "activations", activations))
        self.behind: list[dict[int, Box]] = [{} for _ in OWNERS]
        self.loose: list[Chunk] = []
        self.floors: dict[str, int] = {}
        self.ceilings: dict[str, int | None] = {}
        self.stamps = 0

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.kind = ""
            for tensor in self.tensors:
                tensor.clear()
            self.pool.drop("weights", self.loose)
            assert self.pool.free == self.total
            self.pool.trim()
            assert not self.unmaps
            assert self.driver.physical_bytes() == 0
            self.driver.close()

    def fence(self) -> Moment:
        self.moments.append(Moment())
        return self.moments[-1]

    def boxes(self) -> set[Box]:
        return {box for slots in self.behind for box in slots.values()}

    def held(self, owner: str) -> int:
        loose = len(self.loose) if owner == "weights" else 0
        return loose + sum(box.owner == owner for box in self.boxes())

    def available(self, owner: str) -> int:
        owners = {*OWNERS, "weights"}
        free = self.total - sum(self.held(other) for other in owners)
        for other in owners - {owner}:
            free -= max(0, self.floors.get(other, 0) - self.held(other))
        ceiling = self.ceilings.get(owner)
        if ceiling is not None:
            free = min(free, ceiling - self.held(owner))
        return max(0, free)

    def attempt(self, action: Callable[[], Any]) -> tuple[Any, bool]:
        """What it returned, and whether the driver refused a call meanwhile.

        With unmapping put off a refused call may be tried again, so that both can be.
        """
        armed = self.driver.armed
        try:
            result = action()
        except DriverError:
            assert armed
            assert not self.driver.armed
            return None, True
        return result, armed and not self.driver.armed

    @rule(index=which, first=place, second=place)
    def cover(self, index: int, first: int, second: int) -> None:
        start, stop = sorted((first, second))
        slots = range(start // CHUNK, -(-stop // CHUNK)) if start < stop else range(0)
        holes = [slot for slot in slots if slot not in self.behind[index]]
        assert self.tensors[index].missing(start, stop) == len(holes)
        possible = len(holes) <= self.available(OWNERS[index])
        covered, refused = self.attempt(lambda: self.tensors[index].cover(start, stop))
        assert refused or covered == possible
        if covered:
            self.behind[index].update((slot, Box(OWNERS[index])) for slot in holes)

    @rule(index=which, first=place, second=place, to_end=st.booleans())
    def punch(self, index: int, first: int, second: int, to_end: bool) -> None:
        tensor, behind = self.tensors[index], self.behind[index]
        start, stop = (first, tensor.capacity) if to_end else sorted((first, second))
        slots = [s for s in sorted(behind) if start <= s * CHUNK and (s + 1) * CHUNK <= stop]
        before = self.boxes()
        if to_end:
            freed, refused = self.attempt(lambda: tensor.shrink(start))
        else:
            freed, refused = self.attempt(lambda: tensor.punch(start, stop))
        gone = [s for s in slots if tensor.missing(s * CHUNK, (s + 1) * CHUNK)]
        assert gone == slots[: len(gone)] if refused else gone == slots
        for slot in gone:
            del behind[slot]
        assert refused or freed == len(before - self.boxes())

    @rule(index=which, other=which, count=st.integers(0, SLOTS))
    def share(self, index: int, other: int, count: int) -> None:
        source, mine = self.behind[other], self.behind[index]
        count = min(count, next(s for s in range(SLOTS + 1) if s not in source))
        count = min([count, *mine])
        if index != other and OWNERS[index] == OWNERS[other]:
            mapped, _ = self.attempt(lambda: self.share_now(index, other, count))
            if mapped:
                mine.update((slot, source[slot]) for slot in range(count))

    def share_now(self, index: int, other: int, count: int) -> bool:
        self.tensors[index].share(self.tensors[other], count)
        return True

    @rule(index=which, slot=st.integers(0, SLOTS - 1))
    def write(self, index: int, slot: int) -> None:
        box = self.behind[index].get(slot)
        if box is not None:
            self.stamps += 1
            box.stamp = b"%8d" % self.stamps
            self.driver.copy_in(self.tensors[index].address + slot * CHUNK, box.stamp)

    @rule(count=counts)
    def take(self, count: int) -> None:
        possible = count <= self.available("weights")
        chunks, refused = self.attempt(lambda: self.pool.take("weights", count))
        if refused:
            assert chunks is None
        else:
            assert (chunks is not None) == possible
        self.loose += chunks or []

    @rule(count=counts)
    def drop(self, count: int) -> None:
        self.pool.drop("weights", self.loose[:count])
        del self.loose[:count]

    @rule()
    def trim(self) -> None:
        warm = self.pool.warm
        freed, refused = self.attempt(self.pool.trim)
        assert refused or (freed == warm * CHUNK and self.pool.warm == 0)

    @rule(total=st.integers(1, MOST))
    def resize(self, total: int) -> None:
        promised = sum(self.floors.values())
        try:
            self.attempt(lambda: self.pool.resize(total))
        except BudgetError:
            assert promised > total
        else:
            assert promised <= total
            self.total = total

    @rule(wait=st.booleans())
    def flush(self, wait: bool) -> None:
        waiting = len(self.unmaps)
        done, refused = self.attempt(lambda: self.unmaps.flush(wait))
        if not refused:
            assert len(self.unmaps) == waiting - done
            assert done == waiting or not wait

    @rule(count=st.integers(0, 3))
    def pass_fences(self, count: int) -> None:
        for moment in [moment for moment in self.moments if not moment.done][:count]:
            moment.done = True

    @rule(
        owner=st.sampled_from(("kv", "activations", "weights")),
        floor=counts,
        ceiling=st.none() | counts,
    )
    def limit(self, owner: str, floor: int, ceiling: int | None) -> None:
        others = sum(other for name, other in self.floors.items() if name != owner)
        try:
            self.pool.ledger.limit(owner, floor, ceiling)
        except BudgetError:
            assert floor + others > self.total or (ceiling is not None and ceiling < floor)
            return
        assert floor + others <= self.total
        self.floors[owner], self.ceilings[owner] = floor, ceiling

    @precondition(lambda self: not self.driver.armed)
    @rule(kind=st.sampled_from(("create", "map", "unmap", "destroy")), at=st.integers(1, 3))
    def refuse(self, kind: str, at: int) -> None:
        self.driver.arm(kind, at)

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check()
        for owner in ("kv", "activations", "weights"):
            assert self.pool.held(owner) == self.held(owner)
            assert self.pool.available(owner) == self.available(owner)
        for tensor, behind in zip(self.tensors, self.behind, strict=True):
            tensor.check()
            assert tensor.mapped == len(behind)
            for slot, box in behind.items():
                assert tensor.missing(slot * CHUNK, (slot + 1) * CHUNK) == 0
                uses = sum(box is b for slots in self.behind for b in slots.values())
                assert tensor.is_shared(slot) == (uses > 1)
                if box.stamp is not None:
                    assert self.driver.copy_out(tensor.address + slot * CHUNK, 8) == box.stamp


Memory.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestMemory = Memory.TestCase
