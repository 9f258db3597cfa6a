"""An allocator that makes one address range out of whatever chunks are free (GMLake).

After "GMLake: Efficient and Transparent GPU Memory Defragmentation for Large-scale DNN Training
with Virtual Memory Stitching" (arXiv 2401.08156), section 4.  A request for memory climbs this
ladder and stops at the first rung that holds; nothing is ever copied or moved:

    S1  exact      a free block, or an idle stitch, of just this size
    S2  split      the smallest free block that is larger, cut in two
        reuse      an idle stitch that is larger, from its beginning
    S3  stitch     free blocks, each too small, mapped a second time side by side
    S4  grow       the chunks that are missing are created; then S2 or S3
    S5  none       wait for what other streams still use, once; then None

Three things differ from the paper.  Its primitive blocks are whole chunks; here every chunk has a
home, one range whose blocks are cut to 512 bytes, so that a chunk may end one tensor and begin the
next, and a stitch may begin in the middle of a chunk and end in the middle of another.  Whole free
chunks serve any size, so cached blocks need not be released to make room.  And a longer stitch
costs its user nothing: the chunks beyond what is asked stay free.

Up to half a chunk is small change: it goes where small change is already, or into what larger
allocations left over of a chunk, before another chunk is broken for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ellm.core.errors import DriverError
from ellm.core.units import round_up
from ellm.memory.blocks import GRAIN, Block, BlockState, HomeRange
from ellm.memory.fences import Fence, Fences
from ellm.memory.fragments import body, gather
from ellm.memory.pool import ChunkPool
from ellm.memory.runs import adjacent_runs
from ellm.memory.stitches import Stitch, Stitches

# A longer idle stitch than this is not looked at: it may serve someone larger.
_REUSE_LIMIT = 10


class Rung(Enum):
    """Which rung of the ladder an allocation ended on."""

    EXACT = "exact"
    SPLIT = "split"
    REUSE = "reuse"
    STITCH = "stitch"
    GROW = "grow"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Held:
    """Home blocks in use, at `address` at home or through a stitch."""

    address: int
    blocks: tuple[Block, ...]
    stitch: Stitch | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was handed out for `size` bytes on `stream`, and which other streams use it too."""

    size: int
    stream: int | None
    held: Held
    users: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class AllocatorStats:
    """An allocator's past and present, in bytes.

    Active is what was asked for and is not free again; reserved are the chunks held.  `rungs`
    counts allocations by the last rung they needed.
    """

    active: int
    peak_active: int
    reserved: int
    peak_reserved: int
    rungs: Mapping[Rung, int]
    stitches_made: int

    @property
    def fragmentation(self) -> float:
        """1 - peak active / peak reserved, as the paper defines it; 0 before the first use."""
        return 1 - self.peak_active / self.peak_reserved if self.peak_reserved else 0.0


