"""Where bytes go when they leave the pool, and come back from.

    device memory   ── put, update ──▶  top: pinned host memory     (only below a device)
                    ◀───── get ──────     │ spill, when room is short   ▲ promote, when read
                                          ▼                             │
                                        base: a file on disk, or accounts

Copies run beside the engine.  A caller begins one and keeps the memory it named as it is until
the end, of which `poll` tells; nothing changes but in calls, which one thread makes.

The memory may still be in use by work that a device was given before the call: a fence is recorded
in the call, and no byte moves before it has passed.

    compute   … kernel writes rows │ kernels that touch none of them …
    host              put ─ fence ─┘        what it launches until the end touches none either
    copier            sleeps ······└ copies ─┤ READY: now rows may be unmapped, chunks reused

So a copy down has what kernels wrote, and a copy up overwrites nothing that they still read:
neither through these rows nor through older mappings of the same chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ellm.core.errors import DriverError
from ellm.memory.block import Block, BlockState, BlockTransfer, Purpose
from ellm.memory.extents import Access, Extent, HostAccess, Region
from ellm.memory.fences import Fence, fence_now
from ellm.memory.level import Level
from ellm.memory.store import HostMemoryStore, Place, Store
from ellm.memory.tier_log import TierLog
from ellm.memory.transfer import Copier, Direction, TransferState
from ellm.obs.tiers import TierStats

# Of the top's room, the part that spilling keeps free for what comes next.
_SPARE_SHARE = 8


class Tiers:
    """Blocks in `top` (None: there is none) and `base`; `access` reaches the memory above.

    `fence` marks the moment after all work given to the device so far; None where work is done
    when the call returns, as on the host.  What it is given is its own: `close` closes stores,
    copier and access too.
    """

    def __init__(
        self,
        base: Store,
        access: Access,
        copier: Copier,
        top: HostMemoryStore | None = None,
        fence: Callable[[], Fence] | None = None,
    ) -> None:
        self._base: Level[Store, Block] = Level(base)
        self._top: Level[HostMemoryStore, Block] | None = None if top is None else Level(top)
        self._levels: list[Level[Store, Block]] = [lv for lv in (self._top, self._base) if lv]
        self._access = access
        self._fence = fence
        self._host = HostAccess()
        self._copier = copier
        self._ended: list[BlockTransfer] = []
        self._backlog = dict.fromkeys(Direction, 0)
        self._spill: BlockTransfer | None = None
        self._spills_fail = False
        self._log = TierLog()

    @property
    def stats(self) -> TierStats:
        return self._log.stats

    @property
    def capacity(self) -> int:
        """Bytes there is room for, in use or free."""
        return sum(level.capacity for level in self._levels)

    @property
    def used(self) -> int:
        return self.capacity - self.free

    @property
    def free(self) -> int:
        """Bytes no block has.  One block must fit into what one level has of them."""
        return sum(level.free for level in self._levels)

    @property
    def write_bandwidth(self) -> float:
        """Bytes a second of late, where the next block would go."""
        return self._next_level.writes.rate

    @property
    def read_bandwidth(self) -> float:
        """Bytes a second of late, where the next block would go."""
        return self._next_level.reads.rate

    def store_seconds(self, size: int) -> float:
        """How long until a block of `size` bytes that is put now is READY, as far as one knows."""
        return (self._backlog[Direction.DOWN] + size) / self.write_bandwidth

    def load_seconds(self, block: Block, size: int) -> float:
        """How long until `size` bytes of `block` that are got now are up, as far as one knows."""
        return (self._backlog[Direction.UP] + size) / block.level.reads.rate

    def put(self, extents: Sequence[Extent], room: int = 0) -> Block | None:
        """Begin to copy the extents down, into a block of their size, or of `room` if larger.

        None: no room now.  Until the block is no longer WRITING, or is dropped, the caller keeps
        the extents mapped and unchanged.
        """
        source = Region(self._access, extents)
        assert source.size > 0, extents
        size = max(source.size, room)
        found = self._allot(size)
        if found is None:
            self._log.refused()
            return None
        level, place = found
        block = Block(size, source.size, level, place)
        level.tenants[block] = None
        write = partial(level.store.write, place, 0, source)
        fence = fence_now(self._fence)
        self._submit(BlockTransfer(block, Purpose.PUT, source.size, write, fence=fence))
        self._make_spare_room()
        return block

    def update(self, block: Block, offset: int, extents: Sequence[Extent]) -> BlockTransfer:
        """Begin to copy the extents over the block's bytes from `offset`, at most its `filled`.

        The extents are kept as for `put`, until the transfer has ended.  If it fails, the bytes
        it meant are undefined, `filled` may go back, and the rest of the block is as before.
        """
        source = Region(self._access, extents)
        assert block.state in (BlockState.WRITING, BlockState.READY), block
        assert 0 <= offset <= block.filled, (offset, block)
        assert 0 < source.size <= block.size - offset, (offset, source.size, block)
        self._stop_spill(block)
        block.filled = max(block.filled, offset + source.size)

        def write() -> Iterator[int]:
            return block.level.store.write(block.place, offset, source)

        fence = fence_now(self._fence)
        transfer = BlockTransfer(block, Purpose.UPDATE, source.size, write, fence=fence)
        self._submit(transfer)
        return transfer

    def get(self, block: Block, extents: Sequence[Extent], offset: int = 0) -> BlockTransfer:
        """Begin to copy the block's bytes from `offset` up, into extents nobody touches from now.

        If it fails, the extents' bytes are undefined and the block is FAILED.
        """
        target = Region(self._access, extents)
        assert block.state in (BlockState.WRITING, BlockState.READY), block
        assert 0 < target.size <= block.filled - offset, (offset, target.size, block)
        self._stop_spill(block)
        transfer = self._promotion(block, target) if target.size == block.filled else None
        if transfer is None:

            def read() -> Iterator[int]:
                return block.level.store.read(block.place, offset, target)

            fence = fence_now(self._fence)
            transfer = BlockTransfer(block, Purpose.GET, target.size, read, fence=fence)
        block.level.tenants.move_to_end(block)
        self._submit(transfer)
        return transfer

    def cancel(self, transfer: BlockTransfer) -> None:
        """Stop a `get`; when this returns, no copy of it touches the caller's memory."""
        assert transfer.purpose is Purpose.GET, transfer.purpose
        self._settle()
        if transfer.pending:
            self._withdraw(transfer)

    def drop(self, block: Block) -> None:
        """Forget the block; when this returns, no copy of it touches the caller's memory.

        Twice is harmless.
        """
        self._settle()
        if block.state is BlockState.DROPPED:
            return
        while block.transfers:
            self._withdraw(block.transfers[-1])
        if block.state is not BlockState.FAILED:
            self._vacate(block)
        block.state = BlockState.DROPPED
        self._spills_fail = False

    def poll(self) -> list[BlockTransfer]:
        """The transfers that were done or failed, not cancelled, since this was last asked."""
        self._settle()
        ended, self._ended = self._ended, []
        return ended

    def wait(self, what: Block | BlockTransfer) -> None:
        """Return when a transfer, or every transfer of a block, has ended; `poll` tells of it."""
        block = what if isinstance(what, Block) else what.block
        while block.transfers if what is block else what.state is TransferState.PENDING:
            self._copier.wait(block.transfers[0])
            self._settle()

    def trim(self) -> None:
        """Give back to the machine the room that no block is in, as far as it takes it."""
        for level in self._levels:
            try:
                level.trim()
            except (OSError, DriverError) as error:
                self._log.stuck(level.store.name, str(error))

    def close(self) -> None:
        """Drop everything.  Twice is harmless."""
        for level in self._levels:
            for block in list(level.tenants):
                self.drop(block)
        self._copier.close()
        for level in self._levels:
            level.store.close()
        self._access.close()

    def check(self) -> None:
        """The books balance."""
        places: dict[int, list[Place]] = {id(level): [] for level in self._levels}
        backlog = dict.fromkeys(Direction, 0)
        for level in self._levels:
            for block in level.tenants:
                assert block.level is level, block
                assert block.state in (BlockState.WRITING, BlockState.READY), block
                assert len(block.place.pieces) * block.place.piece_bytes >= block.size, block
                places[id(level)].append(block.place)
                for transfer in block.transfers:
                    assert transfer.pending, transfer.state
                    backlog[transfer.direction] += transfer.size
                    if transfer.target is not None:
                        places[id(transfer.target[0])].append(transfer.target[1])
        for level in self._levels:
            level.check(places[id(level)])
        assert backlog == self._backlog, (backlog, self._backlog)

    @property
    def _next_level(self) -> Level[Store, Block]:
        """Where the next block would go."""
        return next((level for level in self._levels if level.free), self._base)

    def _allot(self, size: int) -> tuple[Level[Store, Block], Place] | None:
        for level in self._levels:
            place = level.allot(size)
            if place is not None:
                return level, place
            if level.refusal is not None:
                self._log.short(level.store.name, level.refusal)
        return None

    def _submit(self, transfer: BlockTransfer) -> None:
        self._backlog[transfer.direction] += transfer.size
        line = transfer.block.transfers
        line.append(transfer)
        if line[0] is transfer:
            self._copier.submit(transfer)

    def _withdraw(self, transfer: BlockTransfer) -> None:
        """End a pending transfer now, wherever it is in line."""
        line = transfer.block.transfers
        first = line[0] is transfer
        if first:
            self._copier.cancel(transfer)
        transfer.state = TransferState.CANCELLED
        line.remove(transfer)
        self._backlog[transfer.direction] -= transfer.size
        if transfer.target is not None:
            level, place = transfer.target
            level.give_back(place)
        if transfer is self._spill:
            self._spill = None
        self._log.cancelled(transfer)
        if first and line:
            self._copier.submit(line[0])

    def _settle(self) -> None:
        for transfer in self._copier.ended():
            assert isinstance(transfer, BlockTransfer), transfer
            self._finish(transfer)

    def _finish(self, transfer: BlockTransfer) -> None:
        """Draw the consequences of a transfer that was done or failed."""
        block, error = transfer.block, transfer.error
        assert block.transfers.popleft() is transfer, block
        self._backlog[transfer.direction] -= transfer.size
        self._log.ended(transfer)
        if transfer.target is not None:
            self._arrive(transfer, *transfer.target)
        if transfer.purpose is Purpose.SPILL:
            self._spill = None
            self._spills_fail = error is not None
        else:
            self._ended.append(transfer)
        if transfer.purpose is Purpose.PUT and error is None:
            block.state = BlockState.READY
        elif transfer.purpose in (Purpose.PUT, Purpose.GET) and error is not None:
            self._lose(block, error)
        elif transfer.purpose is Purpose.UPDATE and not block.transfers:
            block.filled = block.place.filled
        if block.transfers:
            self._copier.submit(block.transfers[0])
        else:
            self._make_spare_room()
        if error is not None and not isinstance(error, OSError | DriverError):
            raise error

    def _arrive(self, transfer: BlockTransfer, level: Level[Store, Block], place: Place) -> None:
        """The block of a spill or promotion has moved, if that went well."""
        block = transfer.block
        if transfer.error is not None:
            level.give_back(place)
            return
        self._vacate(block)
        block.level, block.place = level, place
        level.tenants[block] = None

    def _lose(self, block: Block, error: Exception) -> None:
        """The block is FAILED, and so is everything that was still to be done with it."""
        self._vacate(block)
        block.state = BlockState.FAILED
        while block.transfers:
            transfer = block.transfers.popleft()
            transfer.state, transfer.error = TransferState.FAILED, error
            self._backlog[transfer.direction] -= transfer.size
            self._log.ended(transfer)
            if transfer.target is not None:
                level, place = transfer.target
                level.give_back(place)
            self._ended.append(transfer)

    def _vacate(self, block: Block) -> None:
        block.level.give_back(block.place)
        del block.level.tenants[block]

    def _promotion(self, block: Block, target: Region) -> BlockTransfer | None:
        """A get of a whole block on disk that leaves it in the top; None if it cannot stay."""
        top, base = self._top, self._base
        if top is None or block.level is top:
            return None
        place = top.allot(block.size)
        if place is None:
            return None
        extents = top.store.extents(place, target.size)
        if extents is None:
            top.give_back(place)
            return None
        staged = Region(self._host, extents)

        def read() -> Iterator[int]:
            yield from base.store.read(block.place, 0, staged)
            place.filled = target.size
            for _ in top.store.read(place, 0, target):
                yield 0

        fence = fence_now(self._fence)
        return BlockTransfer(block, Purpose.GET, target.size, read, (top, place), fence)

    def _make_spare_room(self) -> None:
        """Begin to move the block that was used least lately from the top to the base."""
        top = self._top
        if top is None or self._spill is not None or self._spills_fail:
            return
        if top.free >= top.capacity // _SPARE_SHARE:
            return
        block = next((b for b in top.tenants if not b.transfers), None)
        if block is None:
            return
        place = self._base.allot(block.size)
        if place is None:
            return
        extents = top.store.extents(block.place, block.filled)
        assert extents is not None, block
        staged = Region(self._host, extents)
        write = partial(self._base.store.write, place, 0, staged)
        target = (self._base, place)
        self._spill = BlockTransfer(block, Purpose.SPILL, block.filled, write, target)
        self._submit(self._spill)

    def _stop_spill(self, block: Block) -> None:
        """A block that is wanted again stays where it is."""
        if self._spill is not None and self._spill.block is block:
            self._settle()
            if self._spill is not None:
                self._withdraw(self._spill)
