"""Sequences of which only some layers' KV is in memory (LayerKV, arXiv 2410.00428).

    groups of layers    0     1     2     3     4     5     6     7
    resident                  █           █           █           █      evenly interleaved
    away                ▒░    ·     ▒░    ·     ·▽    ·     ·▽    ·

While a step computes group 0, its rows are mapped (▒) and those of the next group that is away
are on their way up (░); once computed, new rows go down (▽) and the chunks serve the next but one.
So a sequence needs chunks for its resident groups and two more, and copying hides behind computing.

Where the device runs behind the host, layers are launched ahead of it.  Each copy waits by a fence
for the kernels that were launched before it: down, until they have written the rows; up, until they
have done with the group whose chunks it overwrites.  The host waits in two places, both in `enter`:
for rows on their way up, so that kernels find them, and for the rows of the last group but one to
be safe below, whose chunks are wanted.  A step's ferry has to `finish` before the next is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from ellm.core.errors import DriverError
from ellm.core.layers import KvTable
from ellm.kv.parking import Whereabouts
from ellm.kv.store import Holding, LayeredStore
from ellm.memory.block import Block, BlockState, BlockTransfer
from ellm.memory.tiers import Tiers
from ellm.memory.transfer import TransferState

# Groups that are away and mapped at once: one being computed, one being fetched.
WINDOWS = 2


def resident_groups(groups: int, count: int) -> tuple[int, ...]:
    """`count` of `groups`, spread so that a fetch can hide behind each: 4 of 8 are 1 3 5 7."""
    return tuple(int((place + 0.5) * groups / count) for place in range(count))


@dataclass(slots=True, eq=False)
class Layered(Generic[Holding]):
    """One sequence: `tokens` computed, room below for `capacity`, groups `away` below.

    `blocks` has a block for each group that is away and was written; `fetching` the transfers
    that bring them all back, when they are.  The step being planned counts on what is mapped of
    one that is `aboard`.
    """

    holding: Holding
    away: tuple[int, ...]
    capacity: int
    tokens: int = 0
    blocks: dict[int, Block] = field(default_factory=dict)
    fetching: list[BlockTransfer] = field(default_factory=list)
    lost: bool = False
    aboard: bool = False

    @property
    def can_sink(self) -> bool:
        """Whether its groups may go below now."""
        return self.tokens > 0 and not self.fetching and not self.aboard


class LayeredLot(Generic[Holding]):
    """Layered sequences of a store, by id."""

    def __init__(self, store: LayeredStore[Holding], tiers: Tiers) -> None:
        self._store = store
        self._tiers = tiers
        self._layered: dict[int, Layered[Holding]] = {}

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._layered

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._layered))

    def __len__(self) -> int:
        return len(self._layered)

    def table(self, seq_id: int) -> KvTable:
        return self._store.table(self._layered[seq_id].holding)

    def tokens(self, seq_id: int) -> int:
        return self._layered[seq_id].tokens

    def bytes_away(self, resident: int, tokens: int) -> int:
        """Bytes that go below of `tokens` tokens with so many groups resident."""
        return (self._store.groups - resident) * tokens * self._store.row_bytes

    def most_resident(self, tokens: int, chunks: int) -> int:
        """How many groups can stay when `chunks` are to be had; negative if windows do not fit."""
        each = self._store.chunks_in_group(tokens)
        return min(self._store.groups, chunks // each - WINDOWS)

    @property
    def below(self) -> int:
        """Bytes of their blocks."""
        return sum(b.size for each in self._layered.values() for b in each.blocks.values())

    def open(self, seq_id: int, resident: int, capacity: int) -> bool:
        """A sequence with nothing computed, `resident` of whose groups stay; False: not now."""
        groups = self._store.groups
        stay = resident_groups(groups, resident) if resident else ()
        away = tuple(group for group in range(groups) if group not in stay)
        if len(away) * capacity * self._store.row_bytes > self._tiers.free:
            return False
        holding = self._store.open_layered()
        if holding is None:
            return False
        self._layered[seq_id] = Layered(holding, away, capacity)
        return True

    def missing(self, seq_id: int, tokens: int) -> int:
        """Chunks that `cover(seq_id, tokens)` would take."""
        each = self._layered[seq_id]
        return sum(self._store.missing_in_group(each.holding, g, tokens) for g in self._near(each))

    def cover(self, seq_id: int, tokens: int) -> bool:
        """Map what a step needs that computes up to `tokens`: resident groups, and windows.

        They stay until the step has ended, or `disembark` says that it will not be.
        """
        each = self._layered[seq_id]
        assert tokens <= each.capacity, (tokens, each.capacity)
        each.aboard = all(
            self._store.cover_group(each.holding, g, tokens) for g in self._near(each)
        )
        return each.aboard

    def disembark(self) -> None:
        """No step is being planned that counts on anything."""
        for each in self._layered.values():
            each.aboard = False

    def _near(self, each: Layered[Holding]) -> list[int]:
        stay = [group for group in range(self._store.groups) if group not in each.away]
        return [*stay, *each.away[:WINDOWS]]

    def hold(self, seq_id: int, still: bool) -> None:
        """Whether what is resident of a sequence must stay, as it is to be completed."""
        self._layered[seq_id].aboard = still

    def missing_at_all(self, seq_id: int) -> int:
        """Chunks that bringing every group back would take."""
        each = self._layered[seq_id]
        groups = range(self._store.groups)
        return sum(self._store.missing_in_group(each.holding, g, each.tokens) for g in groups)

    def bring_back(self, seq_id: int) -> bool:
        """Begin to bring every group back, whose chunks are there; False if some could not be."""
        each = self._layered[seq_id]
        for group in range(self._store.groups):
            if not self._store.cover_group(each.holding, group, each.tokens):
                self.drop_windows(each)
                return False
        each.fetching = [
            self._tiers.get(block, self._store.group_extents(each.holding, group, 0, each.tokens))
            for group, block in each.blocks.items()
        ]
        return True

    def collect(self, seq_id: int) -> Holding | None:
        """The rows once every group is back: a holding like any other.  None: not yet, or lost."""
        each = self._layered[seq_id]
        if any(transfer.pending for transfer in each.fetching):
            return None
        if any(transfer.state is not TransferState.DONE for transfer in each.fetching):
            each.lost = True
            return None
        del self._layered[seq_id]
        for block in each.blocks.values():
            self._tiers.drop(block)
        self._store.complete(each.holding, each.tokens)
        return each.holding

    def where(self, seq_id: int) -> Whereabouts | None:
        """None for a sequence that has nothing here."""
        each = self._layered.get(seq_id)
        if each is None:
            return None
        if each.lost:
            return Whereabouts.LOST
        return Whereabouts.RETURNING if each.fetching else Whereabouts.LAYERED

    def wait(self) -> bool:
        """Return when something on its way back is there; False if nothing was."""
        for each in self._layered.values():
            transfer = next((t for t in each.fetching if t.pending), None)
            if transfer is not None:
                self._tiers.wait(transfer)
                return True
        return False

    @property
    def resident(self) -> int:
        """Chunks of groups that could go below as well."""
        return sum(
            self._store.mapped_chunks(each.holding)
            for each in self._layered.values()
            if each.can_sink
        )

    def release(self, count: int) -> int:
        """Send resident groups below and wait for it, until `count` chunks are free; how many."""
        freed = 0
        for each in self._layered.values():
            if each.can_sink:
                for group in range(self._store.groups):
                    if freed >= count:
                        return freed
                    freed += self._sink(each, group)
        return freed

    def _sink(self, each: Layered[Holding], group: int) -> int:
        """Send one resident group below; how many chunks became free.

        One that finds no room there is lost, and the sequence with it: `count` is wanted now.
        """
        if group in each.away or each.lost:
            return self._store.drop_group(each.holding, group)
        rows = self._store.group_extents(each.holding, group, 0, each.tokens)
        block = self._tiers.put(rows, room=each.capacity * self._store.row_bytes)
        if block is not None:
            each.blocks[group] = block
            self._tiers.wait(block)
            self._tiers.poll()
        each.lost |= block is None or block.state is not BlockState.READY
        each.away = tuple(sorted((*each.away, group)))
        return self._store.drop_group(each.holding, group)

    def forget(self, seq_id: int) -> None:
        """Nobody needs it any more; twice is harmless."""
        each = self._layered.pop(seq_id, None)
        if each is None:
            return
        for block in each.blocks.values():
            self._tiers.drop(block)
        self._store.close(each.holding)

    def drop_windows(self, each: Layered[Holding]) -> None:
        """Give up the rows of groups that are away, which are safe below."""
        for group in each.away:
            self._store.drop_group(each.holding, group)

    def ferry(self, parts: Mapping[int, tuple[int, int]]) -> Ferry:
        """For a step that computes tokens [start, stop) of each sequence."""
        passengers = {
            seq_id: Passenger(self, self._store, self._tiers, self._layered[seq_id], start, stop)
            for seq_id, (start, stop) in parts.items()
        }
        return Ferry(passengers, self._store.layers_per_group)


class Passenger(Generic[Holding]):
    """One layered sequence during one step.  Everything happens on the engine's thread."""

    def __init__(
        self,
        lot: LayeredLot[Holding],
        store: LayeredStore[Holding],
        tiers: Tiers,
        layered: Layered[Holding],
        start: int,
        stop: int,
    ) -> None:
        self._lot, self._store, self._tiers, self._layered = lot, store, tiers, layered
        self._start, self._stop = start, stop
        self._coming: dict[int, BlockTransfer] = {}
        self._going: dict[int, Callable[[], bool]] = {}
        for group in layered.away[:WINDOWS]:
            self._fetch(group)

    def board(self, group: int) -> None:
        """`group` is about to be computed: its rows are there on return."""
        if group not in self._layered.away:
            return
        transfer = self._coming.pop(group, None)
        if transfer is not None:
            self._tiers.wait(transfer)
            self._tiers.poll()
            self._layered.lost |= transfer.state is not TransferState.DONE
        place = self._layered.away.index(group)
        ahead = place + WINDOWS - 1
        if place and ahead < len(self._layered.away):
            self._give_way(self._layered.away[place - 1])
            self._open(self._layered.away[ahead])

    def alight(self, group: int) -> None:
        """`group` has been computed: its new rows go down."""
        each = self._layered
        if group not in each.away or each.lost:
            return
        rows = self._store.group_extents(each.holding, group, self._start, self._stop)
        block = each.blocks.get(group)
        if block is None:
            block = self._tiers.put(rows, room=each.capacity * self._store.row_bytes)
            if block is None:
                each.lost = True
                return
            each.blocks[group] = block
            self._going[group] = lambda: self._written(block)
        else:
            update = self._tiers.update(block, self._start * self._store.row_bytes, rows)
            self._going[group] = lambda: self._updated(update)

    def finish(self) -> bool:
        """Wait until all is safe below, and give the windows up; False if something was lost."""
        for group in list(self._going):
            self._give_way(group)
        self._lot.drop_windows(self._layered)
        self._layered.tokens, self._layered.aboard = self._stop, False
        return not self._layered.lost

    def _fetch(self, group: int) -> None:
        block = self._layered.blocks.get(group)
        if block is not None and self._start:
            rows = self._store.group_extents(self._layered.holding, group, 0, self._start)
            self._coming[group] = self._tiers.get(block, rows)

    def _open(self, group: int) -> None:
        """Map the rows of `group` with the chunks that another has just given up."""
        try:
            mapped = self._store.cover_group(self._layered.holding, group, self._stop)
        except DriverError:
            mapped = False
        assert mapped, f"no chunks for layer group {group}, though another gave its own up"
        self._fetch(group)

    def _give_way(self, group: int) -> None:
        """Wait until the new rows of `group` are safe, and give its chunks up."""
        is_safe = self._going.pop(group, None)
        if is_safe is not None and not is_safe():
            self._layered.lost = True
        self._store.drop_group(self._layered.holding, group)

    def _written(self, block: Block) -> bool:
        self._tiers.wait(block)
        self._tiers.poll()
        return block.state is BlockState.READY

    def _updated(self, update: BlockTransfer) -> bool:
        self._tiers.wait(update)
        self._tiers.poll()
        return update.state is TransferState.DONE


class Ferry:
    """core.executor.Ferry for the layered sequences of one step."""

    def __init__(self, passengers: dict[int, Passenger[Any]], layers_per_group: int) -> None:
        self._passengers = passengers
        self._per_group = layers_per_group

    def enter(self, layer: int) -> None:
        group, inner = divmod(layer, self._per_group)
        if inner == 0:
            for passenger in self._passengers.values():
                passenger.board(group)

    def leave(self, layer: int) -> None:
        group, inner = divmod(layer, self._per_group)
        if inner == self._per_group - 1:
            for passenger in self._passengers.values():
                passenger.alight(group)

    def finish(self) -> list[int]:
        """The step has ended; sequences whose KV was lost on the way."""
        return [seq_id for seq_id, one in self._passengers.items() if not one.finish()]