class StitchingAllocator:
    """Memory of any size out of the chunks of `pool` that `owner` may hold.

    `fence(stream)` records a mark behind all work queued on a stream; None means that memory is
    not touched any more when it is freed, as on the host.  `stitched_slots` bounds the mappings
    kept beyond the first of each chunk; None is twice the pool.  One thread at a time.
    """

    def __init__(
        self,
        pool: ChunkPool,
        owner: str,
        *,
        fence: Callable[[int], Fence] | None = None,
        stitched_slots: int | None = None,
    ) -> None:
        self.pool = pool
        self.refusal: DriverError | None = None
        self._chunk = pool.chunk_bytes
        self._small = pool.chunk_bytes // 2
        self._fences = Fences(fence)
        self.home = HomeRange(pool, owner)
        limit = 2 * pool.total if stitched_slots is None else stitched_slots
        self.stitches = Stitches(self.home, self._fences, limit)
        self._allocations: dict[int, Allocation] = {}
        # Freed, but another stream uses it until the epoch beside it has passed.
        self._lingering: list[tuple[Allocation, list[tuple[int, int]]]] = []
        self._active = self._peak_active = self._peak_reserved = 0
        self._rungs: Counter[Rung] = Counter()

    @property
    def reserved(self) -> int:
        """Bytes of the chunks held."""
        return self.home.held * self._chunk

    @property
    def stats(self) -> AllocatorStats:
        return AllocatorStats(
            active=self._active,
            peak_active=self._peak_active,
            reserved=self.reserved,
            peak_reserved=self._peak_reserved,
            rungs=dict(self._rungs),
            stitches_made=self.stitches.made,
        )

    def allocate(self, size: int, stream: int = 0) -> int | None:
        """Address of at least `size` bytes for work on `stream`; None if not now.

        None also when the machine has less than the pool's budget says: `refusal` then tells why.
        """
        assert size > 0, size
        owner = self._fences.stream(stream)
        rung, held = Rung.NONE, None
        for wait in (False, True):
            try:
                if wait and not self._await_others(owner):
                    break
                self._settle()
                rung, held = self._climb(round_up(size, GRAIN), owner)
            except DriverError as refusal:
                self.refusal = refusal
            if held is not None:
                break
        return self._enter(rung, held, size, owner)

    def note_use(self, address: int, stream: int) -> None:
        """Work on `stream` uses an allocation too: when freed, it is kept until that is done."""
        allocation, user = self._allocations[address], self._fences.stream(stream)
        if user is not None and user != allocation.stream:
            allocation.users.add(user)

    def free(self, address: int) -> None:
        """Take back what `allocate` returned, while work queued on its stream may still use it."""
        allocation = self._allocations.pop(address)
        if allocation.users:
            ends = [(user, self._fences.now(user)) for user in sorted(allocation.users)]
            self._lingering.append((allocation, ends))
            self._settle()
        else:
            self._give_back(allocation)

    def size_of(self, address: int) -> int | None:
        """Bytes asked for at an address that was handed out; None for any other."""
        allocation = self._allocations.get(address)
        return None if allocation is None else allocation.size

    def trim(self) -> int:
        """Give whole free chunks that no work can touch any more to the pool; how many.

        Raises DriverError if the machine cannot unmap some; the books hold.
        """
        self._settle()
        streams = self.home.streams()
        if len(streams) > 1:
            self._poll_others(next(iter(streams)))
        runs = [body(b, self._chunk) for b in self.home.blocks() if self._is_idle(b)]
        wanted = {slot for first, last in runs for slot in range(first, last)}
        idle, pinned = self.stitches.over(wanted)
        for stitch in idle:
            if self._fences.passed(stitch.stream, stitch.epoch):
                self.stitches.unmake(stitch)
            else:
                pinned |= stitch.slots()
        for first, last in adjacent_runs(sorted(wanted - pinned)):
            self.home.empty(first, last)
        return len(wanted - pinned)

    def close(self) -> None:
        """Give everything back to the pool; nothing may be allocated."""
        assert not self._allocations, self._allocations
        self._await_lingering()
        for stream in self.home.streams():
            self._fences.wait(stream, self._fences.now(stream))
        self.stitches.close()
        self.trim()
        self.home.close()
        self._fences.close()

    def check(self) -> None:
        """The books balance.

        Every used home block belongs to one allocation, which holds as many bytes as it asked
        for, rounded up; a stitch in use shows just the blocks of its allocation, in order.
        """
        self.home.check()
        taken = [*self._allocations.values(), *(lingers for lingers, _ in self._lingering)]
        held = [allocation.held for allocation in taken]
        used = [block for block in self.home.blocks() if block.state is BlockState.USED]
        assert {id(b) for h in held for b in h.blocks} == {id(b) for b in used}, (held, used)
        assert sum(len(h.blocks) for h in held) == len(used), (held, used)
        stitched = [h.stitch for h in held if h.stitch is not None]
        assert len(set(stitched)) == len(stitched), stitched
        self.stitches.check(set(stitched))
        for address, allocation in self._allocations.items():
            mine, need = allocation.held, round_up(allocation.size, GRAIN)
            assert sum(block.size for block in mine.blocks) == need, allocation
            assert address == mine.address, (address, mine)
            if mine.stitch is None:
                (block,) = mine.blocks
                assert address == self.home.address(block), (address, block)
            else:
                assert address == mine.stitch.address, (address, mine)
                shown = [(block.start, block.stop) for block in mine.blocks]
                assert mine.stitch.prefix(need) == shown, mine
        assert self._active == sum(allocation.size for allocation in taken)
        assert self._active <= self.reserved <= self._peak_reserved
        assert self._active <= self._peak_active <= self._peak_reserved

    def _climb(self, need: int, stream: int | None) -> tuple[Rung, Held | None]:
        """The first rung that holds, and what was taken there."""
        if need <= self._small:
            small = self._take_small(need, stream)
            if small is not None:
                return small
        found = self._fit(need, stream) or self._stitch(need, stream)
        if found is None and self._poll_others(stream):
            found = self._fit(need, stream) or self._stitch(need, stream)
        if found is not None:
            return found
        _, missing = gather(self.home.free_blocks(stream), need, self._chunk)
        if not self._grow(missing, stream):
            return Rung.NONE, None
        block = self.home.best_fit(need, stream)
        if block is not None:
            return Rung.GROW, self._at_home(block, need)
        found = self._stitch(need, stream)
        assert found is not None, (need, missing)
        return Rung.GROW, found[1]

    def _fit(self, need: int, stream: int | None) -> tuple[Rung, Held] | None:
        """An existing range: a free block or an idle stitch, exact before larger."""
        block = self.home.best_fit(need, stream)
        if block is not None and block.size == need:
            return Rung.EXACT, self._at_home(block, need)
        stitch = self.stitches.find(need, stream, need + self._chunk - 1)
        if stitch is not None:
            return Rung.EXACT, self._through(stitch, need)
        if block is not None:
            return Rung.SPLIT, self._at_home(block, need)
        stitch = self.stitches.find(need, stream, _REUSE_LIMIT * need)
        if stitch is not None:
            return Rung.REUSE, self._through(stitch, need)
        return None

    def _stitch(self, need: int, stream: int | None) -> tuple[Rung, Held] | None:
        """A new range over free blocks; None if they do not suffice."""
        pieces, missing = gather(self.home.free_blocks(stream), need, self._chunk)
        if missing:
            return None
        stitch = self.stitches.make(pieces)
        blocks = tuple(self.home.use(*piece) for piece in pieces)
        return Rung.STITCH, Held(stitch.address, blocks, stitch)

    def _take_small(self, need: int, stream: int | None) -> tuple[Rung, Held] | None:
        """Small change: part of a chunk that is kept for it, or of one more such chunk."""
        block = self.home.best_fit(need, stream, small=True)
        if block is not None:
            rung = Rung.EXACT if block.size == need else Rung.SPLIT
            return rung, self._at_home(block, need)
        block = self.home.best_fit(need, stream)
        if block is not None and block.size < self._chunk:
            return Rung.SPLIT, self._at_home(block, need)
        rung = Rung.SPLIT
        slot = self._loose_chunk(stream)
        if slot is None:
            if not self._grow(1, stream):
                return None
            rung, slot = Rung.GROW, self._loose_chunk(stream)
            assert slot is not None
        self.home.break_chunk(slot)
        block = self.home.best_fit(need, stream, small=True)
        assert block is not None
        return rung, self._at_home(block, need)

    def _loose_chunk(self, stream: int | None) -> int | None:
        """A whole free chunk, of the block that has fewest."""
        bodies = [body(block, self._chunk) for block in self.home.free_blocks(stream)]
        some = [(last - first, first) for first, last in bodies if first < last]
        return min(some)[1] if some else None

    def _at_home(self, block: Block, need: int) -> Held:
        used = self.home.use(block.start, block.start + need)
        return Held(self.home.address(used), (used,))

    def _through(self, stitch: Stitch, need: int) -> Held:
        self.stitches.use(stitch)
        blocks = tuple(self.home.use(*piece) for piece in stitch.prefix(need))
        return Held(stitch.address, blocks, stitch)

    def _enter(self, rung: Rung, held: Held | None, size: int, stream: int | None) -> int | None:
        self._rungs[rung] += 1
        self._peak_reserved = max(self._peak_reserved, self.reserved)
        if held is None:
            return None
        self._allocations[held.address] = Allocation(size, stream, held)
        self._active += size
        self._peak_active = max(self._peak_active, self._active)
        return held.address

    def _grow(self, count: int, stream: int | None) -> bool:
        if self.home.grow(count, stream):
            return True
        self.refusal = self.pool.refusal or self.refusal
        return False

    def _poll_others(self, stream: int | None) -> bool:
        """Take over what other streams are done with; whether there was any."""
        return stream is not None and self.home.hand_over(self._fences.passed, stream)

    def _await_others(self, stream: int | None) -> bool:
        """Take over all that other streams used and was freed, once they are done; whether any."""
        lingered = self._await_lingering()
        for other in self.home.streams() - {stream}:
            self._fences.wait(other, self._fences.now(other))
        return self._poll_others(stream) or lingered

    def _settle(self) -> None:
        """Give back what no other stream uses any more."""
        done = [
            pair for pair in self._lingering if all(self._fences.passed(*end) for end in pair[1])
        ]
        for pair in done:
            self._lingering.remove(pair)
            self._give_back(pair[0])

    def _await_lingering(self) -> bool:
        """The same after waiting; whether there was anything."""
        lingered = bool(self._lingering)
        for _, ends in self._lingering:
            for end in ends:
                self._fences.wait(*end)
        self._settle()
        return lingered

    def _give_back(self, allocation: Allocation) -> None:
        stream, epoch = allocation.stream, self._fences.now(allocation.stream)
        for block in allocation.held.blocks:
            self.home.give(block, stream, epoch)
        if allocation.held.stitch is not None:
            self.stitches.rest(allocation.held.stitch, stream, epoch)
        self._active -= allocation.size

    def _is_idle(self, block: Block) -> bool:
        free = block.state is BlockState.FREE and not block.small
        return free and self._fences.passed(block.stream, block.epoch)
