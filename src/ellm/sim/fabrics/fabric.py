"""Links that join devices, and how long a collective takes over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ellm.core.errors import ConfigError
from ellm.sim.fabrics.collective import Collective
from ellm.sim.fabrics.discovery import find_collective
from ellm.sim.fabrics.measured import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """One kind of link, the same between any two devices.

    bandwidth   peak of one device, bytes/s each way; 0 for a fabric that joins nobody
    efficiency  the share of it that collectives reach
    launch      seconds before the first byte leaves
    latency     seconds of one step
    measured    by collective and number of devices
    sources     where each figure is from
    """

    name: str
    bandwidth: float
    efficiency: float
    launch: float
    latency: float
    measured: Mapping[str, Mapping[int, Measured]]
    sources: Mapping[str, str]

    def seconds(self, collective: str, devices: int, size_bytes: float) -> float:
        """How long `collective` of a message of `size_bytes` takes among `devices`.

        The size is what nccl-tests calls so (see the collective's own file).  Where the collective
        was measured see `_read_off`; elsewhere it takes

            launch + steps × latency + size × bus factor / (bandwidth × efficiency)

        Raises ConfigError for a collective that is not known, or a fabric that joins nobody.
        """
        assert devices >= 1, devices
        assert size_bytes >= 0, size_bytes
        kind = find_collective(collective)
        if devices == 1:
            return 0.0
        if not self.bandwidth:
            raise ConfigError(
                f"fabric {self.name} joins no devices, and {collective} wants {devices}: "
                "name another fabric"
            )
        if collective in self.measured:
            return self._read_off(kind, devices, size_bytes)
        if kind.like is not None:
            return self.seconds(kind.like, devices, size_bytes)
        moving = size_bytes * kind.bus_factor(devices) / (self.bandwidth * self.efficiency)
        return self.launch + kind.steps(devices) * self.latency + moving

    def _read_off(self, kind: Collective, devices: int, size: float) -> float:
        """Between numbers of devices that were measured: from the nearest smaller one, for the
        message that makes a device send as many bytes there, with the further steps of the larger
        group, up to what the next larger number takes."""
        rows = self.measured[kind.name]
        if devices in rows:
            return rows[devices].at(size)
        near = max((count for count in rows if count < devices), default=min(rows))
        alike = size * kind.bus_factor(devices) / kind.bus_factor(near)
        further = max(0, kind.steps(devices) - kind.steps(near))
        bounds = [rows[count].at(size) for count in rows if count > max(devices, near)]
        return min([rows[near].at(alike) + further * self.latency, *bounds])
