"""A machine whose processor computes: how the engine divides its memory (llm/build.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ellm.core.plan import StepShape
from ellm.memory.budget import choose_chunk_bytes, default_budget
from ellm.sim.anatomy.transformer import Transformer
from ellm.sim.devices.device import Device
from ellm.sim.file_tier import FileTier
from ellm.sim.native_room import NativeRoom

# What Linux sets vm.max_map_count to.
_USUAL_MAPPINGS = 65_530


@dataclass(frozen=True, slots=True)
class Host:
    """`budget` bytes are used where none are named; the kernel allows so many `mappings`.

    `threads` compute with native kernels, None where it is not known or others do.  `tier` is the
    file below, None where it was not measured.
    """

    budget: int
    mappings: int = _USUAL_MAPPINGS
    threads: int | None = None
    tier: FileTier | None = None

    @classmethod
    def of(cls, device: Device) -> Host | None:
        """What a device is that has no memory of its own; None for one that has."""
        if device.host_bandwidth < device.bandwidth:
            return None
        return cls(default_budget(device.memory))

    def chunk_bytes(self, budget: int, useful: int) -> int:
        """For a budget of which models can use so many bytes."""
        return choose_chunk_bytes(min(budget, useful), self.mappings)

    def room(self, transformer: Transformer, itemsize: int) -> Callable[[StepShape], int] | None:
        """What a step takes beside KV, to the byte; None where that is not known."""
        if self.threads is None:
            return None
        return NativeRoom.of(transformer, itemsize, self.threads)
