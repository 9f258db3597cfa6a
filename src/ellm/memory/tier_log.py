"""What became of transfers: counted every time, said once."""

from __future__ import annotations

import logging

from ellm.memory.block import BlockTransfer, Purpose
from ellm.memory.transfer import Direction
from ellm.obs.tiers import TierStats

_log = logging.getLogger("ellm.memory")


class TierLog:
    """Enters what has ended into `stats` and into the meters of its level.

    Each kind of trouble is one warning, however often it comes: a full disk is no reason to fill
    the log as well.
    """

    def __init__(self) -> None:
        self.stats = TierStats()
        self._warned: set[str] = set()

    def ended(self, transfer: BlockTransfer) -> None:
        """A transfer was done, or failed.  Called before its block moves."""
        if transfer.error is not None:
            self._failed(transfer)
        elif transfer.purpose is Purpose.SPILL:
            self.stats.spills += 1
            self.stats.spill_bytes += transfer.size
        elif transfer.purpose is Purpose.GET:
            self.stats.loads += 1
            self.stats.load_bytes += transfer.size
            self.stats.load_time += transfer.seconds
            self.stats.promotions += transfer.target is not None
            transfer.block.level.reads.add(transfer.size, transfer.seconds)
        else:
            self.stats.stores += 1
            self.stats.store_bytes += transfer.size
            self.stats.store_time += transfer.seconds
            if transfer.purpose is Purpose.UPDATE:
                self.stats.updates += 1
            else:
                transfer.block.level.writes.add(transfer.size, transfer.seconds)

    def cancelled(self, transfer: BlockTransfer) -> None:
        if transfer.purpose is not Purpose.SPILL:
            self.stats.cancelled += 1

    def refused(self) -> None:
        """A block found no room."""
        self.stats.refusals += 1

    def short(self, name: str, reason: str) -> None:
        """The machine does not back the room that `name` should have."""
        self._warn(f"{name} takes no more", reason)

    def stuck(self, name: str, reason: str) -> None:
        """The machine does not take room back that `name` has no use for."""
        self._warn(f"{name} keeps room that is free", reason)

    def _failed(self, transfer: BlockTransfer) -> None:
        level = transfer.block.level
        if transfer.purpose is Purpose.SPILL and transfer.target is not None:
            level = transfer.target[0]
            self.stats.spill_failures += 1
        elif transfer.purpose is Purpose.GET:
            self.stats.load_failures += 1
        else:
            self.stats.store_failures += 1
        way = "reading from" if transfer.direction is Direction.UP else "writing to"
        self._warn(f"{way} {level.store.name} failed", str(transfer.error))

    def _warn(self, what: str, reason: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s (%s); this is said once, and counted each time", what, reason)
