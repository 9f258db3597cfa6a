"""Tiers against a naive model, under random operations, failures of the disk and corruption.

The model knows nothing of pieces, levels, lines or checksums: a block is its bytes, some of which
a failed update has made unknown.  Memory above is slots that are free, or held by one transfer.

Where there is a stream, what fills memory is work of the stream, and a slot may be written by a get
only from when the stream has come to its fence: who copies before finds, or leaves, wrong bytes.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field

from fake_stream import Pace
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tier_scene import BASE_PIECES, BY_HAND, PIECE, SCENES

from ellm.memory.block import Block, BlockState, BlockTransfer, Purpose
from ellm.memory.extents import Extent
from ellm.memory.transfer import TransferState

SLOT = 1024
WORLDS = {name: make for name, make in SCENES.items() if "fenced" not in name}
WORLDS |= {f"{name}, by hand": make for name, make in BY_HAND.items()}
which = st.integers(0, 10**6)
seeds = st.integers(0, 10**6)


@dataclass(eq=False)
class Kept:
    """What a block should hold; `unknown` are the bytes that a failed update meant."""

    block: Block
    data: bytearray
    unknown: bytearray
    going_down: bytes


@dataclass(eq=False)
class Pending:
    """A transfer under way, and the memory it may touch."""

    kept: Kept
    extents: list[Extent]
    slots: list[int]
    offset: int = 0
    data: bytes = b""


@dataclass
class Ram:
    """What the memory above should hold, slot by slot, and who holds the slot."""

    shadow: bytearray
    taken: set[int] = field(default_factory=set)
    targets: set[int] = field(default_factory=set)


class Tiering(RuleBasedStateMachine):
    @initialize(name=st.sampled_from(sorted(WORLDS)))
    def build(self, name: str) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.scene = WORLDS[name](self.directory.name)
        self.tiers = self.scene.tiers
        self.ram = Ram(bytearray(self.scene.size))
        self.scene.put_there(bytes(self.ram.shadow), [(self.scene.address, self.scene.size)])
        self.kept: list[Kept] = []
        self.pending: dict[BlockTransfer, Pending] = {}
        self.puts: dict[Block, Pending] = {}
        self.troubled = False
        for seed in range(3):
            self.put(3000 * (seed + 1), PIECE, seed, True)

    def teardown(self) -> None:
        if not hasattr(self, "scene"):
            return
        for kept in self.kept:
            self.tiers.drop(kept.block)
        self.tiers.check()
        assert self.tiers.used == 0
        self.tiers.trim()
        assert self.scene.disk.held(self.scene.disk.file) == 0
        self.scene.close()
        self.directory.cleanup()

    def room(self, size: int, seed: int) -> tuple[list[Extent], list[int]] | None:
        """Memory for `size` bytes, in a few pieces here and there; None if too much is held."""
        dice = random.Random(seed)
        free = [s for s in range(self.scene.size // SLOT) if s not in self.ram.taken]
        dice.shuffle(free)
        extents, slots = [], []
        while size and free:
            slot = free.pop()
            count = min(size, dice.choice((SLOT, SLOT, 100)))
            shift = dice.randrange(SLOT - count + 1)
            extents.append((self.scene.address + slot * SLOT + shift, count))
            slots.append(slot)
            size -= count
        return None if size else (extents, slots)

    def fill(self, extents: list[Extent], data: bytes) -> None:
        self.scene.stream.launch(lambda: self.fill_now(extents, data))

    def fill_now(self, extents: list[Extent], data: bytes) -> None:
        self.scene.put_there(data, extents)
        for address, count in extents:
            at = address - self.scene.address
            self.ram.shadow[at : at + count] = data[:count]
            data = data[count:]

    def release(self, pending: Pending) -> None:
        """Its memory is the caller's again: nobody may write there from now on."""
        self.ram.taken.difference_update(pending.slots)

        def reclaim() -> None:
            self.ram.targets.difference_update(pending.slots)
            self.fill_now(pending.extents, b"\xaa" * sum(count for _, count in pending.extents))

        self.scene.stream.launch(reclaim)

    def peek(self, extents: list[Extent]) -> bytes:
        """What is there now, however far the stream has come."""
        return b"".join(self.scene.driver.copy_out(*extent) for extent in extents)

    def pick(self, index: int) -> Kept | None:
        usable = [k for k in self.kept if k.block.state in (BlockState.WRITING, BlockState.READY)]
        return usable[index % len(usable)] if usable else None

    @rule(
        size=st.integers(1, 4 * PIECE + 9),
        more=st.sampled_from((0, 0, PIECE)),
        seed=seeds,
        patient=st.booleans(),
    )
    def put(self, size: int, more: int, seed: int, patient: bool) -> None:
        found = self.room(size, seed)
        if found is None:
            return
        extents, slots = found
        data = random.Random(seed).randbytes(size)
        self.fill(extents, data)
        free = [level.free for level in self.tiers._levels]
        block = self.tiers.put(extents, size + more)
        if block is None:
            assert all(size + more > room for room in free)
            return
        assert any(size + more <= room for room in free)
        self.ram.taken.update(slots)
        kept = Kept(block, bytearray(size), bytearray(size), data)
        self.kept.append(kept)
        self.puts[block] = Pending(kept, extents, slots)
        if patient:
            self.scene.stream.drain()
            self.tiers.wait(block)
            self.poll(0)

    @rule(
        index=which,
        size=st.integers(1, 2 * PIECE),
        where=st.sampled_from(("end", "anywhere", "start of a piece")),
        seed=seeds,
        patient=st.booleans(),
    )
    def update(self, index: int, size: int, where: str, seed: int, patient: bool) -> None:
        kept = self.pick(index)
        if kept is None:
            return
        block = kept.block
        offset = block.filled if where == "end" else random.Random(seed).randrange(block.filled)
        if where == "start of a piece":
            offset -= offset % PIECE
        size = min(size, block.size - offset)
        found = self.room(size, seed)
        if found is None or not size:
            return
        extents, slots = found
        data = random.Random(seed + 1).randbytes(size)
        self.fill(extents, data)
        self.ram.taken.update(slots)
        transfer = self.tiers.update(block, offset, extents)
        self.pending[transfer] = Pending(kept, extents, slots, offset, data)
        if patient:
            self.scene.stream.drain()
            self.tiers.wait(transfer)
            self.poll(0)

    @rule(
        index=which,
        size=st.integers(1, 4 * PIECE),
        whole=st.booleans(),
        seed=seeds,
        patient=st.booleans(),
    )
    def get(self, index: int, size: int, whole: bool, seed: int, patient: bool) -> None:
        kept = self.pick(index)
        if kept is None:
            return
        filled = kept.block.filled
        offset = 0 if whole else random.Random(seed).randrange(filled)
        size = filled if whole else min(size, filled - offset)
        found = self.room(size, seed)
        if found is None:
            return
        extents, slots = found
        self.ram.taken.update(slots)
        self.scene.stream.launch(lambda: self.ram.targets.update(slots))
        transfer = self.tiers.get(kept.block, extents, offset)
        self.pending[transfer] = Pending(kept, extents, slots, offset)
        if patient:
            self.scene.stream.drain()
            self.tiers.wait(transfer)
            self.poll(0)

    @rule(index=which)
    def drop(self, index: int) -> None:
        if not self.kept:
            return
        kept = self.kept.pop(index % len(self.kept))
        self.tiers.drop(kept.block)
        for transfer, pending in list(self.pending.items()):
            if pending.kept is kept:
                del self.pending[transfer]
                self.release(pending)
        if kept.block in self.puts:
            self.release(self.puts.pop(kept.block))

    @rule(index=which)
    def cancel(self, index: int) -> None:
        gets = [t for t in self.pending if t.purpose is Purpose.GET and t.pending]
        if gets:
            transfer = gets[index % len(gets)]
            self.tiers.cancel(transfer)
            if transfer.state is TransferState.CANCELLED:
                self.release(self.pending.pop(transfer))

    @rule(seconds=st.floats(0, 8))
    def poll(self, seconds: float) -> None:
        self.scene.clock.advance(seconds)
        for transfer in self.tiers.poll():
            self.hear(transfer)

    @rule(index=which, of_block=st.booleans())
    def wait(self, index: int, of_block: bool) -> None:
        transfers = list(self.pending)
        self.scene.stream.drain()  # a device gets on while its host waits
        if of_block and self.kept:
            block = self.kept[index % len(self.kept)].block
            self.tiers.wait(block)
            assert not block.transfers
            assert block.state is not BlockState.WRITING
        elif transfers:
            self.tiers.wait(transfers[index % len(transfers)])
            assert not transfers[index % len(transfers)].pending

    def hear(self, transfer: BlockTransfer) -> None:
        """Draw the consequences in the model."""
        failed = transfer.state is TransferState.FAILED
        assert not failed or self.troubled, transfer.error
        if transfer.block.state is BlockState.DROPPED:
            return
        if transfer.purpose is Purpose.PUT:
            pending = self.puts.pop(transfer.block)
            pending.kept.data[:] = pending.kept.going_down
            self.release(pending)
            return
        pending = self.pending.pop(transfer)
        kept, offset, stop = pending.kept, pending.offset, pending.offset + transfer.size
        if transfer.purpose is Purpose.UPDATE:
            more = stop - len(kept.data)
            kept.data.extend(bytes(max(0, more)))
            kept.unknown.extend(bytes(max(0, more)))
            kept.data[offset:stop] = pending.data
            kept.unknown[offset:stop] = bytes([failed]) * transfer.size
        elif not failed:
            found = self.peek(pending.extents)
            for got, want, unknown in zip(
                found, kept.data[offset:stop], kept.unknown[offset:stop], strict=True
            ):
                assert unknown or got == want
        self.release(pending)

    @rule(kind=st.sampled_from(("write", "read")), at=st.integers(1, 3))
    def let_the_disk_fail(self, kind: str, at: int) -> None:
        self.scene.disk.arm(kind, at)
        self.troubled = True

    @rule(piece=st.integers(0, BASE_PIECES - 1), byte=st.integers(0, PIECE - 1))
    def corrupt(self, piece: int, byte: int) -> None:
        self.scene.disk.corrupt(piece * PIECE + byte)
        self.troubled = True

    @rule(count=st.integers(1, 6))
    def let_the_stream_get_on(self, count: int) -> None:
        self.scene.stream.advance(count)

    @rule()
    def let_work_fail(self) -> None:
        if self.scene.stream.pace is Pace.BY_HAND:
            self.scene.stream.fail()
            self.troubled = True

    @rule()
    def trim(self) -> None:
        self.tiers.trim()

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "scene"):
            return
        self.tiers.check()
        now = self.peek([(self.scene.address, self.scene.size)])
        for slot in set(range(self.scene.size // SLOT)) - self.ram.targets:
            at = slot * SLOT
            assert now[at : at + SLOT] == self.ram.shadow[at : at + SLOT], slot


Tiering.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestTiering = Tiering.TestCase
