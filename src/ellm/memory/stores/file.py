"""Pieces of one nameless file, checksummed.

    file    ├ piece 0 ┼ piece 1 ┼ piece 2 ┼ ··· hole ··· ┼ piece n-1 ┤
    staging           ├─── one step ──────┤   copied, summed, written (or the other way round)

Bytes go through a small staging buffer each way, because disks want aligned memory and because
nothing that fails its checksum shall reach its target.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Sequence

from ellm.core.errors import ConfigError
from ellm.core.units import KIB, MIB, format_bytes, round_up
from ellm.memory.disk import Disk
from ellm.memory.extents import Access, HostBuffer, Region
from ellm.memory.store import Place

_ALIGN = 4096
# A disk filled to the brim breaks other programs.
_SPARE = 64 * MIB

_log = logging.getLogger("ellm.memory")


class FileStore:
    """At most `capacity` bytes of disk in `directory`; None takes the system's for such files.

    `access` provides the staging buffers, of `step_bytes` each way: large, because each step costs
    a few turns of waiting for the interpreter while it is busy.  Raises ConfigError where no file
    can be made.
    """

    name = "disk"

    def __init__(
        self,
        capacity: int,
        access: Access,
        directory: str | None = None,
        *,
        piece_bytes: int = 256 * KIB,
        step_bytes: int = 4 * MIB,
        bandwidth: float = 1e9,
        disk: Disk | None = None,
    ) -> None:
        assert piece_bytes % _ALIGN == 0, piece_bytes
        assert step_bytes % piece_bytes == 0, (step_bytes, piece_bytes)
        self.piece_bytes = piece_bytes
        self.pieces = capacity // piece_bytes
        self.bandwidth = bandwidth
        self._access = access
        self._disk = Disk() if disk is None else disk
        self._step_bytes = step_bytes
        self.directory = _choose_directory(self._disk) if directory is None else directory
        if self._disk.is_memory(self.directory):
            _log.warning(
                "%s is memory, not a disk: what is offloaded there still takes memory; "
                "name a directory on a disk",
                self.directory,
            )
        try:
            self._file, self._direct = self._disk.open(self.directory)
        except OSError as error:
            raise ConfigError(
                f"cannot make a file for offloading in {self.directory} ({error}): "
                "name another directory"
            ) from error
        self._sums = array("I", bytes(4 * self.pieces))
        self._stages: dict[str, HostBuffer] = {}

    def refuses(self, place: Place, used: int) -> str | None:
        need = len(place.pieces) * self.piece_bytes
        # What is in use, or soon will be, is counted whether the disk has it behind it yet or not.
        backed = self._disk.held(self._file) - used * self.piece_bytes
        left = self._disk.left(self._file) + backed - _SPARE
        if need <= left:
            return None
        return f"{self.directory} has {format_bytes(max(0, left))} of disk left to take"

    def write(self, place: Place, offset: int, source: Region) -> Iterator[int]:
        place.require(offset)
        stage = self._stage("write")
        for at in place.windows(offset, offset + source.size, self._is_one_step):
            old = min(at.end, place.filled)
            # Pieces that keep some of their bytes are read first.
            if at.begin < at.start:
                self._fetch(place, at.low, at.low + 1, stage, 0)
            if at.stop < old and (at.high - at.low > 1 or at.begin == at.start):
                skip = (at.high - 1 - at.low) * self.piece_bytes
                self._fetch(place, at.high - 1, at.high, stage, skip)
            source.read(at.start - offset, at.stop - offset, stage.address + at.start - at.begin)
            size = max(at.stop, old) - at.begin
            sums = self._sum(stage, 0, size)
            first = place.pieces[at.low]
            self._disk.write(
                self._file, stage.view[: round_up(size, _ALIGN)], first * self.piece_bytes
            )
            self._forget(first, size)
            # Not before: a piece that was torn by a failure must not pass for the new one.
            self._sums[first : first + len(sums)] = sums
            place.filled = max(place.filled, at.stop)
            yield at.stop - at.start

    def read(self, place: Place, offset: int, target: Region) -> Iterator[int]:
        stop = offset + target.size
        place.require(stop)
        stage = self._stage("read")
        for at in place.windows(offset, stop, self._is_one_step):
            self._fetch(place, at.low, at.high, stage, 0)
            target.write(at.start - offset, at.stop - offset, stage.address + at.start - at.begin)
            yield at.stop - at.start

    def trim(self, free: Sequence[tuple[int, int]], used: int) -> None:
        size = self.piece_bytes
        if not used:  # so nothing is copied either
            self._free_stages()
            self._disk.truncate(self._file)
        elif self._disk.held(self._file) > used * size:
            runs = [(start * size, (stop - start) * size) for start, stop in free]
            self._disk.punch(self._file, runs)

    def close(self) -> None:
        if self._file < 0:
            return
        self._disk.close(self._file)
        self._file = -1
        self._free_stages()

    def _is_one_step(self, first: int, last: int) -> bool:
        return (last - first + 1) * self.piece_bytes <= self._step_bytes

    def _free_stages(self) -> None:
        for stage in self._stages.values():
            self._access.free(stage)
        self._stages.clear()

    def _stage(self, use: str) -> HostBuffer:
        if use not in self._stages:
            self._stages[use] = self._access.allocate(self._step_bytes)
        return self._stages[use]

    def _fetch(self, place: Place, low: int, high: int, stage: HostBuffer, skip: int) -> None:
        """Adjacent pieces [low, high) of `place`, as far as they are written, checked."""
        size = min(high * self.piece_bytes, place.filled) - low * self.piece_bytes
        first = place.pieces[low]
        self._disk.read(
            self._file,
            stage.view[skip : skip + round_up(size, _ALIGN)],
            first * self.piece_bytes,
        )
        self._forget(first, size)
        for piece, found in enumerate(self._sum(stage, skip, size), first):
            if found != self._sums[piece]:
                raise OSError(errno.EBADMSG, f"piece {piece} fails its checksum")

    def _sum(self, stage: HostBuffer, skip: int, size: int) -> array[int]:
        """The checksum of each piece that lies in `size` bytes of the stage after `skip`."""
        view, end = stage.view, skip + size
        starts = range(skip, end, self.piece_bytes)
        return array("I", (zlib.crc32(view[s : min(end, s + self.piece_bytes)]) for s in starts))

    def _forget(self, first: int, size: int) -> None:
        """Page cache counts as memory of this process's group: keep none of it."""
        if not self._direct:
            self._disk.push_out(self._file, first * self.piece_bytes, round_up(size, _ALIGN))


def _choose_directory(disk: Disk) -> str:
    """Where temporary files go; if that is memory, /var/tmp where it is a disk."""
    usual = tempfile.gettempdir()
    other = "/var/tmp"
    if disk.is_memory(usual) and os.access(other, os.W_OK) and not disk.is_memory(other):
        return other
    return usual
